//! What a step reports, summed over a log interval, and a line of `metrics.jsonl` (docs/spec.md §3, end).

use std::ops::AddAssign;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::ops::constants::{
    AUC_BINS, METRIC_CORRECT, METRIC_CROSS_ENTROPY, METRIC_GRADIENT_NORM, METRIC_NLL, METRIC_REFUSED,
    METRIC_SAMPLED_CORRECT, METRIC_SCALE, METRIC_TRUE_POSITIVES, METRICS, REFUSED_NORM,
};
use crate::ops::loss_scaling::LOWEST_SCALE;

use super::divergence::Cause;
use super::histogram::{area_under_curve, bins, ratio, spread};

/// Numbers that steps of a batch maker know before the device has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchTotals {
    /// Real tokens.
    pub tokens: u64,
    /// Masked slots in use, Σ w.
    pub masked: u64,
    /// Sequences × max length: what a padded implementation would compute.
    pub positions: u64,
    /// Σ length² over the sequences.
    pub squared_lengths: u64,
}

impl AddAssign for BatchTotals {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.masked += other.masked;
        self.positions += other.positions;
        self.squared_lengths += other.squared_lengths;
    }
}

/// Weights of the two losses in their sum.
#[derive(Clone, Copy, Debug)]
pub struct LossWeights {
    pub generator: f64,
    pub discriminator: f64,
}

/// Sums over the steps of an interval. Everything that is a count is summed as one. In a checkpoint that lies within an
/// interval they come back to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub steps: u64,
    /// Steps that changed nothing: gradients of scaled losses overflowed, or the step was no good.
    pub skipped: u64,
    pub batch: BatchTotals,
    /// Of the steps whose losses are in the sums.
    counted: BatchTotals,
    /// Of the last step; 0 where losses are not scaled.
    loss_scale: f64,
    nll: f64,
    cross_entropy: f64,
    correct: f64,
    sampled_correct: f64,
    /// TP, FP, TN, FN.
    confusion: [f64; 4],
    gradient_norm: f64,
    #[serde(with = "sparse")]
    histogram: Vec<[u64; 2]>,
}

/// A histogram as text: `bin:originals/replaced` of each bin that is not empty.
mod sparse {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::AUC_BINS;

    pub fn serialize<S: Serializer>(bins: &[[u64; 2]], serializer: S) -> Result<S::Ok, S::Error> {
        let filled = bins.iter().enumerate().filter(|(_, bin)| **bin != [0; 2]);
        let texts: Vec<String> =
            filled.map(|(index, [original, replaced])| format!("{index}:{original}/{replaced}")).collect();
        serializer.serialize_str(&texts.join(" "))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u64; 2]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bins = vec![[0; 2]; AUC_BINS];
        for part in text.split_ascii_whitespace() {
            let read = || {
                let (index, counts) = part.split_once(':')?;
                let (original, replaced) = counts.split_once('/')?;
                Some((index.parse::<usize>().ok()?, [original.parse().ok()?, replaced.parse().ok()?]))
            };
            let read = read().and_then(|(index, counts)| bins.get_mut(index).map(|bin| *bin = counts));
            read.ok_or_else(|| D::Error::custom(format!("`{part}` is no bin of a histogram")))?;
        }
        Ok(bins)
    }
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            steps: 0,
            skipped: 0,
            counted: BatchTotals::default(),
            loss_scale: 0.0,
            batch: BatchTotals::default(),
            nll: 0.0,
            cross_entropy: 0.0,
            correct: 0.0,
            sampled_correct: 0.0,
            confusion: [0.0; 4],
            gradient_norm: 0.0,
            histogram: vec![[0; 2]; AUC_BINS],
        }
    }
}

impl Totals {
    /// Adds one step's words: `metrics` are the bits of floats, `histogram` is `[2, AUC_BINS]`. Why the step is no good, if
    /// it is not: then its losses are in no sum.
    pub fn add(&mut self, batch: &BatchTotals, metrics: &[u32], histogram: &[u32]) -> Result<Option<Cause>> {
        ensure!(metrics.len() == METRICS, "a step reported {} metrics", metrics.len());
        ensure!(histogram.len() == 2 * AUC_BINS, "a step reported {} bins", histogram.len());
        let value = |slot: usize| f64::from(f32::from_bits(metrics[slot]));
        self.steps += 1;
        self.batch += *batch;
        self.loss_scale = value(METRIC_SCALE);
        let refused = value(METRIC_REFUSED);
        let finite = (value(METRIC_NLL) + value(METRIC_CROSS_ENTROPY)).is_finite();
        if refused != 0.0 || !finite {
            self.skipped += 1;
            let cause =
                if refused == f64::from(REFUSED_NORM) { Cause::NormBeyondRange } else { Cause::NotFinite };
            // Above the lowest scale it is the scale that overflows, which is smaller in the next step.
            let scaled = self.loss_scale > f64::from(LOWEST_SCALE) && cause == Cause::NotFinite;
            return Ok((!scaled).then_some(cause));
        }
        self.counted += *batch;
        self.nll += value(METRIC_NLL);
        self.cross_entropy += value(METRIC_CROSS_ENTROPY);
        self.correct += value(METRIC_CORRECT);
        self.sampled_correct += value(METRIC_SAMPLED_CORRECT);
        for (sum, slot) in self.confusion.iter_mut().zip(METRIC_TRUE_POSITIVES..) {
            *sum += value(slot);
        }
        self.gradient_norm += value(METRIC_GRADIENT_NORM);
        for (sum, bin) in self.histogram.iter_mut().zip(bins(histogram)) {
            sum[0] += bin[0];
            sum[1] += bin[1];
        }
        Ok(None)
    }

    /// The losses and rates, averaged over everything added; no numbers where every step was skipped.
    pub fn quality(&self, weights: LossWeights) -> Quality {
        if self.skipped > 0 && self.skipped == self.steps {
            return Quality::UNKNOWN;
        }
        let [tp, fp, tn, fn_] = self.confusion;
        let (masked, tokens) = (self.counted.masked as f64, self.counted.tokens as f64);
        let mlm_loss = self.nll / (masked + 1e-6);
        let disc_loss = self.cross_entropy / (tokens + 1e-6);
        Quality {
            loss: weights.generator * mlm_loss + weights.discriminator * disc_loss,
            mlm_loss,
            disc_loss,
            mlm_accuracy: ratio(self.correct, masked),
            sampled_accuracy: ratio(self.sampled_correct, masked),
            disc_accuracy: ratio(tp + tn, tokens),
            disc_precision: ratio(tp, tp + fp),
            disc_recall: ratio(tp, tp + fn_),
            disc_auc: area_under_curve(&self.histogram),
            disc_spread: spread(&self.histogram),
        }
    }

    /// Mean norm of the gradients before clipping; no number where every step was skipped.
    pub fn gradient_norm(&self) -> f64 {
        self.gradient_norm / (self.steps - self.skipped) as f64
    }

    /// The scale of the losses in the last step; nothing where they are not scaled.
    pub fn loss_scale(&self) -> Option<f64> {
        (self.loss_scale > 0.0).then_some(self.loss_scale)
    }

    /// Entropy in nats of a token's label, which a discriminator that knows only how often tokens are
    /// replaced would score.
    pub fn base_rate_entropy(&self) -> f64 {
        let [tp, _, _, fn_] = self.confusion;
        let rate = ratio(tp + fn_, self.counted.tokens as f64);
        let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        term(rate) + term(1.0 - rate)
    }
}

/// Losses in nats, rates in 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    pub loss: f64,
    pub mlm_loss: f64,
    pub disc_loss: f64,
    pub mlm_accuracy: f64,
    /// Samples that hit the original.
    pub sampled_accuracy: f64,
    pub disc_accuracy: f64,
    pub disc_precision: f64,
    pub disc_recall: f64,
    pub disc_auc: f64,
    /// Standard deviation of the discriminator's logits between tokens.
    pub disc_spread: f64,
}

impl Quality {
    /// Written as null.
    const UNKNOWN: Quality = Quality {
        loss: f64::NAN,
        mlm_loss: f64::NAN,
        disc_loss: f64::NAN,
        mlm_accuracy: f64::NAN,
        sampled_accuracy: f64::NAN,
        disc_accuracy: f64::NAN,
        disc_precision: f64::NAN,
        disc_recall: f64::NAN,
        disc_auc: f64::NAN,
        disc_spread: f64::NAN,
    };

    /// Whether there are numbers: a loss that is not finite has had its step refused.
    pub fn is_known(&self) -> bool {
        !self.loss.is_nan()
    }
}

/// A line of `metrics.jsonl`: the interval that ends with `step` updates made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MetricsRecord {
    pub step: u64,
    /// Real tokens since the start of the run.
    pub tokens: u64,
    #[serde(flatten)]
    pub quality: Quality,
    /// Of the last update.
    pub lr: f32,
    pub grad_norm: f64,
    pub tokens_per_second: f64,
    pub positions_per_second: f64,
    /// Model FLOPs achieved of the device's measured peak; absent (null) where no peak was measured.
    pub mfu: Option<f64>,
    pub model_flops_per_second: f64,
    /// In half precision: the scale of the losses, and the steps of this interval that were skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(values: [f32; 8]) -> Vec<u32> {
        let mut words = vec![0u32; 16];
        for (word, value) in words.iter_mut().zip(values) {
            *word = value.to_bits();
        }
        words[METRIC_GRADIENT_NORM] = 2f32.to_bits();
        words
    }

    #[test]
    fn an_interval_sums_counts() {
        let weights = LossWeights { generator: 1.0, discriminator: 50.0 };
        let mut totals = Totals::default();
        let histogram = vec![0; 2 * AUC_BINS];
        let batch = BatchTotals { tokens: 10, masked: 2, positions: 16, squared_lengths: 100 };
        totals.add(&batch, &step([6.0, 5.0, 1.0, 1.0, 1.0, 1.0, 8.0, 0.0]), &histogram).unwrap();
        let batch = BatchTotals { tokens: 30, masked: 4, positions: 32, squared_lengths: 100 };
        totals.add(&batch, &step([6.0, 7.0, 1.0, 0.0, 1.0, 0.0, 26.0, 3.0]), &histogram).unwrap();
        let quality = totals.quality(weights);
        assert!((quality.mlm_loss - 2.0).abs() < 1e-6);
        assert!((quality.disc_loss - 0.3).abs() < 1e-6);
        assert!((quality.loss - 17.0).abs() < 1e-5);
        assert_eq!(quality.mlm_accuracy, 2.0 / 6.0);
        assert_eq!(quality.sampled_accuracy, 1.0 / 6.0);
        assert_eq!(quality.disc_accuracy, 36.0 / 40.0);
        assert_eq!((quality.disc_precision, quality.disc_recall), (2.0 / 3.0, 2.0 / 5.0));
        assert_eq!(totals.gradient_norm(), 2.0);
        let rate: f64 = 5.0 / 40.0;
        let entropy = -rate * rate.ln() - (1.0 - rate) * (1.0 - rate).ln();
        assert!((totals.base_rate_entropy() - entropy).abs() < 1e-12);
        let empty = Totals::default().quality(weights);
        assert_eq!((empty.disc_precision, empty.disc_recall, empty.disc_accuracy), (0.0, 0.0, 0.0));
    }

    #[test]
    fn skipped_steps_alone_have_no_losses() {
        let weights = LossWeights { generator: 1.0, discriminator: 50.0 };
        let (batch, histogram) =
            (BatchTotals { tokens: 10, ..BatchTotals::default() }, vec![0; 2 * AUC_BINS]);
        let mut skipped = step([6.0; 8]);
        skipped[METRIC_REFUSED] = 1f32.to_bits();
        let mut totals = Totals::default();
        totals.add(&batch, &skipped, &histogram).unwrap();
        let quality = totals.quality(weights);
        let written = serde_json::to_value(quality).unwrap();
        assert!(!quality.is_known() && totals.gradient_norm().is_nan());
        assert!(written.as_object().unwrap().values().all(serde_json::Value::is_null), "{written}");
        totals.add(&batch, &step([6.0; 8]), &histogram).unwrap();
        assert!(totals.quality(weights).is_known() && totals.gradient_norm() == 2.0);
    }

    /// Any sum, through the text of a checkpoint, to the bit.
    #[test]
    fn an_interval_comes_back_to_the_bit() {
        let mut seed = 1u64;
        for _ in 0..200 {
            let mut next = || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Mantissas of all lengths between 2^-20 and 2^20.
                f64::from_bits((1003 + (seed >> 59)) << 52 | seed >> 12) * 0.3
            };
            let mut totals = Totals { nll: next(), cross_entropy: next(), ..Totals::default() };
            totals.gradient_norm = next();
            totals.confusion = [next(), 1.0, 0.0, 3e7];
            totals.steps = 3;
            totals.counted.tokens = u64::MAX;
            totals.histogram[0] = [5, 0];
            totals.histogram[AUC_BINS - 1] = [0, 1 << 60];
            let value = serde_json::to_value(&totals).unwrap();
            let text = serde_json::to_string_pretty(&value).unwrap();
            let back: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(back, value);
            assert_eq!(serde_json::from_value::<Totals>(back).unwrap(), totals);
        }
        for bad in ["x", "1:2", "512:1/1", "0:1/-1"] {
            let mut value = serde_json::to_value(Totals::default()).unwrap();
            value["histogram"] = bad.into();
            assert!(serde_json::from_value::<Totals>(value).is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_that_are_no_good_are_told_and_in_no_sum() {
        let histogram = vec![0; 2 * AUC_BINS];
        let batch = BatchTotals { tokens: 10, masked: 2, positions: 16, squared_lengths: 100 };
        let mut refused = step([1.0; 8]);
        for (words, cause) in [
            (step([f32::NAN; 8]), Cause::NotFinite),
            (
                {
                    refused[METRIC_REFUSED] = 1f32.to_bits();
                    refused.clone()
                },
                Cause::NotFinite,
            ),
            (
                {
                    refused[METRIC_REFUSED] = 2f32.to_bits();
                    refused.clone()
                },
                Cause::NormBeyondRange,
            ),
        ] {
            let mut totals = Totals::default();
            assert_eq!(totals.add(&batch, &words, &histogram).unwrap(), Some(cause));
            assert_eq!(totals.add(&batch, &step([2.0; 8]), &histogram).unwrap(), None);
            let quality = totals.quality(LossWeights { generator: 1.0, discriminator: 0.0 });
            assert!((quality.loss - 1.0).abs() < 1e-6 && totals.skipped == 1, "{quality:?}");
        }
    }

    #[test]
    fn skipped_steps_count_and_add_nothing() {
        let histogram = vec![0; 2 * AUC_BINS];
        let mut totals = Totals::default();
        let batch = BatchTotals { tokens: 10, masked: 2, positions: 16, squared_lengths: 100 };
        let scaled = |values: [f32; 8], scale: f32, not_finite: f32| {
            let mut words = step(values);
            words[METRIC_SCALE] = scale.to_bits();
            words[METRIC_REFUSED] = not_finite.to_bits();
            words
        };
        totals.add(&batch, &scaled([f32::INFINITY; 8], 1024.0, 1.0), &histogram).unwrap();
        totals
            .add(&batch, &scaled([6.0, 5.0, 1.0, 1.0, 1.0, 1.0, 8.0, 0.0], 512.0, 0.0), &histogram)
            .unwrap();
        let quality = totals.quality(LossWeights { generator: 1.0, discriminator: 50.0 });
        assert!((quality.mlm_loss - 3.0).abs() < 1e-5 && (quality.disc_loss - 0.5).abs() < 1e-6);
        assert_eq!((totals.skipped, totals.batch.tokens, totals.gradient_norm()), (1, 20, 2.0));
        assert_eq!(totals.loss_scale(), Some(512.0));
        let last = totals.add(&batch, &scaled([0.0; 8], LOWEST_SCALE, 1.0), &histogram).unwrap();
        assert_eq!(last, Some(Cause::NotFinite));
    }
}
