//! Sums of per-row results into the step's metrics.

use crate::tensor::{Rows, TensorId};

use super::Kind::Exact;
use super::immediates::{RowWords, immediates};
use super::tensor_use::{accumulate, flat, read};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// metrics[targets[k]] += Σ over rows of source[row, k], for the first three columns.
#[derive(Clone, Debug)]
pub struct MetricSums {
    /// `[R, 3]`.
    pub source: TensorId,
    pub metrics: TensorId,
    pub targets: [usize; 3],
    pub rows: Rows,
}

impl Describe for MetricSums {
    fn name(&self) -> &'static str {
        "metric_sums"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let places = self.targets.into_iter().max().unwrap_or(0) + 1;
        vec![
            read("source", self.source, Exact, (self.rows, 3)),
            accumulate("metrics", self.metrics, Exact, flat(places)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for MetricSums {
    fn run(&self, memory: &Memory<'_, S>) {
        let count = self.rows.count(&memory.extents());
        let source = &memory.read(self.source)[..count * 3];
        let metrics = memory.write(self.metrics);
        let mut sums = [0f64; 3];
        for row in source.chunks_exact(3) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x.to_f64();
            }
        }
        for (&target, sum) in self.targets.iter().zip(sums) {
            metrics[target] += S::of(sum);
        }
    }
}

immediates! {
    struct Immediates {
        rows: RowWords,
        target_0: u32,
        target_1: u32,
        target_2: u32,
    }
}

impl Kernels for MetricSums {
    fn candidates(&self) -> Vec<Candidate> {
        let [target_0, target_1, target_2] = self.targets.map(|target| target as u32);
        let immediates = Immediates { rows: self.rows.into(), target_0, target_1, target_2 };
        let dispatch = Dispatch {
            shader: "metric_sums",
            constants: vec![],
            bindings: bind([self.source, self.metrics]),
            immediates: immediates.into(),
            grid: Grid(vec![Count::Fixed(1)]),
        };
        Candidate::only("one workgroup", dispatch)
    }
}
