//! The learning rate of every update (docs/spec.md §3.9).

use std::fmt::Write;
use std::str::FromStr;

use anyhow::bail;

use crate::interop::checkpoint::{ScheduleStage, State};

/// lr(s) = rate · (1 − s/T)^power · min(1, s/warmup), in f64.
///
/// `step` s counts the updates already made, so the first update has rate 0; it is held at `total` T behind
/// the end. The decay runs during the warm-up too. `warmup` 0 switches the warm-up off.
pub fn learning_rate(step: u64, rate: f64, total: u64, warmup: u64, power: f64) -> f32 {
    let s = step.min(total) as f64;
    let decay = (1.0 - s / total as f64).powf(power);
    (rate * decay * rise(step.min(total), warmup)) as f32
}

/// min(1, s/warmup).
fn rise(step: u64, warmup: u64) -> f64 {
    if warmup == 0 { 1.0 } else { (step as f64 / warmup as f64).min(1.0) }
}

/// How the rate goes after it has risen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Falls from the first step on: the reference's.
    Linear,
    /// Falls along half a cosine from the end of the warm-up.
    Cosine,
    /// Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395). The decay is 1 − √x, which Hägele et al. 2024 (arXiv
    /// 2405.18392) found better than a straight line at every length they tried, and as good as a cosine from a decay
    /// over a fifth of the steps on.
    Wsd,
}

impl Shape {
    pub const NAMES: [&'static str; 3] = ["linear", "cosine", "wsd"];
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "linear" => Ok(Shape::Linear),
            "cosine" => Ok(Shape::Cosine),
            "wsd" => Ok(Shape::Wsd),
            _ => bail!("{text} is none of {}", Shape::NAMES.join(", ")),
        }
    }
}

/// Updates at the end of a run of `total` in which the rate of [`Shape::Wsd`] falls: at least the last one.
pub fn decay_steps(total: u64, share: f64) -> u64 {
    ((total as f64 * share).round() as u64).clamp(1, total)
}

/// The schedule of a run: `TrainConfig::schedule_from` makes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub shape: Shape,
    /// Updates of all.
    pub total: u64,
    pub warmup: u64,
    /// Of [`Shape::Linear`].
    pub power: f64,
    /// Of [`Shape::Wsd`]: the step from which the rate falls.
    pub falls_from: u64,
    /// Above 0 where the run went on with another model's schedule.
    pub began: u64,
    /// Updates from `began` on in which the rate rises again.
    pub rewarm: u64,
}

impl Schedule {
    /// The rate of the update that follows `step` earlier ones, where the highest is `peak`: behind the last step that
    /// of the last.
    pub fn rate(&self, step: u64, peak: f64) -> f32 {
        let (step, total) = (step.min(self.total), self.total as f64);
        let again = rise(step.saturating_sub(self.began), self.rewarm);
        if self.shape == Shape::Linear {
            // The reference's, to the bit.
            return learning_rate(step, peak * again, self.total, self.warmup, self.power);
        }
        let s = step as f64;
        let fall = match self.shape {
            Shape::Linear => 1.0,
            Shape::Cosine => {
                let from = self.warmup.min(self.total) as f64;
                let gone = if s <= from { 0.0 } else { (s - from) / (total - from) };
                0.5 * (1.0 + (std::f64::consts::PI * gone).cos())
            }
            Shape::Wsd if step <= self.falls_from => 1.0,
            Shape::Wsd => {
                let from = self.falls_from as f64;
                1.0 - ((s - from) / (total - from)).sqrt()
            }
        };
        (peak * fall * rise(step, self.warmup) * again) as f32
    }

    /// Where a run of [`Shape::Wsd`] stands after `step` updates; nothing of other schedules.
    pub fn stage(&self, step: u64) -> Option<ScheduleStage> {
        let risen =
            rise(step, self.warmup) == 1.0 && rise(step.saturating_sub(self.began), self.rewarm) == 1.0;
        let stage = if step > self.falls_from {
            ScheduleStage::Decay
        } else if risen {
            ScheduleStage::Stable
        } else {
            ScheduleStage::WarmUp
        };
        (self.shape == Shape::Wsd).then_some(stage)
    }

    /// In one line, with what makes a run in this state differ from one that begins with nothing.
    pub fn describe(&self, peak: f64, state: &State) -> String {
        let Schedule { total, warmup, falls_from, began, rewarm, .. } = *self;
        let mut line = "learning rate: ".to_owned();
        let _ = match warmup {
            0 => write!(line, "{peak:e} from the first step"),
            _ => write!(line, "rises to {peak:e} over {warmup} steps"),
        };
        let _ = match self.shape {
            Shape::Linear if self.power == 0.0 => write!(line, ", stays until step {total}"),
            Shape::Linear if self.power == 1.0 => write!(line, ", falls linearly to 0 at step {total}"),
            Shape::Linear => write!(line, ", falls to 0 at step {total} to the power {}", self.power),
            Shape::Cosine => write!(line, ", falls along a cosine to 0 at step {total}"),
            Shape::Wsd => {
                write!(line, ", stays until step {falls_from}, falls as 1 - sqrt to 0 at step {total} (wsd)")
            }
        };
        // What a preset for long runs has, in a short one.
        if warmup >= total {
            let _ = match warmup == total {
                true => write!(line, "; the warm-up is the whole run"),
                false => write!(line, "; the warm-up is longer than the run"),
            };
            let _ = write!(line, ", which never reaches its rate (--set warmup_steps=N)");
        }
        if let Some(from) = &state.decay_from {
            let _ = write!(line, "; goes on from step {} of {}", from.step, from.run);
        } else if began > 0 {
            let _ = write!(line, "; begins at step {began}");
            if rewarm > 0 {
                let _ = write!(line, " and rises again over {rewarm} steps");
            }
        }
        if state.rate() != 1.0 {
            let _ = write!(line, "; × {} after rollbacks", state.rate());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Room;
    use crate::interop::checkpoint::Origin;
    use crate::train::config::{Sources, Surroundings, TrainConfig};

    #[test]
    fn rises_and_falls_as_the_reference() {
        let rate = |step| learning_rate(step, 5e-4, 1_000_000, 10_000, 1.0);
        assert_eq!(rate(0), 0.0);
        assert_eq!(rate(5_000), (5e-4 * 0.995 * 0.5) as f32);
        assert_eq!(rate(10_000), (5e-4 * 0.99) as f32);
        assert_eq!(rate(500_000), 2.5e-4);
        assert_eq!(rate(1_000_000), 0.0);
        assert_eq!(rate(2_000_000), 0.0);
    }

    #[test]
    fn warm_up_can_be_switched_off() {
        assert_eq!(learning_rate(0, 1e-3, 10, 0, 1.0), 1e-3);
        assert_eq!(learning_rate(5, 1e-3, 10, 0, 2.0), 2.5e-4);
        // A constant rate, the last step included: 0^0 is 1.
        assert_eq!(learning_rate(10, 1e-3, 10, 0, 0.0), 1e-3);
    }

    fn schedule(set: &[&str], began: u64) -> Schedule {
        let set = set.iter().map(|text| text.to_string()).collect();
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 500, room: &Room::unlimited() };
        let config = TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap();
        config.schedule_from(began)
    }

    /// To the bit, at every step, the formula of runs from before there were others.
    #[test]
    fn the_linear_schedule_is_the_reference() {
        for power in ["0", "1", "1.5"] {
            let power_key = format!("lr_decay_power={power}");
            let linear = schedule(&["steps=997", "warmup_steps=31", &power_key], 0);
            for step in 0..1000 {
                let expected = learning_rate(step, 3.3e-4, 997, 31, power.parse().unwrap());
                assert_eq!(linear.rate(step, 3.3e-4).to_bits(), expected.to_bits(), "step {step}");
            }
            assert_eq!(linear.stage(500), None);
        }
    }

    #[test]
    fn a_cosine_falls_from_the_warm_up_to_nothing() {
        let cosine = schedule(&["schedule=cosine", "steps=110", "warmup_steps=10"], 0);
        let rate = |step| cosine.rate(step, 1.0);
        assert_eq!([0, 5, 10].map(rate), [0.0, 0.5, 1.0]);
        assert!((rate(60) - 0.5).abs() < 1e-7 && (rate(35) - 0.853_553_4).abs() < 1e-6);
        assert_eq!([110, 111, 9000].map(rate), [0.0; 3]);
        assert!((10..110).all(|step| rate(step) > rate(step + 1)));
        // Nothing but warm-up.
        let short = schedule(&["schedule=cosine", "steps=10", "warmup_steps=20"], 0);
        assert_eq!([0, 9, 10].map(|step| short.rate(step, 1.0)), [0.0, 0.45, 0.5]);
    }

    #[test]
    fn a_stable_rate_decays_at_the_end() {
        let wsd = schedule(&["schedule=wsd", "steps=100", "warmup_steps=10", "decay_share=0.25"], 0);
        let rate = |step| wsd.rate(step, 2.0);
        assert_eq!([0, 5, 10, 75].map(rate), [0.0, 1.0, 2.0, 2.0]);
        // A 25th and 16 of them: their roots are exact.
        assert_eq!([76, 91, 100, 200].map(rate), [1.6, (2.0 * (1.0 - 0.8f64)) as f32, 0.0, 0.0]);
        let stages = [0, 9, 10, 75, 76, 100].map(|step| wsd.stage(step).unwrap());
        use ScheduleStage::{Decay, Stable, WarmUp};
        assert_eq!(stages, [WarmUp, WarmUp, Stable, Stable, Decay, Decay]);
        // All of it decays; one step of it at least does.
        assert_eq!(
            schedule(&["schedule=wsd", "steps=4", "warmup_steps=0", "decay_share=1"], 0).rate(1, 1.0),
            0.5
        );
        let last = schedule(&["schedule=wsd", "steps=4", "warmup_steps=0", "decay_share=0.01"], 0);
        assert_eq!([3, 4].map(|step| last.rate(step, 1.0)), [1.0, 0.0]);
    }

    #[test]
    fn the_rate_rises_again_where_a_run_begins() {
        let set = ["steps=1000", "warmup_steps=10", "rewarm_steps=20"];
        let (again, before) = (schedule(&set, 500), schedule(&set[..2], 500));
        assert_eq!(again.rate(500, 1.0), 0.0);
        assert_eq!(again.rate(510, 1.0), 0.5 * 0.49);
        assert!((520..=1000).all(|step| again.rate(step, 1.0) == before.rate(step, 1.0)));
        // A run that begins with nothing has its own warm-up.
        assert_eq!(schedule(&set, 0), schedule(&set[..2], 0));
        let wsd = schedule(&["schedule=wsd", "steps=1000", "warmup_steps=10", "rewarm_steps=20"], 500);
        assert_eq!(wsd.stage(519), Some(ScheduleStage::WarmUp));
        assert_eq!(wsd.stage(520), Some(ScheduleStage::Stable));
    }

    #[test]
    fn a_schedule_is_one_line() {
        let begun = State::default();
        let line = |set: &[&str], began, state| schedule(set, began).describe(5e-4, state);
        assert_eq!(
            line(&["warmup_steps=20"], 0, &begun),
            "learning rate: rises to 5e-4 over 20 steps, falls linearly to 0 at step 300"
        );
        assert_eq!(
            line(&["warmup_steps=0", "rewarm_steps=9", "schedule=cosine"], 40, &begun),
            "learning rate: 5e-4 from the first step, falls along a cosine to 0 at step 300; begins at step 40 and rises \
             again over 9 steps"
        );
        let origin = Origin { run: "long".into(), step: 200 };
        let state = State { decay_from: Some(origin), ..State::default() };
        assert_eq!(
            line(&["schedule=wsd", "decay_share=0.5"], 200, &state),
            "learning rate: rises to 5e-4 over 20 steps, stays until step 150, falls as 1 - sqrt to 0 at step 300 (wsd); \
             goes on from step 200 of long"
        );
    }

    /// A run that is all warm-up is one that was cut short without a thought for its schedule.
    #[test]
    fn a_warm_up_beyond_the_run_is_said() {
        let line = |steps: &str, warm_up: &str| {
            schedule(&[&format!("steps={steps}"), &format!("warmup_steps={warm_up}")], 0)
                .describe(5e-4, &State::default())
        };
        assert!(!line("21", "20").contains("warm-up"));
        let never = ", which never reaches its rate (--set warmup_steps=N)";
        assert!(line("20", "20").ends_with(&format!("step 20; the warm-up is the whole run{never}")));
        assert_eq!(
            line("6", "20"),
            format!(
                "learning rate: rises to 5e-4 over 20 steps, falls linearly to 0 at step 6; the warm-up is longer than the \
                 run{never}"
            )
        );
    }

    #[test]
    fn names_are_read() {
        assert!(Shape::NAMES.iter().all(|name| name.parse::<Shape>().is_ok()));
        assert!("constant".parse::<Shape>().is_err());
    }
}
