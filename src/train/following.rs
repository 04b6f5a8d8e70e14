//! What learning rate, warm-up and optimizer are where nobody sets them and the run is not as long, or its steps not as large, as the
//! preset's (docs/configuration.md). A preset alone keeps its values.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::key::Value;
use super::settings::Settings;

/// The warm-up is at least this share of a run's steps …
const WARMUP_SHARE: u64 = 10;
/// … as far as the run has so many, and no more steps than this, or than the preset's. Collapses seen so far came with
/// short warm-ups (docs/recipe.md).
const WARMUP_OF: u64 = 100_000;
const MOST_WARMUP: u64 = 10_000;

/// The rate goes with the root of the tokens a step (Adam's noise, not its mean, decides how far a step may go: Malladi et
/// al. 2022, arXiv 2205.10287), and no higher than so many times the preset's.
const MOST_RATE: f64 = 2.0;

/// Runs of fewer steps never have a higher rate than this, and correct the bias of Adam's moments: without that the first
/// thousands of steps are longer than their rate says, which only a long warm-up covers (docs/recipe.md).
const SHORT_STEPS: u64 = 20_000;
const SHORT_RATE: f64 = 5e-4;
const SHORT_OPTIMIZER: &str = "adamw";

const FREEZE: &str = "generator_freeze_at";
const OPTIMIZER: &str = "optimizer";

/// Keys that follow from others where nobody sets them.
pub const FOLLOWING: [&str; 4] = ["learning_rate", "warmup_steps", FREEZE, OPTIMIZER];

/// The numbers of a preset that others follow from, and those that were left to follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    steps: u64,
    /// Of a step, at most.
    tokens: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warmup_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generator_freeze_at: Option<u64>,
    #[serde(default)]
    optimizer: bool,
}

/// Of the phase with most of them, where there are phases.
fn tokens(settings: &Settings) -> Result<u64> {
    let own = |settings: &Settings| -> Result<u64> {
        Ok(settings.whole("batch_size")?.saturating_mul(settings.whole("max_length")?))
    };
    let mut most = 0;
    for phase in 0..settings.phases() {
        most = most.max(own(&settings.of_phase(phase))?);
    }
    if most > 0 { Ok(most) } else { own(settings) }
}

impl Rule {
    /// Of this preset, where these settings were given beside it.
    pub fn of(preset: &Settings, given: &Settings) -> Result<Self> {
        let left = |name: &str| given.get(name).is_none();
        Ok(Rule {
            steps: preset.whole("steps")?,
            tokens: tokens(preset)?,
            learning_rate: left("learning_rate").then(|| preset.number("learning_rate")).transpose()?,
            warmup_steps: left("warmup_steps").then(|| preset.whole("warmup_steps")).transpose()?,
            generator_freeze_at: left(FREEZE).then(|| preset.whole(FREEZE)).transpose()?,
            optimizer: left(OPTIMIZER),
        })
    }

    /// Sets what follows. What was set, in a line; nothing where the preset's values stay.
    pub fn apply(&self, settings: &mut Settings) -> Result<Option<String>> {
        let (steps, tokens) = (settings.whole("steps")?, tokens(settings)?);
        let mut followed = Vec::new();
        if let Some(own) = self.learning_rate {
            let rate = self.rate(own, steps, tokens);
            settings.set_value("learning_rate", Value::Number(rate))?;
            followed.extend((rate != own).then(|| format!("learning_rate {rate:e}")));
        }
        if let Some(own) = self.warmup_steps {
            let warmup = self.warmup(own, steps);
            settings.set_value("warmup_steps", Value::Whole(warmup))?;
            followed.extend((warmup != own).then(|| format!("warmup_steps {warmup}")));
        }
        // As late in the run as in the preset's.
        if let Some(own) = self.generator_freeze_at {
            let at = (own as f64 / self.steps as f64 * steps as f64).round() as u64;
            settings.set_value(FREEZE, Value::Whole(at))?;
            followed.extend((at != own).then(|| format!("{FREEZE} {at}")));
        }
        let short = Value::Word(SHORT_OPTIMIZER.to_owned());
        if self.optimizer
            && steps < SHORT_STEPS
            && steps != self.steps
            && settings.get(OPTIMIZER) != Some(&short)
        {
            settings.set_value(OPTIMIZER, short)?;
            followed.push(format!("optimizer {SHORT_OPTIMIZER}"));
        }
        let of = match settings.phases() {
            0 => format!("{} × {}", settings.whole("batch_size")?, settings.whole("max_length")?),
            _ => format!("up to {tokens}"),
        };
        let from = format!("from {steps} steps of {of} tokens");
        Ok(match &followed[..] {
            [] => None,
            [one] => Some(format!("{one} follows {from}; set it to have another")),
            [all @ .., last] => {
                Some(format!("{} and {last} follow {from}; set them to have others", all.join(", ")))
            }
        })
    }

    /// The rate of a run, where the preset's is `own`: in two digits, unless it is that.
    fn rate(&self, own: f64, steps: u64, tokens: u64) -> f64 {
        let mut rate = own;
        if tokens != self.tokens {
            let factor = (tokens as f64 / self.tokens as f64).sqrt().min(MOST_RATE);
            rate = format!("{:.1e}", own * factor).parse().unwrap_or(own);
        }
        let as_preset = steps == self.steps && tokens == self.tokens;
        if steps < SHORT_STEPS && !as_preset { rate.min(SHORT_RATE) } else { rate }
    }

    /// The warm-up of a run, where the preset's is `own`.
    fn warmup(&self, own: u64, steps: u64) -> u64 {
        if steps == self.steps {
            return own;
        }
        let share = (own as f64 / self.steps as f64 * steps as f64).round() as u64;
        share.max(steps.min(WARMUP_OF).div_ceil(WARMUP_SHARE)).min(MOST_WARMUP.max(own))
    }
}

#[cfg(test)]
mod tests {
    use super::super::presets::{preset, preset_names};
    use super::*;

    fn of(name: &str, set: &[&str]) -> (f64, u64, Option<String>) {
        let mut given = Settings::default();
        given.set_texts(set.iter().copied()).unwrap();
        let mut settings = preset(name).unwrap();
        settings.set_texts(set.iter().copied()).unwrap();
        let note = Rule::of(&preset(name).unwrap(), &given).unwrap().apply(&mut settings).unwrap();
        (settings.number("learning_rate").unwrap(), settings.whole("warmup_steps").unwrap(), note)
    }

    #[test]
    fn presets_alone_keep_their_values() {
        for name in preset_names() {
            for set in [&[][..], &["seed=3"], &["dropout=0", "model.layers=2"]] {
                let own = preset(name).unwrap();
                let expected =
                    (own.number("learning_rate").unwrap(), own.whole("warmup_steps").unwrap(), None);
                assert_eq!(of(name, set), expected, "{name}");
            }
        }
    }

    #[test]
    fn the_warm_up_follows_the_steps() {
        for (name, steps, expected) in [
            ("small", 1, 1),
            ("small", 4, 1),
            ("small", 1000, 100),
            ("small", 99_999, 10_000),
            ("small", 100_000, 10_000),
            ("small", 999_999, 10_000),
            ("small", 4_000_000, 10_000),
            ("large", 800_000, 10_000),
            // Its own share is 6.7 %.
            ("tiny", 301, 31),
            ("tiny", 1_000_000, 10_000),
            ("base", 20_000, 2000),
        ] {
            assert_eq!(of(name, &[&format!("steps={steps}")]).1, expected, "{name}, {steps} steps");
        }
        assert_eq!(of("tiny", &["batch_size=32"]).1, 20, "of as many steps");
    }

    #[test]
    fn the_generator_is_fixed_as_late_as_in_the_preset() {
        let (.., note) = of("tiny-frozen", &["steps=4000"]);
        let expected = "warmup_steps 400 and generator_freeze_at 2000 follow from 4000 steps of up to 2048 tokens; set them to \
                        have others";
        assert_eq!(note.as_deref(), Some(expected), "its optimizer is adamw already");
        for set in [&["steps=4000", "generator_freeze_at=0"][..], &["seed=2"]] {
            let (.., note) = of("tiny-frozen", set);
            assert!(!note.unwrap_or_default().contains("generator_freeze_at"), "{set:?}");
        }
        assert!(!of("small", &["steps=1000"]).2.unwrap().contains("generator_freeze_at"));
    }

    #[test]
    fn the_rate_follows_the_tokens_of_a_step() {
        for (name, set, expected) in [
            ("small", &["batch_size=32"][..], 3.5e-4),
            ("small", &["max_length=128"], 2.5e-4),
            ("small", &["batch_size=256"], 1e-3),
            ("small", &["batch_size=4096"], 1e-3),
            // Short runs have their own bound.
            ("small", &["batch_size=256", "steps=1000"], 5e-4),
            ("small", &["batch_size=256", "steps=20_000"], 1e-3),
            ("small", &["batch_size=256", "steps=19_999"], 5e-4),
            ("base", &["batch_size=512", "steps=1000"], 2.8e-4),
            ("small", &["steps=1000"], 5e-4),
            // Of phases those with most tokens count; what they say themselves is not the run's.
            ("small-phases", &["phase.1.batch_size=1024"], 1e-3),
            ("small-phases", &["batch_size=1"], 5e-4),
            // The same in other parts.
            ("small", &["batch_size=256", "max_length=128"], 5e-4),
        ] {
            assert_eq!(of(name, set).0, expected, "{name}, {set:?}");
        }
    }

    #[test]
    fn what_is_set_stays() {
        assert_eq!(of("small", &["steps=1000", "learning_rate=7e-4"]).0, 7e-4);
        let (rate, warmup, note) = of("small", &["steps=1000", "warmup_steps=3", "batch_size=16"]);
        assert_eq!((rate, warmup), (2.5e-4, 3));
        let expected = "learning_rate 2.5e-4 and optimizer adamw follow from 1000 steps of 16 × 512 tokens; set them to have others";
        assert_eq!(note.unwrap(), expected);
        let (.., note) = of("small", &["steps=20000", "warmup_steps=3", "batch_size=16"]);
        assert_eq!(
            note.unwrap(),
            "learning_rate 2.5e-4 follows from 20000 steps of 16 × 512 tokens; set it to have another"
        );
        let (.., note) = of("small", &["steps=1000", "batch_size=32"]);
        assert_eq!(
            note.unwrap(),
            "learning_rate 3.5e-4, warmup_steps 100 and optimizer adamw follow from 1000 steps of 32 × 512 tokens; set them to have others"
        );
        assert_eq!(
            of(
                "small",
                &["learning_rate=1e-3", "warmup_steps=9", "steps=9", "batch_size=1", "optimizer=adam"]
            )
            .2,
            None
        );
    }
}
