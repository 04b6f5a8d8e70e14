//! Results of steps as they arrive, late and in order: intervals, rates, the time left.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::model::ModelConfig;

use super::config::TrainConfig;
use super::metrics::{BatchTotals, LossWeights, MetricsRecord, Totals};

/// A step that the device works on.
pub struct Submitted {
    /// Updates made before it.
    pub step: u64,
    pub totals: BatchTotals,
    pub learning_rate: f32,
}

pub struct Progress {
    model: ModelConfig,
    weights: LossWeights,
    steps: u64,
    log_every: u64,
    /// Every step has as many: sequences × max length.
    positions_per_step: f64,
    /// f32 operations a second that the device was measured to do at most.
    peak: f64,
    interval: Totals,
    /// Real tokens of all steps that have arrived.
    tokens: u64,
    /// When the device began with what is in the interval now.
    since: Instant,
    last: Option<MetricsRecord>,
}

impl Progress {
    /// Of a run that has made `step` updates with `tokens` tokens, on a device of this peak rate.
    pub fn new(config: &TrainConfig, step: u64, tokens: u64, peak: f64) -> Self {
        debug_assert!(step <= config.steps);
        Progress {
            model: config.model.clone(),
            weights: config.loss_weights(),
            steps: config.steps,
            log_every: config.log_every,
            positions_per_step: (config.batch_size * config.max_length) as f64,
            peak,
            interval: Totals::default(),
            tokens,
            since: Instant::now(),
            last: None,
        }
    }

    /// The record written last.
    pub fn last(&self) -> Option<MetricsRecord> {
        self.last
    }

    /// Time that went into a checkpoint or an evaluation is not training's, where an interval starts after it.
    pub fn pause(&mut self) {
        if self.interval.steps == 0 {
            self.since = Instant::now();
        }
    }

    /// Takes the results of the oldest step; a record where its interval is complete.
    ///
    /// Errors: a loss or gradient that is not finite.
    pub fn arrived(&mut self, submitted: Submitted, words: &[Vec<u32>]) -> Result<Option<MetricsRecord>> {
        let [metrics, histogram] = words else { bail!("a step reported {} tensors, not 2", words.len()) };
        self.interval.add(&submitted.totals, metrics, histogram)?;
        let done = submitted.step + 1;
        ensure!(!self.interval.is_broken(), "step {done}: a loss or gradient is infinite or not a number");
        self.tokens += submitted.totals.tokens;
        if !done.is_multiple_of(self.log_every) && done != self.steps {
            return Ok(None);
        }
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64().max(1e-9);
        let batch = self.interval.batch;
        let flops =
            self.model.training_flops(batch.tokens as f64, batch.masked as f64, batch.squared_lengths as f64);
        let record = MetricsRecord {
            step: done,
            tokens: self.tokens,
            quality: self.interval.quality(self.weights),
            lr: submitted.learning_rate,
            grad_norm: self.interval.gradient_norm(),
            tokens_per_second: batch.tokens as f64 / seconds,
            positions_per_second: batch.positions as f64 / seconds,
            mfu: (self.peak > 0.0).then(|| flops / seconds / self.peak),
            model_flops_per_second: flops / seconds,
            loss_scale: self.interval.loss_scale(),
            skipped_steps: self.interval.loss_scale().map(|_| self.interval.skipped),
        };
        self.last = Some(record);
        self.interval = Totals::default();
        self.since = now;
        Ok(Some(record))
    }

    /// A record as one line for people.
    pub fn line(&self, record: &MetricsRecord) -> String {
        let quality = &record.quality;
        let left = (self.steps - record.step) as f64 * self.positions_per_step / record.positions_per_second;
        let skipped = match (record.loss_scale, record.skipped_steps) {
            (Some(scale), Some(skipped)) if skipped > 0 => format!("  {skipped} skipped, loss scale {scale}"),
            _ => String::new(),
        };
        format!(
            "step {}/{}  loss {:.4}  mlm {:.4}  disc {:.4}  auc {:.3}  lr {:.2e}  {:.0} tokens/s  {:.1} GFLOP/s{}{}  {} left",
            record.step,
            self.steps,
            quality.loss,
            quality.mlm_loss,
            quality.disc_loss,
            quality.disc_auc,
            record.lr,
            record.tokens_per_second,
            record.model_flops_per_second / 1e9,
            record.mfu.map_or(String::new(), |mfu| format!(" ({:.0}% of peak)", 100.0 * mfu)),
            skipped,
            duration(left)
        )
    }
}

/// Seconds in the two largest units that say enough.
fn duration(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds.max(0.0)).map_or(0, |left| left.as_secs());
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
