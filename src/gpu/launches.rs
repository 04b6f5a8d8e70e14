//! How many kernels a step launches on a GPU, and how many of them wait for others: from the plan alone, no device is
//! touched.

use std::collections::HashMap;
use std::ops::AddAssign;

use anyhow::Result;
use serde::Serialize;

use crate::ops::Dispatch;
use crate::plan::{Access, Phase, Plan};
use crate::tensor::Extents;

use super::{Capabilities, Selection, selector, sums};

/// Kernels launched, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Launches {
    pub dispatches: usize,
    /// Of these, how many begin behind a barrier: they write what one before them touched, or read what one wrote. Each
    /// costs the time in which the device runs empty. wgpu tracks whole buffers.
    pub barriers: usize,
}

impl AddAssign for Launches {
    fn add_assign(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.barriers += other.barriers;
    }
}

/// What one run of a phase launches, with the kernels that the selector takes for these capabilities.
pub fn launches(
    plan: &Plan,
    phase: Phase,
    capabilities: &Capabilities,
    extents: &Extents,
) -> Result<Launches> {
    let mut count = Counter::default();
    let groups = &plan.sum_groups;
    for op in plan.phase(phase) {
        let candidate = selector::select(plan.candidates(op)?, capabilities, Selection::Best)?;
        for dispatch in &candidate.dispatches {
            count.dispatch(plan, op, dispatch, extents)?;
        }
        let summed = match groups.iter().find(|group| group.ops.contains(&op)) {
            Some(group) if group.last() == op => &group.ops[..],
            Some(_) => &[],
            None => &[op],
        };
        for sums in sums::dispatches(plan, summed, capabilities)? {
            let partials = sums.tensors.iter().map(|&tensor| (plan.placement(tensor).buffer, false));
            count.add(partials.chain([(sums.buffer, true)]));
        }
    }
    Ok(count.launches)
}

/// Follows the use of buffers as wgpu does.
#[derive(Default)]
struct Counter {
    launches: Launches,
    /// Whether the last dispatch that touched a buffer wrote it.
    written: HashMap<usize, bool>,
}

impl Counter {
    fn dispatch(&mut self, plan: &Plan, op: usize, dispatch: &Dispatch, extents: &Extents) -> Result<()> {
        if dispatch.grid.workgroups(extents) > 0 {
            let bound = plan.bound(op, dispatch)?;
            let touched = bound
                .iter()
                .map(|binding| (plan.placement(binding.tensor).buffer, binding.access == Access::ReadWrite));
            self.add(touched);
        }
        Ok(())
    }

    fn add(&mut self, touched: impl Iterator<Item = (usize, bool)>) {
        let mut waits = false;
        for (buffer, writes) in touched {
            waits |= self.written.insert(buffer, writes).is_some_and(|written| written || writes);
        }
        self.launches += Launches { dispatches: 1, barriers: waits.into() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_do_not_wait_for_readers() {
        let mut count = Counter::default();
        count.add([(0, false), (1, true)].into_iter());
        count.add([(0, false), (2, true)].into_iter());
        assert_eq!(count.launches, Launches { dispatches: 2, barriers: 0 });
        count.add([(1, false), (3, true)].into_iter());
        count.add([(0, true)].into_iter());
        count.add([(3, true)].into_iter());
        assert_eq!(count.launches, Launches { dispatches: 5, barriers: 3 });
    }
}
