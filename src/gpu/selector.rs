//! Picks one of the ways to compute an op, against what an adapter can do. No device is touched here.

use anyhow::{Context, Result};

use crate::ops::{Candidate, Requirements};

use super::Capabilities;

/// Which candidate is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// What was measured to be fastest on this device, else the first that fits and suits its kind.
    #[default]
    Best,
    /// The n-th of those that fit, whether or not it suits; the last where there are fewer. For tests.
    Nth(usize),
}

/// Whether the adapter can run it at all. Zero means WebGPU's defaults, which every adapter has.
pub fn fits(requires: &Requirements, capabilities: &Capabilities) -> bool {
    requires.workgroup_memory <= capabilities.workgroup_memory
        && requires.invocations <= capabilities.invocations
        && requires.storage_buffers <= capabilities.storage_buffers
        && (!requires.subgroups || capabilities.subgroups)
        && (!requires.subgroup_barriers || capabilities.subgroup_barriers)
        && (!requires.half || capabilities.half)
        && requires.cooperative.is_none_or(|(size, lanes)| {
            capabilities.cooperative.contains(&size) && capabilities.lanes() == Some(lanes)
        })
}

fn suits(requires: &Requirements, capabilities: &Capabilities) -> bool {
    if capabilities.software { !requires.hardware } else { !requires.software }
}

/// The candidate with this strategy, where there is one and the adapter can run it.
pub fn named(candidates: &[Candidate], capabilities: &Capabilities, strategy: &str) -> Option<Candidate> {
    let wanted = |c: &&Candidate| c.strategy == strategy && fits(&c.requires, capabilities);
    candidates.iter().find(wanted).cloned()
}

/// The candidate to use.
pub fn select(
    candidates: Vec<Candidate>,
    capabilities: &Capabilities,
    selection: Selection,
) -> Result<Candidate> {
    let mut fitting: Vec<Candidate> =
        candidates.into_iter().filter(|candidate| fits(&candidate.requires, capabilities)).collect();
    let last = fitting.len().checked_sub(1).context("no kernel of this op fits the adapter")?;
    let index = match selection {
        Selection::Nth(n) => n.min(last),
        Selection::Best => {
            let suitable = |c: &Candidate| suits(&c.requires, capabilities);
            // A software adapter takes what was written for it, before what merely runs on it.
            let special = |c: &Candidate| capabilities.software && c.requires.software;
            let found = fitting.iter().position(special).or_else(|| fitting.iter().position(suitable));
            found.unwrap_or(last)
        }
    };
    Ok(fitting.swap_remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(strategy: &'static str, requires: Requirements) -> Candidate {
        Candidate { strategy, requires, dispatches: vec![] }
    }

    fn all() -> Vec<Candidate> {
        let default = Requirements::default();
        vec![
            candidate("subgroups", Requirements { subgroups: true, hardware: true, ..default }),
            candidate("tiled", Requirements { hardware: true, ..default }),
            candidate("plain", default),
            candidate("software", Requirements { software: true, ..default }),
        ]
    }

    #[test]
    fn takes_the_first_that_fits_and_suits() {
        let mut capabilities = Capabilities::baseline();
        let best =
            |capabilities: &Capabilities| select(all(), capabilities, Selection::Best).unwrap().strategy;
        assert_eq!(best(&capabilities), "tiled");
        capabilities.subgroups = true;
        assert_eq!(best(&capabilities), "subgroups");
        capabilities.software = true;
        assert_eq!(best(&capabilities), "software");
        let nth = |n| select(all(), &capabilities, Selection::Nth(n)).unwrap().strategy;
        assert_eq!((nth(0), nth(2), nth(9)), ("subgroups", "plain", "software"));
    }

    #[test]
    fn a_strategy_is_found_by_name_if_it_fits() {
        let mut capabilities = Capabilities::baseline();
        assert!(named(&all(), &capabilities, "subgroups").is_none());
        capabilities.subgroups = true;
        assert_eq!(named(&all(), &capabilities, "subgroups").unwrap().strategy, "subgroups");
        assert!(named(&all(), &capabilities, "gone").is_none());
    }

    #[test]
    fn cooperative_kernels_are_for_the_lanes_that_a_subgroup_has() {
        let requires = |lanes| Requirements { cooperative: Some((16, lanes)), ..Requirements::default() };
        let fitting = |capabilities: &Capabilities| {
            [8, 32, 64]
                .into_iter()
                .filter(|&lanes| fits(&requires(lanes), capabilities))
                .collect::<Vec<u32>>()
        };
        let mut capabilities = Capabilities { cooperative: vec![16], ..Capabilities::baseline() };
        capabilities.subgroup_sizes = [32, 32];
        assert_eq!(fitting(&capabilities), [32]);
        capabilities.subgroup_sizes = [32, 64];
        assert!(fitting(&capabilities).is_empty());
        capabilities.probed_lanes = Some(64);
        assert_eq!(fitting(&capabilities), [64]);
        assert!(fitting(&capabilities.without_half()).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_never_taken() {
        let large = Requirements { workgroup_memory: 32 << 10, ..Requirements::default() };
        assert!(
            select(vec![candidate("large", large)], &Capabilities::baseline(), Selection::Nth(0)).is_err()
        );
    }
}
