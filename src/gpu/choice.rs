//! The kernels of a plan: which candidate of every op, checked before anything is allocated or compiled.

use anyhow::{Context, Result, bail, ensure};

use crate::files::size;
use crate::ops::Dispatch;
use crate::plan::{Access, Bound, Plan};

use super::capabilities::IMMEDIATE_BYTES;
use super::sizes::check_sizes;
use super::{Capabilities, Gpu, Selection, selector};

/// How the kernels are chosen and compiled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub selection: Selection,
    /// Test every index in the kernels and clear workgroup memory: slower, for tests.
    pub checked: bool,
}

/// The candidate chosen for an op.
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "only an executor reads all of it"))]
pub(super) struct Chosen {
    pub strategy: &'static str,
    /// It rounds operands that are f32 to f16.
    pub rounds: bool,
    pub dispatches: Vec<(Dispatch, Vec<Bound>)>,
}

/// One candidate for every op of the plan.
///
/// # Errors
/// A limit of an op's kernels that the plan is beyond, a dispatch that the device cannot hold, or that binds what its
/// op does not declare: by name, without a device being touched.
pub(super) fn choose(gpu: &Gpu, plan: &Plan, options: Options) -> Result<Vec<Chosen>> {
    choose_for(&gpu.capabilities, Some(gpu), plan, options)
}

/// Whether an adapter can hold the plan, memory aside: fails where `gpu`, which is it where it is open, could not run it.
pub fn check_plan(capabilities: &Capabilities, gpu: Option<&Gpu>, plan: &Plan) -> Result<()> {
    choose_for(capabilities, gpu, plan, Options::default()).map(|_| ())
}

/// The strategy of each op that an executor of this device would have, in order: nothing is compiled.
///
/// # Errors
/// As [`check_plan`].
pub fn strategies(gpu: &Gpu, plan: &Plan) -> Result<Vec<&'static str>> {
    Ok(choose(gpu, plan, Options::default())?.iter().map(|chosen| chosen.strategy).collect())
}

fn choose_for(
    capabilities: &Capabilities,
    gpu: Option<&Gpu>,
    plan: &Plan,
    options: Options,
) -> Result<Vec<Chosen>> {
    if plan.is_half() && !capabilities.half {
        bail!("{} has no half precision (SHADER_F16): use precision f32", capabilities.name);
    }
    check_sizes(capabilities, plan)?;
    let capabilities = if plan.is_half() { capabilities.clone() } else { capabilities.without_half() };
    let choose = |op: usize| {
        let all = plan.candidates(op)?;
        let tuned = match options.selection {
            Selection::Best => gpu.and_then(|gpu| gpu.tuned(&plan.signature(op), &all, &capabilities)),
            Selection::Nth(_) => None,
        };
        let candidate = match tuned {
            Some(candidate) => candidate,
            None => selector::select(all, &capabilities, options.selection)
                .with_context(|| plan.ops[op].label.clone())?,
        };
        let rounds = candidate.requires.half && plan.ops[op].reads_exact_operands(&plan.tensors);
        let mut dispatches = Vec::with_capacity(candidate.dispatches.len());
        for dispatch in candidate.dispatches {
            let bound = plan.bound(op, &dispatch)?;
            let place = || format!("{}: kernel {}", plan.ops[op].label, dispatch.shader);
            check(plan, &dispatch, &bound, &capabilities).with_context(place)?;
            dispatches.push((dispatch, bound));
        }
        Ok(Chosen { strategy: candidate.strategy, rounds, dispatches })
    };
    (0..plan.ops.len()).map(choose).collect()
}

/// What wgpu would find only at the first submission, and without a tensor's name.
fn check(plan: &Plan, dispatch: &Dispatch, bound: &[Bound], capabilities: &Capabilities) -> Result<()> {
    let words = dispatch.immediates.words.len();
    ensure!(4 * words <= IMMEDIATE_BYTES as usize, "{words} words of immediates, 32 at most");
    fold(dispatch.grid.most(), capabilities.workgroups as usize)?;
    let buffer = |tensor| plan.placement(tensor).buffer;
    let name = |tensor| plan.info(tensor).name.as_str();
    for binding in bound {
        let (length, most) = (plan.placement(binding.tensor).length as u64, capabilities.binding_bytes);
        ensure!(length > 0, "{} has no elements", name(binding.tensor));
        let bytes = length * plan.info(binding.tensor).element.bytes();
        ensure!(
            bytes <= most,
            "{} ({}) exceeds the {} that {} can bind: try a smaller micro_batch",
            name(binding.tensor),
            size(bytes),
            size(most),
            capabilities.name
        );
        let writer = bound.iter().find(|other| {
            other.access == Access::ReadWrite && buffer(other.tensor) == buffer(binding.tensor)
        });
        if let (Access::Read, Some(writer)) = (binding.access, writer) {
            bail!("reads {} and writes {} in one buffer", name(binding.tensor), name(writer.tensor));
        }
    }
    Ok(())
}

/// Folds a number of workgroups into two dimensions of at most `limit`. The product may exceed the number:
/// kernels return where theirs is beyond their work.
pub(super) fn fold(workgroups: usize, limit: usize) -> Result<[u32; 2]> {
    let y = workgroups.div_ceil(limit);
    if y > limit {
        bail!("{workgroups} workgroups are more than a grid can hold: try a smaller micro_batch");
    }
    Ok([workgroups.div_ceil(y) as u32, y as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_into_two_dimensions() {
        assert_eq!(fold(1, 65_535).unwrap(), [1, 1]);
        assert_eq!(fold(65_535, 65_535).unwrap(), [65_535, 1]);
        for n in [65_536, 65_537, 3 * 65_536 + 1, 10_000_019] {
            let [x, y] = fold(n, 65_535).unwrap();
            assert!((x * y) as usize >= n && x <= 65_535 && y <= 65_535, "{n}: {x}×{y}");
            assert!((x * y) as usize - n < y as usize, "{n}: {x}×{y} wastes");
        }
        assert!(fold(65_535 * 65_535 + 1, 65_535).is_err());
    }
}
