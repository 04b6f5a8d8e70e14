//! Dynamic loss scaling (Micikevicius et al. 2018, Mixed Precision Training): gradients of half precision stay in
//! range because the losses are multiplied by a scale that follows them. Adam divides by it, and makes no step where
//! a gradient overflowed.

use crate::tensor::TensorId;

use super::Kind::Exact;
use super::immediates::immediates;
use super::optimizer::METRIC_REFUSED;
use super::tensor_use::{accumulate, flat, vector};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// The scale that a run begins with. Too high costs a few skipped steps.
const FIRST_SCALE: f32 = 65536.0;
pub const LOWEST_SCALE: f32 = super::constants::LOWEST_LOSS_SCALE as f32;
const HIGHEST_SCALE: f32 = super::constants::HIGHEST_LOSS_SCALE as f32;
/// Steps without overflow after which a higher scale is tried.
pub const INTERVAL: u32 = 1000;

/// Slots of the metrics tensor.
pub use super::constants::{METRIC_SCALE, METRIC_SKIPPED};

/// Elements of the state: scale, finite steps since it changed, steps skipped.
pub const STATE: usize = 3;

/// The state that a run begins with.
pub const FIRST_STATE: [f32; STATE] = [FIRST_SCALE, 0.0, 0.0];

/// state ← what the next step is scaled with. Once a step, after the clip factor.
#[derive(Clone, Debug)]
pub struct LossScaling {
    /// `[STATE]`, read and written; lives from step to step.
    pub state: TensorId,
    /// Receives the scale of this step, and whether it was skipped.
    pub metrics: TensorId,
    pub interval: u32,
}

impl Describe for LossScaling {
    fn name(&self) -> &'static str {
        "loss_scaling"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            accumulate("state", self.state, Exact, vector(STATE)),
            accumulate("metrics", self.metrics, Exact, flat(METRIC_SKIPPED + 1)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for LossScaling {
    fn run(&self, memory: &Memory<'_, S>) {
        let (state, metrics) = (memory.write(self.state), memory.write(self.metrics));
        let of = |x: f32| S::of(f64::from(x));
        let (scale, steps) = (state[0].to_f64() as f32, state[1].to_f64() as f32);
        metrics[METRIC_SCALE] = state[0];
        metrics[METRIC_SKIPPED] = metrics[METRIC_REFUSED];
        if metrics[METRIC_REFUSED] != S::ZERO {
            state[0] = of((scale * 0.5).max(LOWEST_SCALE));
            state[1] = S::ZERO;
            state[2] += S::ONE;
        } else if steps + 1.0 >= self.interval as f32 {
            state[0] = of((scale * 2.0).min(HIGHEST_SCALE));
            state[1] = S::ZERO;
        } else {
            state[1] += S::ONE;
        }
    }
}

immediates! {
    struct Immediates {
        interval: u32,
    }
}

impl Kernels for LossScaling {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = Dispatch {
            shader: "loss_scaling",
            constants: vec![],
            bindings: bind([self.state, self.metrics]),
            immediates: Immediates { interval: self.interval }.into(),
            grid: Grid(vec![Count::Fixed(1)]),
        };
        Candidate::only("single", dispatch)
    }
}
