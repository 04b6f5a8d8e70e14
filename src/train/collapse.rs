//! A discriminator that has collapsed: it gives every token the same logit, and what it had learnt is lost.
//!
//! After every step two quantities are known of it: the area under the ROC curve, and the spread (standard deviation) of its
//! logits between tokens. Their averages over the last steps tell; `docs/recipe.md` has how they ran in runs that collapsed.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::bail;
use serde::Serialize;

use crate::interop::checkpoint::Detection;

/// Steps that the averages reach back.
const HORIZON: f64 = 20.0;

/// Fewer steps than these say nothing.
const FEW_STEPS: u64 = 100;

/// The spread of logits that are all alike. Those of a network that was just drawn are no less apart than 0.1, since its
/// last layer is drawn wider than the others.
const NO_SPREAD: f64 = 0.05;

/// How far the AUC lies above one half where a discriminator tells anything.
const NOTHING: f64 = 0.01;

/// What is done about a collapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCollapse {
    Warn,
    Rollback,
}

impl OnCollapse {
    pub const NAMES: [&'static str; 2] = ["warn", "rollback"];
}

impl FromStr for OnCollapse {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "warn" => Ok(OnCollapse::Warn),
            "rollback" => Ok(OnCollapse::Rollback),
            _ => bail!("{text} is none of {}", OnCollapse::NAMES.join(", ")),
        }
    }
}

/// Takes in a step; true where it shows that the discriminator has collapsed just now.
pub fn see(detection: &mut Detection, auc: f64, spread: f64) -> bool {
    detection.steps += 1;
    // The first steps weigh alike.
    let weight = 1.0 / HORIZON.min(detection.steps as f64);
    detection.auc += weight * (auc - detection.auc);
    detection.spread += weight * (spread - detection.spread);
    let told = detection.collapsed;
    let lost = detection.steps >= FEW_STEPS && detection.spread < NO_SPREAD && detection.auc < 0.5 + NOTHING;
    let recovered = detection.auc > 0.5 + 3.0 * NOTHING;
    detection.collapsed = lost || told && !recovered;
    detection.collapsed && !told
}

/// The run must go back to a checkpoint from before the collapse.
#[derive(Clone, Copy, Debug)]
pub struct Collapsed {
    /// Updates made when it was found.
    pub step: u64,
    pub auc: f64,
    pub spread: f64,
    /// What the learning rate is to be multiplied by.
    pub rate: f64,
}

impl Collapsed {
    pub const ADVICE: &'static str = "a lower learning_rate, or with optimizer=adam more warmup_steps, help \
         (docs/recipe.md); on_collapse=rollback goes back by itself";

    /// Steps before it was found in which it came about.
    pub const TAKES: u64 = FEW_STEPS;

    /// The spread of a discriminator that is well, at least.
    pub const SOUND: f64 = 3.0 * NO_SPREAD;
}

impl Display for Collapsed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "step {}: the discriminator has collapsed: it gives all tokens the same logit (AUC {:.3}, spread {:.3})",
            self.step, self.auc, self.spread
        )
    }
}

impl std::error::Error for Collapsed {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at which a collapse is told of.
    fn told(detection: &mut Detection, steps: impl Iterator<Item = (f64, f64)>) -> Vec<u64> {
        steps.filter_map(|(auc, spread)| see(detection, auc, spread).then_some(detection.steps)).collect()
    }

    #[test]
    fn a_collapse_is_told_once_and_again_after_a_recovery() {
        let learning = |steps| std::iter::repeat_n((0.75, 1.5), steps);
        let dead = |steps| std::iter::repeat_n((0.5, 0.01), steps);
        let mut detection = Detection::default();
        assert_eq!(told(&mut detection, learning(150)), Vec::<u64>::new());
        let first = told(&mut detection, dead(400));
        assert_eq!(first.len(), 1);
        assert!((200..260).contains(&first[0]), "{first:?}");
        assert_eq!(told(&mut detection, learning(100)), Vec::<u64>::new());
        assert!(!detection.collapsed);
        assert_eq!(told(&mut detection, dead(400)).len(), 1);
    }

    #[test]
    fn a_slow_start_is_no_collapse() {
        // Chance, but with logits apart: as at the beginning of a run, and while the generator overtakes.
        let mut detection = Detection::default();
        assert_eq!(told(&mut detection, std::iter::repeat_n((0.5, 0.3), 2000)), Vec::<u64>::new());
        // The first steps say nothing, whatever they are.
        assert_eq!(told(&mut Detection::default(), std::iter::repeat_n((0.5, 0.0), 99)), Vec::<u64>::new());
    }

    #[test]
    fn names_are_read() {
        for name in OnCollapse::NAMES {
            assert_eq!(serde_json::to_value(name.parse::<OnCollapse>().unwrap()).unwrap(), name);
        }
        assert!("stop".parse::<OnCollapse>().is_err());
    }
}
