//! Softmax, cross-entropy, sampling and the gradient of the logits, in place, for one chunk of masked rows.
//!
//! Whole vocabulary logits never exist: the model pushes, chunk by chunk, logits → this → dX, dW
//! (docs/spec.md §3.3 and §3.4).

use rayon::prelude::*;

use crate::tensor::{Rows, StepValues, TensorId, random};

use super::Kind::{Exact, Uint};
use super::immediates::{RowWords, immediates};
use super::scalar::ln_positive;
use super::simd;
use super::tensor_use::{accumulate, part, read, write};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// Columns of `results`: loss, whether the likeliest token is the original, whether the sample is.
pub const RESULTS: usize = 3;

/// For every row m of the chunk with original token y: loss −ln softmax(logits)[y]; a sample by Gumbel-max
/// of logits / temperature (the step's); and logits ← scale · (softmax(logits) − onehot(y)), the gradient of
/// generator_weight · Σ loss / (labelled_total + 1e-6).
///
/// Gumbel noise: g = −ln E, E = −ln(1 − u), u = (k + ½)·2⁻²³ with k the upper 23 bits of word `token mod 2` of
/// `threefry(derive(step key, site, sequence), [slot, token / 2])`. Ties go to the lowest id.
#[derive(Clone, Debug)]
pub struct VocabularyLoss {
    /// `[chunk, V]`.
    pub logits: TensorId,
    /// Original ids, `[M]`.
    pub targets: TensorId,
    /// Local sequence of each slot and its number within the sequence, `[M]`: coordinates of the draws.
    pub sequences: TensorId,
    pub slots: TensorId,
    /// `[M]`: written where `draws`, else read (`parity` brings its own samples).
    pub sampled: TensorId,
    pub draws: bool,
    /// `[M, RESULTS]`, written.
    pub results: TensorId,
    /// The chunk's rows of the masked slots.
    pub rows: Rows,
    pub vocabulary: usize,
    pub generator_weight: f32,
    /// Whether the gradient replaces the logits; else they stay.
    pub gradient: bool,
    pub site: u32,
}

impl VocabularyLoss {
    /// Factor of (softmax − onehot) in the gradient.
    fn scale(&self, values: &StepValues) -> f64 {
        f64::from(self.generator_weight) * f64::from(values.loss_scale)
            / (f64::from(values.labelled_total) + 1e-6)
    }
}

impl Describe for VocabularyLoss {
    fn name(&self) -> &'static str {
        "vocabulary_loss"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        // The logits are the chunk's own, the rest is that of all masked rows.
        let first = self.rows.offset;
        let mut tensors = vec![
            read("targets", self.targets, Uint, part(first, self.rows, 1)),
            read("sequences", self.sequences, Uint, part(first, self.rows, 1)),
            read("slots", self.slots, Uint, part(first, self.rows, 1)),
            write("results", self.results, Exact, part(first, self.rows, RESULTS)),
            accumulate("logits", self.logits, Exact, (self.rows, self.vocabulary)),
        ];
        let sampled = if self.draws { write } else { read };
        tensors.push(sampled("sampled", self.sampled, Uint, part(first, self.rows, 1)));
        tensors
    }
}

impl<S: Scalar> CpuOp<S> for VocabularyLoss {
    fn run(&self, memory: &Memory<'_, S>) {
        let count = self.rows.count(&memory.extents());
        let first = self.rows.offset;
        let logits = &mut memory.write(self.logits)[..count * self.vocabulary];
        let targets = &memory.read_uint(self.targets)[first..];
        let sequences = &memory.read_uint(self.sequences)[first..];
        let slots = &memory.read_uint(self.slots)[first..];
        let results = &mut memory.write(self.results)[first * RESULTS..][..count * RESULTS];
        let (values, scale) = (memory.values, S::of(self.scale(memory.values)));
        let rows = logits.par_chunks_exact_mut(self.vocabulary).zip(results.par_chunks_exact_mut(RESULTS));
        if self.draws {
            let sampled = &mut memory.write_uint(self.sampled)[first..first + count];
            rows.zip(sampled).enumerate().for_each(|(m, ((logits, results), sampled))| {
                let key = random::derive(values.key, self.site, values.first_sequence + sequences[m]);
                *sampled = simd(
                    #[inline(always)]
                    || sample(logits, S::of(f64::from(values.inverse_temperature)), key, slots[m]),
                );
                self.row(logits, results, [targets[m], *sampled], scale);
            });
        } else {
            let sampled = &memory.read_uint(self.sampled)[first..first + count];
            rows.zip(sampled).enumerate().for_each(|(m, ((logits, results), &sampled))| {
                self.row(logits, results, [targets[m], sampled], scale);
            });
        }
    }
}

impl VocabularyLoss {
    /// Results of one row, and where wanted its gradient in place of the logits.
    fn row<S: Scalar>(&self, logits: &mut [S], results: &mut [S], [target, sampled]: [u32; 2], scale: S) {
        let target = target as usize;
        let (top, sum) = simd(
            #[inline(always)]
            || top_and_sum(logits),
        );
        let largest = logits[top as usize];
        results[0] = sum.ln() - (logits[target] - largest);
        results[1] = S::of(f64::from(u8::from(top as usize == target)));
        results[2] = S::of(f64::from(u8::from(sampled as usize == target)));
        if self.gradient {
            let factor = scale / sum;
            simd(
                #[inline(always)]
                || {
                    for x in logits.iter_mut() {
                        *x = (*x - largest).exp() * factor;
                    }
                },
            );
            logits[target] -= scale;
        }
    }
}

/// Lanes of the vectorised loops; a fixed number, so that sums do not depend on the processor's width.
const LANES: usize = 16;

/// Lowest index of the largest element, and Σ exp(x − largest).
#[inline(always)]
fn top_and_sum<S: Scalar>(row: &[S]) -> (u32, S) {
    let mut best = [S::of(-1e30); LANES];
    for chunk in row.chunks(LANES) {
        for (b, &x) in best.iter_mut().zip(chunk) {
            *b = b.maximum(x);
        }
    }
    let largest = best.iter().fold(S::of(-1e30), |a, &b| a.maximum(b));
    let top = row.iter().position(|&x| x == largest).unwrap_or(0);
    let mut sums = [S::ZERO; LANES];
    for chunk in row.chunks(LANES) {
        for (s, &x) in sums.iter_mut().zip(chunk) {
            *s += (x - largest).exp();
        }
    }
    (top as u32, sums.iter().fold(S::ZERO, |a, &b| a + b))
}

/// Lowest index of the largest logit / temperature + Gumbel noise.
#[inline(always)]
fn sample<S: Scalar>(row: &[S], inverse_temperature: S, key: [u32; 2], slot: u32) -> u32 {
    let mut best = [S::of(-1e30); LANES];
    let mut winners = [0u32; LANES];
    for (block, chunk) in row.chunks(LANES).enumerate() {
        let mut words = [0u32; LANES];
        for pair in 0..LANES / 2 {
            let counter = [slot, (block * LANES / 2 + pair) as u32];
            let [even, odd] = random::threefry(key, counter);
            words[2 * pair] = even;
            words[2 * pair + 1] = odd;
        }
        let mut noise = [0f32; LANES];
        for (noise, &word) in noise.iter_mut().zip(&words) {
            let u = ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
            *noise = -ln_positive(-ln_positive(1.0 - u));
        }
        for lane in 0..chunk.len() {
            let score = chunk[lane] * inverse_temperature + S::of(f64::from(noise[lane]));
            if score > best[lane] {
                best[lane] = score;
                winners[lane] = (block * LANES + lane) as u32;
            }
        }
    }
    let mut winner = 0;
    for lane in 1..LANES {
        let better = best[lane] > best[winner];
        if better || (best[lane] == best[winner] && winners[lane] < winners[winner]) {
            winner = lane;
        }
    }
    winners[winner]
}

immediates! {
    struct Immediates {
        rows: RowWords,
        vocabulary: u32,
        site: u32,
        generator_weight: f32,
    }
}

impl Kernels for VocabularyLoss {
    fn candidates(&self) -> Vec<Candidate> {
        let immediates = Immediates {
            rows: self.rows.into(),
            vocabulary: self.vocabulary as u32,
            site: self.site,
            generator_weight: self.generator_weight,
        };
        let of_slots = [self.targets, self.sequences, self.slots];
        let dispatch = Dispatch {
            shader: "vocabulary_loss",
            constants: vec![("DRAWS", u32::from(self.draws)), ("GRADIENT", u32::from(self.gradient))],
            bindings: bind([self.logits, of_slots[0], of_slots[1], of_slots[2], self.results, self.sampled]),
            immediates: immediates.into(),
            grid: Grid(vec![Count::Rows { rows: self.rows, per: 1 }]),
        };
        Candidate::only("row", dispatch)
    }
}
