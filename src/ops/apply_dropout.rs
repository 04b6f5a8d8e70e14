//! Dropout alone, where no norm takes it along: before the last layer of a head.

use rayon::prelude::*;

use crate::tensor::{Dropout, Extents, Rows, TensorId};

use super::dropout::RowDropout;
use super::lanes::{Lanes, immediates};
use super::{Candidate, CpuOp, Describe, Dispatch, Io, Kernels, Memory, Requirements, Scalar};
use super::{read, simd, write};

/// Rows a task of the CPU computes.
const TASK_ROWS: usize = 64;

/// output = input × factor, each factor 0 or the dropout's scale; a copy where dropout is off.
///
/// Its own way back: applied to the gradient of the output, with the same site, it draws the same factors.
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

    fn io(&self) -> Io {
        let mut reads = vec![self.input];
        if self.dropout.is_on() {
            reads.extend([self.positions, self.sequences]);
        }
        Io { reads, writes: vec![self.output], ..Io::default() }
    }

    fn flops(&self, _: &Extents) -> f64 {
        0.0
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

impl Kernels for ApplyDropout {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let mut constants = lanes.constants();
        constants.push(("DROPOUT", u32::from(self.dropout.is_on())));
        let mut bindings = vec![read(self.input), write(self.output)];
        if self.dropout.is_on() {
            bindings.extend([read(self.positions), read(self.sequences)]);
        }
        let mut immediates = immediates(self.rows, self.columns);
        immediates.extend(self.dropout.immediates());
        let dispatch = Dispatch {
            shader: "apply_dropout",
            constants,
            bindings,
            immediates,
            grid: lanes.grid(self.rows),
        };
        vec![Candidate { strategy: "rows", requires: Requirements::default(), dispatches: vec![dispatch] }]
    }
}
