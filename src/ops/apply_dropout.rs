//! Dropout alone, where no norm takes it along: before the last layer of a head.

use rayon::prelude::*;

use crate::tensor::{Dropout, Rows, TensorId};

use super::Kind::{Activation, Uint};
use super::dropout::RowDropout;
use super::immediates::{DropoutWords, RowsColumns, immediates};
use super::lanes::Lanes;
use super::simd;
use super::tensor_use::{read, write};
use super::{Candidate, CpuOp, Describe, Dispatch, Kernels, Memory, Scalar, TensorUse, bind};

/// Rows a task of the CPU computes.
const TASK_ROWS: usize = 64;

/// output = input × factor, each factor 0 or the dropout's scale; a copy where dropout is off.
///
/// Its own backward: applied to the gradient of the output, with the same site, it draws the same factors.
#[derive(Clone, Debug)]
pub struct ApplyDropout {
    /// `[R, C]`
    pub input: TensorId,
    /// `[R, C]`, written.
    pub output: TensorId,
    /// u32 `[R]`: coordinates of the draws, position within the sequence and local sequence; only read where
    /// dropout is on.
    pub positions: TensorId,
    pub sequences: TensorId,
    pub rows: Rows,
    pub columns: usize,
    pub dropout: Dropout,
}

impl Describe for ApplyDropout {
    fn name(&self) -> &'static str {
        "apply_dropout"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        let mut tensors = vec![
            read("input", self.input, Activation, (rows, columns)),
            write("output", self.output, Activation, (rows, columns)),
        ];
        if self.dropout.is_on() {
            tensors.push(read("positions", self.positions, Uint, (rows, 1)));
            tensors.push(read("sequences", self.sequences, Uint, (rows, 1)));
        }
        tensors
    }
}

impl<S: Scalar> CpuOp<S> for ApplyDropout {
    fn run(&self, memory: &Memory<'_, S>) {
        let c = self.columns;
        let elements = self.rows.count(&memory.extents()) * c;
        let dropout = RowDropout::new(memory, self.dropout, Some(self.positions), Some(self.sequences));
        let input = memory.read(self.input)[..elements].par_chunks(TASK_ROWS * c);
        let output = memory.write(self.output)[..elements].par_chunks_mut(TASK_ROWS * c);
        output.zip(input).enumerate().for_each(|(task, (output, input))| {
            output.copy_from_slice(input);
            let Some(dropout) = &dropout else { return };
            simd(
                #[inline(always)]
                || {
                    for (row, values) in output.chunks_exact_mut(c).enumerate() {
                        dropout.apply(task * TASK_ROWS + row, values);
                    }
                },
            )
        });
    }
}

immediates! {
    struct Immediates {
        shape: RowsColumns,
        dropout: DropoutWords,
    }
}

impl Kernels for ApplyDropout {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let mut constants = lanes.constants();
        constants.push(("DROPOUT", u32::from(self.dropout.is_on())));
        let mut bindings = bind([self.input, self.output]);
        if self.dropout.is_on() {
            bindings.extend(bind([self.positions, self.sequences]));
        }
        let shape = RowsColumns::new(self.rows, self.columns);
        let immediates = Immediates { shape, dropout: self.dropout.into() }.into();
        let dispatch = Dispatch {
            shader: "apply_dropout",
            constants,
            bindings,
            immediates,
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}
