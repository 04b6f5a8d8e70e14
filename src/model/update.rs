//! What every training step begins and ends with: cleared gradients; global norm, clipping and Adam.

use crate::ops::loss_scaling::{self, LossScaling};
use crate::ops::optimizer::{Adam, BLOCK, CLEARED, Clear, Cleared, ClipFactor, SquaredNorm};
use crate::plan::{ParameterRange, PlanBuilder};
use crate::tensor::{Element, Role, Rows, TensorId};

/// Elements of a parameter range at most: 64 MiB, half of the binding limit every adapter has.
pub const RANGE_LIMIT: usize = 16 << 20;

/// The optimiser of `docs/spec.md` §3.7 and §3.8.
#[derive(Clone, Copy, Debug)]
pub struct OptimizerOptions {
    pub clip_norm: f32,
    pub adam_beta1: f32,
    pub adam_beta2: f32,
    pub adam_epsilon: f32,
    pub weight_decay: f32,
}

impl Default for OptimizerOptions {
    /// The reference's values.
    fn default() -> Self {
        OptimizerOptions {
            clip_norm: 1.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-6,
            weight_decay: 0.01,
        }
    }
}

/// Clears the gradients of `ranges`, and `others` with them.
pub fn clear_all(builder: &mut PlanBuilder, ranges: &[ParameterRange], others: &[Cleared]) {
    let gradient =
        |(tensor, elements): (TensorId, usize)| Cleared { tensor, elements, element: Element::Float };
    let gradients = builder.gradients(ranges, RANGE_LIMIT).into_iter();
    let all: Vec<Cleared> = gradients.map(gradient).chain(others.iter().copied()).collect();
    for tensors in all.chunks(CLEARED) {
        builder.push("clear", Clear { tensors: tensors.to_vec() });
    }
}

/// Norm of all gradients, clip factor, and Adam on every range; in half precision also the next step's loss scale.
/// `metrics` receives norm, factor and flag.
pub fn update(
    builder: &mut PlanBuilder,
    ranges: &[ParameterRange],
    metrics: TensorId,
    options: &OptimizerOptions,
) {
    // Of all ranks, where several share the moments: each sums up its own, and is told the others'.
    let bounds = builder.numbers_by_rank(RANGE_LIMIT, |elements| elements.div_ceil(BLOCK));
    let blocks = bounds.last().copied().unwrap_or(0);
    let mut first = bounds[builder.rank()];
    let name = "gradient_norm.partials";
    let partials = builder.tensor(name, Rows::fixed(blocks), 1, Element::Float, Role::Activation);
    builder.share_partials(partials, bounds);
    for range in ranges {
        let op = SquaredNorm { gradient: range.gradient, elements: range.elements, partials, first };
        builder.push("gradient_norm", op);
        first += range.elements.div_ceil(BLOCK);
    }
    let clip_norm = options.clip_norm;
    builder.push("clip", ClipFactor { partials, count: blocks, metrics, clip_norm });
    if builder.is_half() {
        let rows = Rows::fixed(loss_scaling::STATE);
        let state = builder.tensor("loss_scaling", rows, 1, Element::Float, Role::Metric);
        builder.loss_scale(state);
        builder.push("loss_scaling", LossScaling { state, metrics, interval: loss_scaling::INTERVAL });
    }
    for range in ranges {
        builder.push(
            "adam",
            Adam {
                value: range.value,
                gradient: range.gradient,
                first_moment: range.first_moment,
                second_moment: range.second_moment,
                metrics,
                elements: range.elements,
                beta1: options.adam_beta1,
                beta2: options.adam_beta2,
                epsilon: options.adam_epsilon,
                weight_decay: if range.decays { options.weight_decay } else { 0.0 },
                rate: range.rate,
            },
        );
    }
}
