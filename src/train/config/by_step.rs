//! What of a configuration has another value from step to step: functions of the step's number alone.

use crate::batch::masking::Share;

use super::super::curriculum::rising;
use super::super::schedule::{Schedule, decay_steps};
use super::TrainConfig;

impl TrainConfig {
    /// The learning rates of a run that began at this step.
    pub fn schedule_from(&self, began: u64) -> Schedule {
        Schedule {
            shape: self.schedule,
            total: self.steps,
            warmup: self.warmup_steps,
            power: self.lr_decay_power,
            falls_from: self.steps - decay_steps(self.steps, self.decay_share),
            began,
            rewarm: if began == 0 { 0 } else { self.rewarm_steps },
        }
    }

    /// Of the tokens that are masked, by the step.
    pub fn mask_share(&self) -> Share {
        Share { first: self.mask_probability, last: self.mask_probability_end, steps: self.steps }
    }

    /// Of the softmax that replacements are drawn from, in the update that follows `step` others.
    pub fn temperature_at(&self, step: u64) -> f32 {
        let over = if self.temperature_steps == 0 { self.steps } else { self.temperature_steps };
        self.temperature_schedule.at(self.temperature, self.temperature_end, step, over)
    }

    /// What Adam's first moment and its ε are multiplied by in the update that follows so many.
    pub fn moment_scales_at(&self, step: u64) -> [f32; 2] {
        self.optimizer.scales(step + 1, self.adam_beta1, self.adam_beta2)
    }

    /// The weight of the discriminator's loss in the update that follows `step` others.
    pub fn discriminator_weight_at(&self, step: u64) -> f32 {
        rising(self.discriminator_weight, step, self.discriminator_warmup_steps)
    }
}
