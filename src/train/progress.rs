//! Results of steps as they arrive, late and in order: intervals, rates, the time left.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::interop::checkpoint::State;
use crate::model::{ModelConfig, Trained};
use crate::note::duration;
use crate::ops::constants::METRIC_GRADIENT_NORM;

use super::config::{Leg, TrainConfig};
use super::divergence::Cause;
use super::histogram::{area_under_curve, bins, spread};
use super::live::Live;
use super::metrics::{BatchTotals, LossWeights, MetricsRecord, Quality, Totals};

/// A step that the device works on.
pub struct Submitted {
    /// Updates made before it.
    pub step: u64,
    /// The number of its batch.
    pub batch: u64,
    pub totals: BatchTotals,
    pub learning_rate: f32,
    /// Beyond which the norm of its gradients is no good; 0 for any.
    pub norm_limit: f32,
}

/// What is known of a step when its results have arrived.
pub struct Arrived {
    /// Of its gradients, before clipping.
    pub norm: f32,
    /// Why it is no good, if it is not.
    pub cause: Option<Cause>,
    /// Area under the ROC curve of the discriminator, and the spread of its logits.
    pub detected: [f64; 2],
    /// Where it ends its log interval.
    pub record: Option<MetricsRecord>,
}

/// What this process computed in an interval, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Timed {
    totals: BatchTotals,
    /// As `docs/spec.md` §7 counts them.
    flops: f64,
    seconds: f64,
}

/// An interval that is so many times quicker than the one before it ended together with it.
const TOGETHER: f64 = 10.0;

impl Timed {
    fn rate(&self) -> f64 {
        self.flops / self.seconds
    }

    /// What an interval's rates are made of. Results that the host finds together (it was busy, or submitting made it wait) share
    /// the time since those before them: no step took none.
    fn sharing(self, before: Option<Timed>) -> Timed {
        match before.filter(|before| self.rate() > TOGETHER * before.rate()) {
            None => self,
            Some(mut both) => {
                both.totals += self.totals;
                Timed { flops: both.flops + self.flops, seconds: both.seconds + self.seconds, ..both }
            }
        }
    }
}

pub struct Progress {
    model: ModelConfig,
    weights: LossWeights,
    /// Nothing where a budget of time decides, and it is not known yet.
    steps: Option<u64>,
    log_every: u64,
    /// Where each leg ends, and how many positions each of its steps has: sequences × max length.
    positions: Vec<(u64, f64)>,
    /// f32 operations a second that the device was measured to do at most.
    peak: f64,
    interval: Totals,
    /// Of the interval, what this process computed, and what the rates of the one before were made of.
    timed: Timed,
    before: Option<Timed>,
    /// From this step on the generator is fixed; 0: it is not.
    freeze_at: u64,
    /// Real tokens of all steps that have arrived.
    tokens: u64,
    /// When the device began with what is in the interval now.
    since: Instant,
    last: Option<MetricsRecord>,
    /// Of the last record that has numbers.
    quality: Option<Quality>,
    /// Of the step that arrived last: updates made with it, and its rate.
    latest: (u64, f32),
}

impl Progress {
    /// Of a run in this state, on a device of this peak rate.
    ///
    /// # Errors
    /// The sums in the state are not of this version.
    pub fn new(config: &TrainConfig, state: &State, peak: f64) -> Result<Self> {
        let legs = config.legs()?.into_iter();
        let interval = state.interval.clone().map(serde_json::from_value).transpose();
        Ok(Progress {
            model: config.model.clone(),
            weights: config.loss_weights(),
            steps: Some(config.steps),
            log_every: config.log_every,
            positions: legs.map(|leg| (leg.steps.end, leg.config.positions_per_step())).collect(),
            peak,
            interval: interval.context("the interval in state.json")?.unwrap_or_default(),
            timed: Timed::default(),
            before: None,
            freeze_at: config.generator_freeze_at,
            tokens: state.tokens,
            since: Instant::now(),
            last: None,
            quality: None,
            latest: (state.step, 0.0),
        })
    }

    /// The run has these legs, and so many steps where that is known.
    pub fn set_legs(&mut self, legs: &[Leg], steps: Option<u64>) {
        self.positions = legs.iter().map(|leg| (leg.steps.end, leg.config.positions_per_step())).collect();
        self.steps = steps;
    }

    /// What was summed up since the last record; nothing right behind one.
    pub fn interval(&self) -> Result<Option<serde_json::Value>> {
        let begun = (self.interval.steps > 0).then(|| serde_json::to_value(&self.interval));
        Ok(begun.transpose()?)
    }

    /// The record written last.
    pub fn last(&self) -> Option<MetricsRecord> {
        self.last
    }

    /// Time that went into a checkpoint or an evaluation is not training's, where an interval starts after it.
    pub fn pause(&mut self) {
        if self.timed == Timed::default() {
            self.since = Instant::now();
        }
    }

    /// Takes the results of the oldest step.
    pub fn arrived(&mut self, submitted: &Submitted, words: &[Vec<u32>]) -> Result<Arrived> {
        let [metrics, histogram] = words else { bail!("a step reported {} tensors, not 2", words.len()) };
        let cause = self.interval.add(&submitted.totals, metrics, histogram)?;
        let norm = f32::from_bits(metrics[METRIC_GRADIENT_NORM]);
        let bins: Vec<[u64; 2]> = bins(histogram).collect();
        let detected = [area_under_curve(&bins), spread(&bins)];
        self.timed.totals += submitted.totals;
        self.timed.flops += self.flops_of(submitted);
        let done = submitted.step + 1;
        self.latest = (done, submitted.learning_rate);
        self.tokens += submitted.totals.tokens;
        if !done.is_multiple_of(self.log_every) && Some(done) != self.steps {
            return Ok(Arrived { norm, cause, detected, record: None });
        }
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64().max(1e-9);
        let timed = Timed { seconds, ..std::mem::take(&mut self.timed) }.sharing(self.before);
        self.before = Some(timed);
        let Timed { totals: batch, flops, seconds } = timed;
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
            skipped_steps: match self.interval.loss_scale() {
                None => Some(self.interval.skipped).filter(|&skipped| skipped > 0),
                Some(_) => Some(self.interval.skipped),
            },
        };
        self.last = Some(record);
        self.quality = Some(record.quality).filter(Quality::is_known).or(self.quality);
        self.interval = Totals::default();
        self.since = now;
        Ok(Arrived { norm, cause, detected, record: Some(record) })
    }

    fn flops_of(&self, submitted: &Submitted) -> f64 {
        let BatchTotals { tokens, masked, squared_lengths, .. } = submitted.totals;
        let fixed = self.freeze_at > 0 && submitted.step >= self.freeze_at;
        let trained = if fixed { Trained::Discriminator } else { Trained::Both };
        self.model.training_flops(tokens as f64, masked as f64, squared_lengths as f64, trained)
    }

    /// Positions of the steps behind so many.
    fn positions_left(&self, done: u64) -> f64 {
        let mut first = done;
        let mut left = 0.0;
        for &(end, each) in &self.positions {
            left += end.saturating_sub(first) as f64 * each;
            first = first.max(end);
        }
        left
    }

    /// Seconds that the steps behind a record take at its rate, where it is known how many there are.
    pub fn seconds_left(&self, record: &MetricsRecord) -> Option<f64> {
        self.steps.map(|_| self.positions_left(record.step) / record.positions_per_second)
    }

    /// How the run stands, between records too: losses and rates are the last record's, before the first one those of
    /// the steps since the start.
    pub fn live(&self) -> Live {
        let (step, lr) = self.latest;
        let (quality, tokens_per_second, positions_per_second, mfu) = match &self.last {
            Some(last) => (self.quality, last.tokens_per_second, last.positions_per_second, last.mfu),
            None => {
                let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
                let quality = (self.interval.steps > 0).then(|| self.interval.quality(self.weights));
                let quality = quality.filter(Quality::is_known);
                let rate = |count: u64| count as f64 / seconds;
                let peak = (self.peak > 0.0).then(|| self.timed.flops / seconds / self.peak);
                (quality, rate(self.timed.totals.tokens), rate(self.timed.totals.positions), peak)
            }
        };
        let known = self.steps.filter(|_| positions_per_second > 0.0);
        let left = known.map(|_| self.positions_left(step) / positions_per_second);
        Live { step, steps: self.steps, quality, lr, tokens_per_second, mfu, left }
    }

    /// A record as one line for people.
    pub fn line(&self, record: &MetricsRecord) -> String {
        let quality = &record.quality;
        let left = self.seconds_left(record);
        let skipped = match (record.loss_scale, record.skipped_steps) {
            (Some(scale), Some(skipped)) if skipped > 0 => format!("  {skipped} skipped, loss scale {scale}"),
            (None, Some(skipped)) => format!("  {skipped} skipped"),
            _ => String::new(),
        };
        let losses = match quality.is_known() {
            true => format!(
                "loss {:.4}  mlm {:.4}  disc {:.4}  auc {:.3}",
                quality.loss, quality.mlm_loss, quality.disc_loss, quality.disc_auc
            ),
            false => "no losses: every step was skipped".to_owned(),
        };
        format!(
            "step {}{}  {losses}  lr {:.2e}  {:.0} tokens/s  {:.1} GFLOP/s{}{}{}",
            record.step,
            self.steps.map_or(String::new(), |steps| format!("/{steps}")),
            record.lr,
            record.tokens_per_second,
            record.model_flops_per_second / 1e9,
            record.mfu.map_or(String::new(), |mfu| format!(" ({:.0}% of peak)", 100.0 * mfu)),
            skipped,
            left.map_or(String::new(), |left| format!("  {} left", duration(left)))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{Sources, Surroundings};
    use super::*;
    use crate::device::Room;
    use crate::ops::constants::{AUC_BINS, METRIC_REFUSED, METRIC_SCALE, METRICS};

    #[test]
    fn intervals_that_end_together_share_the_time() {
        let timed = |tokens, flops, seconds| Timed {
            totals: BatchTotals { tokens, ..BatchTotals::default() },
            flops,
            seconds,
        };
        // The second's results were there when the first's were looked at, and so were the third's.
        let first = timed(10, 1e9, 3.0);
        let second = timed(12, 1.2e9, 1e-6).sharing(Some(first));
        assert_eq!(second, timed(22, 2.2e9, 3.0 + 1e-6));
        let third = timed(8, 0.8e9, 1e-6).sharing(Some(second));
        assert_eq!((third.totals.tokens, third.rate().round()), (30, (3e9_f64 / (3.0 + 2e-6)).round()));
        // What is only quick is what it is, and the first has none before it.
        let quick = timed(10, 1e9, 0.5);
        assert_eq!((quick.sharing(Some(first)), quick.sharing(None)), (quick, quick));
    }

    /// After a resume an interval's losses are of all its steps, its rates of those that this process computed.
    #[test]
    fn rates_are_of_what_was_computed_here() {
        let set = vec!["log_every=3".to_owned()];
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 500, room: &Room::unlimited() };
        let config = TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap();
        let words = || {
            let mut metrics = vec![1f32.to_bits(); METRICS];
            metrics[METRIC_REFUSED] = 0;
            metrics[METRIC_SCALE] = 0;
            [metrics, vec![0; 2 * AUC_BINS]]
        };
        let submitted = |step, positions| Submitted {
            step,
            batch: step,
            totals: BatchTotals { tokens: positions / 2, masked: 2, positions, squared_lengths: 0 },
            learning_rate: 0.1,
            norm_limit: 0.0,
        };
        let mut state = State::default();
        let mut before = Progress::new(&config, &state, 0.0).unwrap();
        assert_eq!(before.interval().unwrap(), None);
        assert!(before.arrived(&submitted(0, 1 << 40), &words()).unwrap().record.is_none());
        (state.step, state.tokens, state.interval) = (1, 1 << 39, before.interval().unwrap());

        let mut after = Progress::new(&config, &state, 0.0).unwrap();
        assert!(after.arrived(&submitted(1, 100), &words()).unwrap().record.is_none());
        let record = after.arrived(&submitted(2, 60), &words()).unwrap().record.unwrap();
        assert_eq!(record.tokens, (1 << 39) + 80);
        assert!((record.quality.mlm_loss - 0.5).abs() < 1e-6, "of three steps: {record:?}");
        assert!(record.positions_per_second < 160.0 / 1e-9, "of two steps: {record:?}");
        assert!((record.positions_per_second / record.tokens_per_second - 2.0).abs() < 1e-9);
        assert_eq!(after.interval().unwrap(), None);
    }
}
