//! Steps whose numbers are no good: what tells them, and what may be done about them.
//!
//! The optimiser itself refuses such a step on the device (`ops::optimizer::ClipFactor`): parameters and moments stay as
//! they were. So whatever is decided here when the step's results arrive, some steps later, nothing was damaged.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::bail;
use serde::Serialize;

use crate::interop::checkpoint::State;
use crate::plan::IN_FLIGHT;

/// Norms that the running range is made of, and fewer than which make none.
const NORMS: usize = 64;
const FEW_NORMS: usize = 16;

/// Steps that are skipped one after another before skipping is given up, and rollbacks to one checkpoint.
pub const MOST_SKIPPED: u32 = 10;
pub const MOST_ROLLBACKS: usize = 3;

/// Why a step is no good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A loss or the norm of the gradients is infinite or not a number.
    NotFinite,
    /// The norm is finite, and beyond what the step was allowed.
    NormBeyondRange,
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::NotFinite => "a loss or gradient is infinite or not a number",
            Cause::NormBeyondRange => {
                "the norm of the gradients is far outside its running range (norm_factor)"
            }
        })
    }
}

/// What is done about such a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    Stop,
    Skip,
    Rollback,
}

impl OnDivergence {
    pub const NAMES: [&'static str; 3] = ["stop", "skip", "rollback"];
}

impl FromStr for OnDivergence {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "stop" => Ok(OnDivergence::Stop),
            "skip" => Ok(OnDivergence::Skip),
            "rollback" => Ok(OnDivergence::Rollback),
            _ => bail!("{text} is none of {}", OnDivergence::NAMES.join(", ")),
        }
    }
}

/// The largest norm that a step's gradients may have: `factor` times the median of the last norms; 0 for any, where
/// `factor` is 0 or there are few norms yet. Of the norms in `state` those count that are known to any run at this step,
/// however late its results come: so the limit is the same on every run and after every resume.
pub fn norm_limit(state: &State, factor: f64) -> f32 {
    let last = state.step.saturating_sub(1 + IN_FLIGHT as u64);
    let mut norms: Vec<f32> =
        state.norms.iter().filter(|(step, _)| *step <= last).map(|(_, bits)| f32::from_bits(*bits)).collect();
    let norms = match norms.len().checked_sub(NORMS) {
        Some(more) => &mut norms[more..],
        None => &mut norms[..],
    };
    if norms.len() < FEW_NORMS || factor == 0.0 {
        return 0.0;
    }
    let middle = norms.len() / 2;
    let (_, median, _) = norms.select_nth_unstable_by(middle, f32::total_cmp);
    (factor * f64::from(*median)) as f32
}

/// Remembers the norm of a good step, and no more of them than are needed.
pub fn remember_norm(state: &mut State, step: u64, norm: f32) {
    state.norms.push((step, norm.to_bits()));
    let more = state.norms.len().saturating_sub(NORMS + 2 * IN_FLIGHT);
    state.norms.drain(..more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_norms_that_every_run_knows() {
        let mut state = State::default();
        for step in 0..100 {
            state.step = step;
            let known = step.saturating_sub(IN_FLIGHT as u64);
            // Norms 0, 1, 2, …: the median of those known, the last 64 at most.
            let expected = match known as usize {
                0..FEW_NORMS => 0.0,
                known => (known - known.min(NORMS) + known.min(NORMS) / 2) as f32 * 2.0,
            };
            assert_eq!(norm_limit(&state, 2.0), expected, "step {step}");
            // Results may have come early: they do not count yet.
            remember_norm(&mut state, step, step as f32);
            assert_eq!(norm_limit(&state, 2.0), expected, "step {step}");
        }
        assert_eq!(state.norms.len(), NORMS + 2 * IN_FLIGHT);
        assert_eq!(norm_limit(&state, 0.0), 0.0);
    }

    #[test]
    fn names_are_read() {
        for name in OnDivergence::NAMES {
            assert_eq!(serde_json::to_value(name.parse::<OnDivergence>().unwrap()).unwrap(), name);
        }
        assert!("go on".parse::<OnDivergence>().is_err());
    }
}
