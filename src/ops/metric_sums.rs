//! Sums of per-row results into the step's metrics.

use crate::tensor::{Extents, Rows, TensorId};

use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Io, Kernels, Memory, Requirements, Scalar};
use super::{read, write};

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

    fn io(&self) -> Io {
        Io { reads: vec![self.source], updates: vec![self.metrics], ..Io::default() }
    }

    fn flops(&self, _: &Extents) -> f64 {
        0.0
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

impl Kernels for MetricSums {
    fn candidates(&self) -> Vec<Candidate> {
        let mut immediates = self.rows.immediates().to_vec();
        immediates.extend(self.targets.map(|target| target as u32));
        vec![Candidate {
            strategy: "one workgroup",
            requires: Requirements::default(),
            dispatches: vec![Dispatch {
                shader: "metric_sums",
                constants: vec![],
                bindings: vec![read(self.source), write(self.metrics)],
                immediates,
                grid: Grid(vec![Count::Fixed(1)]),
            }],
        }]
    }
}
