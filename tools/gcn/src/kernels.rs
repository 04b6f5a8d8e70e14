//! The kernels of a pre-training step, as the selector would choose them for a card, with their work.

use std::collections::HashMap;

use anyhow::{Context, Result};
use inazuma::device::Room;
use inazuma::gpu::{Selection, selector};
use inazuma::ops::{Dispatch, Touch};
use inazuma::plan::{Bound, Phase, Plan};
use inazuma::tensor::{Element, Extents, Role};
use inazuma::train::config::{Sources, Surroundings, TrainConfig};
use inazuma::train::examples;

use crate::cards::Card;
use crate::predict::Work;

/// A distinct kernel with everything a step asks of it.
pub struct Kernel {
    pub dispatch: Dispatch,
    /// Element types of its bindings.
    pub elements: Vec<Element>,
    pub strategy: &'static str,
    /// Dispatches of a micro-batch, and of what happens once a step, each with its op's place in `Step::kinds`.
    pub per_micro: Vec<(Work, usize)>,
    pub per_step: Vec<(Work, usize)>,
}

/// The kernels of a step.
pub struct Step {
    pub kernels: Vec<Kernel>,
    /// Name and shape of ops, as `inazuma bench step --profile` prints them.
    pub kinds: Vec<(&'static str, String)>,
    pub half: bool,
    pub batch: usize,
    pub micro_batch: usize,
    pub length: usize,
    /// FLOPs of a micro-batch and of an update, as `--explain` has them.
    pub micro_flops: f64,
    pub update_flops: f64,
}

impl Step {
    pub fn new(sources: &Sources, vocab_size: usize, card: &Card) -> Result<Self> {
        let room = Room::adapter(card.capabilities());
        let surroundings = Surroundings { vocab_size, room: &room };
        let config = TrainConfig::resolve(sources.settings()?.0, surroundings)?;
        let plan = config.plan()?.plan;
        let extents = examples::full_extents(&config);
        let capabilities = card.capabilities();
        let capabilities = if plan.is_half() { capabilities } else { capabilities.without_half() };
        let mut kinds: Vec<(&'static str, String)> = Vec::new();
        let mut kernels: Vec<Kernel> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (index, op) in plan.ops.iter().enumerate() {
            let chosen = selector::select(plan.candidates(index)?, &capabilities, Selection::Best);
            let chosen = chosen.with_context(|| op.label.clone())?;
            let kind = (op.op.name(), plan.shapes(index));
            let kind = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            for dispatch in chosen.dispatches {
                let bound = plan.bound(index, &dispatch)?;
                let elements: Vec<Element> = bound.iter().map(|binding| binding.element).collect();
                let key = format!("{} {:?} {elements:?}", dispatch.shader, dispatch.constants);
                let work = work(&plan, index, &dispatch, &bound, &extents);
                let kernel = *known.entry(key).or_insert_with(|| {
                    let strategy = chosen.strategy;
                    kernels.push(Kernel {
                        dispatch,
                        elements,
                        strategy,
                        per_micro: vec![],
                        per_step: vec![],
                    });
                    kernels.len() - 1
                });
                match op.phase {
                    Phase::Micro => kernels[kernel].per_micro.push((work, kind)),
                    _ => kernels[kernel].per_step.push((work, kind)),
                }
            }
        }
        Ok(Step {
            kernels,
            kinds,
            half: plan.is_half(),
            batch: config.batch_size,
            micro_batch: config.micro_batch,
            length: config.max_length,
            micro_flops: plan.flops(Phase::Micro, &extents),
            update_flops: plan.flops(Phase::Update, &extents),
        })
    }

    pub fn micro_batches(&self) -> usize {
        self.batch.div_ceil(self.micro_batch)
    }
}

/// Whether it only adds up the partial sums of an op's first kernel.
pub fn adds_up(shader: &str) -> bool {
    matches!(shader, "matmul_sum_splits" | "attention_gradient_fused_sum")
}

/// The part of an op's FLOPs that a dispatch of it does, and that it does with what is computed anew. Where two kernels of
/// attention's backward share its five products, the first does three, the second four: both need q·kᵀ and dO·vᵀ.
fn shares(shader: &str) -> (f64, f64) {
    match shader {
        _ if adds_up(shader) => (0.0, 0.0),
        _ if shader.starts_with("attention_gradient_query") => (3.0 / 7.0, 3.0 / 5.0),
        _ if shader.starts_with("attention_gradient_key_value") => (4.0 / 7.0, 4.0 / 5.0),
        _ => (1.0, 1.0),
    }
}

fn work(plan: &Plan, op: usize, dispatch: &Dispatch, bound: &[Bound], extents: &Extents) -> Work {
    let op = &plan.ops[op];
    let workgroups = dispatch.grid.workgroups(extents) as f64;
    let (useful, done) = shares(dispatch.shader);
    let flops = op.op.flops(extents);
    // Every tensor once in every direction, as many rows as are in use; of a table that is looked up, no more rows
    // than there are tokens.
    let looked_up = op.phase == Phase::Micro && flops == 0.0;
    let bytes = bound.iter().map(|binding| {
        let info = plan.info(binding.tensor);
        let table = looked_up && matches!(info.role, Role::Parameter | Role::Gradient);
        let rows = info.rows.count(extents).min(if table { extents.tokens } else { usize::MAX });
        let passes = if binding.touch == Touch::Accumulate { 2.0 } else { 1.0 };
        info.element.bytes() as f64 * (rows * info.columns) as f64 * passes
    });
    let padded = match dispatch.shader.starts_with("matmul_") && done > 0.0 {
        true => padding(dispatch, flops, workgroups),
        false => 1.0,
    };
    Work { workgroups, flops: flops * useful, executed: flops * done * padded, bytes: bytes.sum() }
}

/// Elements of all tiles of a product over those of C; 1 where its tiles are not among its constants.
fn padding(dispatch: &Dispatch, flops: f64, workgroups: f64) -> f64 {
    let constant =
        |name| dispatch.constants.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, v)| f64::from(*v));
    if constant("BM") * constant("BN") == 0.0 {
        return 1.0;
    }
    let word = |name| dispatch.immediates.word(name).map_or(1.0, f64::from);
    let (n, inner, splits) = (word("n"), word("inner"), word("splits"));
    let m = if constant("FORM") == 2.0 { inner } else { flops / (2.0 * n * inner) };
    workgroups / splits * constant("BM") * constant("BN") / (m * n)
}
