//! Some rows of a tensor, picked by a list, and backward.

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::{Activation, Uint};
use super::immediates::RowsColumns;
use super::lanes::Lanes;
use super::tensor_use::{read, table, write};
use super::{Candidate, CpuOp, Describe, Dispatch, Kernels, Memory, Scalar, TensorUse, bind};

/// Rows a task of the CPU copies.
const TASK_ROWS: usize = 64;

/// What `GatherGradient::slots` holds of rows in no slot.
pub use super::constants::{NO_SLOT, PADDING};

/// output[m] = input[list[m]].
#[derive(Clone, Debug)]
pub struct Gather {
    /// `[T, C]`
    pub input: TensorId,
    /// u32 `[M]`: rows of `input`.
    pub list: TensorId,
    /// `[M, C]`, written.
    pub output: TensorId,
    /// Slots in use.
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("input", self.input, Activation, table(self.columns)),
            read("list", self.list, Uint, (self.rows, 1)),
            write("output", self.output, Activation, (self.rows, self.columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for Gather {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let input = memory.read(self.input);
        let list = memory.read_uint(self.list)[..rows].par_chunks(TASK_ROWS);
        let output = memory.write(self.output)[..rows * c].par_chunks_mut(TASK_ROWS * c);
        output.zip(list).for_each(|(output, list)| {
            for (to, &row) in output.chunks_exact_mut(c).zip(list) {
                to.copy_from_slice(&input[row as usize * c..][..c]);
            }
        });
    }
}

/// output[t] = gradient[slots[t]], or 0 where row t is in no slot: for every row in use.
#[derive(Clone, Debug)]
pub struct GatherGradient {
    /// `[M, C]`
    pub gradient: TensorId,
    /// u32 `[T]`: the slot of each row, or [`NO_SLOT`].
    pub slots: TensorId,
    /// `[T, C]`, written.
    pub output: TensorId,
    /// Rows of `output` in use.
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for GatherGradient {
    fn name(&self) -> &'static str {
        "gather_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("gradient", self.gradient, Activation, table(self.columns)),
            read("slots", self.slots, Uint, (self.rows, 1)),
            write("output", self.output, Activation, (self.rows, self.columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for GatherGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let gradient = memory.read(self.gradient);
        let slots = memory.read_uint(self.slots)[..rows].par_chunks(TASK_ROWS);
        let output = memory.write(self.output)[..rows * c].par_chunks_mut(TASK_ROWS * c);
        output.zip(slots).for_each(|(output, slots)| {
            for (to, &slot) in output.chunks_exact_mut(c).zip(slots) {
                match slot {
                    PADDING => to.fill(S::ZERO),
                    NO_SLOT => to.fill(S::ZERO),
                    slot => to.copy_from_slice(&gradient[slot as usize * c..][..c]),
                }
            }
        });
    }
}

impl Kernels for Gather {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let constants = lanes.constants();
        let dispatch = Dispatch {
            shader: "gather_forward",
            constants,
            bindings: bind([self.input, self.list, self.output]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}

impl Kernels for GatherGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let constants = lanes.constants();
        let dispatch = Dispatch {
            shader: "gather_gradient",
            constants,
            bindings: bind([self.gradient, self.slots, self.output]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}
