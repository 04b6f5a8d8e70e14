//! The sum of two tables: the discriminator's embeddings where they are the generator's and a delta (docs/spec.md §8).

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::Exact;
use super::immediates::RowsColumns;
use super::lanes::Lanes;
use super::simd;
use super::tensor_use::{read, write};
use super::{Candidate, CpuOp, Describe, Dispatch, Kernels, Memory, Scalar, TensorUse, bind};

/// Elements a task of the CPU computes.
const TASK_ELEMENTS: usize = 8192;

/// sum = base + delta. Its gradient is that of `delta`, and `base` gets none: no op goes back through it.
#[derive(Clone, Debug)]
pub struct TableSum {
    /// `[R, C]`
    pub base: TensorId,
    /// `[R, C]`
    pub delta: TensorId,
    /// `[R, C]`, written.
    pub sum: TensorId,
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for TableSum {
    fn name(&self) -> &'static str {
        "table_sum"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let shape = (self.rows, self.columns);
        vec![
            read("base", self.base, Exact, shape),
            read("delta", self.delta, Exact, shape),
            write("sum", self.sum, Exact, shape),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for TableSum {
    fn run(&self, memory: &Memory<'_, S>) {
        let elements = self.rows.count(&memory.extents()) * self.columns;
        let base = memory.read(self.base)[..elements].par_chunks(TASK_ELEMENTS);
        let delta = memory.read(self.delta)[..elements].par_chunks(TASK_ELEMENTS);
        let sum = memory.write(self.sum)[..elements].par_chunks_mut(TASK_ELEMENTS);
        sum.zip(base).zip(delta).for_each(|((sum, base), delta)| {
            simd(
                #[inline(always)]
                || {
                    for ((y, &a), &b) in sum.iter_mut().zip(base).zip(delta) {
                        *y = a + b;
                    }
                },
            )
        });
    }
}

impl Kernels for TableSum {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let dispatch = Dispatch {
            shader: "table_sum",
            constants: lanes.constants(),
            bindings: bind([self.base, self.delta, self.sum]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}
