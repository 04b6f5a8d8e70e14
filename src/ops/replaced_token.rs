//! The replaced-token-detection head's last layer, its loss and metrics (docs/spec.md §3.5).

use rayon::prelude::*;

use crate::tensor::{Extents, Rows, StepValues, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::immediates::{RowWords, RowsColumns, immediates};
use super::replace::IGNORED;
use super::simd;
use super::tensor_use::{accumulate, flat, read, scratch, vector, write};
use super::{
    Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, PartialSums, Scalar, SumTarget,
    TensorUse, bind,
};

pub use super::constants::AUC_BINS;
use super::constants::{METRIC_CROSS_ENTROPY, METRIC_FALSE_NEGATIVES, METRIC_TRUE_POSITIVES};

/// Parts of the weight gradient that are summed side by side, on every device the same.
pub const PARTIALS: usize = 64;

/// logits[t] = hidden[t]·weight + bias; results[t] = (binary cross-entropy against labels[t],
/// gradient of the logit under the step's discriminator_weight · Σ loss / (tokens_total + 1e-6)).
#[derive(Clone, Debug)]
pub struct ReplacedToken {
    /// `[T, H]`, after GELU.
    pub hidden: TensorId,
    /// `[1, H]`.
    pub weight: TensorId,
    /// `[1]`.
    pub bias: TensorId,
    /// `[T]`: 0 original, 1 replaced, 2 padding, which has neither loss nor gradient.
    pub labels: TensorId,
    /// `[T]`, written.
    pub logits: TensorId,
    /// `[T, 2]`, written.
    pub results: TensorId,
    pub rows: Rows,
    pub columns: usize,
}

/// Adds Σ loss, TP, FP, TN and FN (replaced where the logit is above 0) to their slots of the metrics;
/// histogram[label, bin of the logit] += 1.
#[derive(Clone, Debug)]
pub struct ReplacedTokenMetrics {
    pub logits: TensorId,
    pub results: TensorId,
    pub labels: TensorId,
    /// `[METRICS]`
    pub metrics: TensorId,
    /// `[2, AUC_BINS]` integers.
    pub histogram: TensorId,
    pub rows: Rows,
}

/// hidden_gradient[t] = g[t]·weight, weight_gradient += Σ g[t]·hidden[t], bias_gradient += Σ g[t],
/// with g[t] the gradient of the logit.
#[derive(Clone, Debug)]
pub struct ReplacedTokenGradient {
    pub hidden: TensorId,
    pub results: TensorId,
    pub weight: TensorId,
    pub hidden_gradient: TensorId,
    pub weight_gradient: TensorId,
    pub bias_gradient: TensorId,
    /// `[PARTIALS, H + 1]`, scratch.
    pub partials: TensorId,
    pub rows: Rows,
    pub columns: usize,
}

impl ReplacedToken {
    fn scale(&self, values: &StepValues) -> f64 {
        f64::from(values.discriminator_weight) * f64::from(values.loss_scale)
            / (f64::from(values.tokens_total) + 1e-6)
    }
}

impl Describe for ReplacedToken {
    fn name(&self) -> &'static str {
        "replaced_token"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("hidden", self.hidden, Activation, (self.rows, self.columns)),
            read("weight", self.weight, Exact, vector(self.columns)),
            read("bias", self.bias, Exact, vector(1)),
            read("labels", self.labels, Uint, (self.rows, 1)),
            write("logits", self.logits, Exact, (self.rows, 1)),
            write("results", self.results, Exact, (self.rows, 2)),
        ]
    }

    fn flops(&self, extents: &Extents) -> f64 {
        2.0 * self.rows.count(extents) as f64 * self.columns as f64
    }
}

/// Σ a·b in 16 lanes.
#[inline(always)]
fn dot<S: Scalar>(a: &[S], b: &[S]) -> S {
    let mut lanes = [S::ZERO; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().fold(S::ZERO, |sum, &lane| sum + lane)
}

impl<S: Scalar> CpuOp<S> for ReplacedToken {
    fn run(&self, memory: &Memory<'_, S>) {
        let count = self.rows.count(&memory.extents());
        let hidden = &memory.read(self.hidden)[..count * self.columns];
        let weight = memory.read(self.weight);
        let bias = memory.read(self.bias)[0];
        let labels = memory.read_uint(self.labels);
        let logits = &mut memory.write(self.logits)[..count];
        let results = &mut memory.write(self.results)[..count * 2];
        let scale = S::of(self.scale(memory.values));
        hidden
            .par_chunks_exact(self.columns)
            .zip(logits)
            .zip(results.par_chunks_exact_mut(2))
            .zip(labels)
            .for_each(|(((hidden, logit), results), &label)| {
                let x = simd(
                    #[inline(always)]
                    || dot(hidden, weight),
                ) + bias;
                *logit = x;
                if label == IGNORED {
                    results.fill(S::ZERO);
                    return;
                }
                let label = S::of(f64::from(label));
                // max(x, 0) − x·y + ln(1 + e^−|x|) never overflows.
                let small = (-(x.maximum(-x))).exp();
                let positive = x.maximum(S::ZERO);
                let sigmoid = if x > S::ZERO { S::ONE } else { small } / (S::ONE + small);
                results[0] = positive - x * label + S::of(small.to_f64().ln_1p());
                results[1] = (sigmoid - label) * scale;
            });
    }
}

impl Kernels for ReplacedToken {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = Dispatch {
            shader: "replaced_token",
            constants: vec![],
            bindings: bind([self.hidden, self.weight, self.bias, self.labels, self.logits, self.results]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: Grid(vec![Count::Rows { rows: self.rows, per: 16 }]),
        };
        Candidate::only("rows", dispatch)
    }
}

impl Describe for ReplacedTokenMetrics {
    fn name(&self) -> &'static str {
        "replaced_token_metrics"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("logits", self.logits, Exact, (self.rows, 1)),
            read("results", self.results, Exact, (self.rows, 2)),
            read("labels", self.labels, Uint, (self.rows, 1)),
            accumulate("metrics", self.metrics, Exact, flat(METRIC_FALSE_NEGATIVES + 1)),
            accumulate("histogram", self.histogram, Uint, (2, AUC_BINS)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for ReplacedTokenMetrics {
    fn run(&self, memory: &Memory<'_, S>) {
        let count = self.rows.count(&memory.extents());
        let logits = &memory.read(self.logits)[..count];
        let results = memory.read(self.results);
        let labels = memory.read_uint(self.labels);
        let metrics = memory.write(self.metrics);
        let histogram = memory.write_uint(self.histogram);
        let mut loss = 0.0;
        // TP, FP, TN, FN, as in the metrics.
        let mut counts = [0u32; 4];
        for (row, &logit) in logits.iter().enumerate() {
            loss += results[2 * row].to_f64();
            if labels[row] == IGNORED {
                continue;
            }
            let replaced = labels[row] as usize;
            let index = match (logit > S::ZERO, replaced == 1) {
                (true, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (false, true) => 3,
            };
            counts[index] += 1;
            let bin = ((logit.to_f64() + 16.0) * 16.0).clamp(0.0, (AUC_BINS - 1) as f64) as usize;
            histogram[replaced * AUC_BINS + bin] += 1;
        }
        metrics[METRIC_CROSS_ENTROPY] += S::of(loss);
        let confusion = &mut metrics[METRIC_TRUE_POSITIVES..=METRIC_FALSE_NEGATIVES];
        for (metric, count) in confusion.iter_mut().zip(counts) {
            *metric += S::of(f64::from(count));
        }
    }
}

immediates! {
    struct MetricsImmediates {
        rows: RowWords,
    }
}

impl Kernels for ReplacedTokenMetrics {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = Dispatch {
            shader: "replaced_token_metrics",
            constants: vec![],
            bindings: bind([self.logits, self.results, self.labels, self.metrics, self.histogram]),
            immediates: MetricsImmediates { rows: self.rows.into() }.into(),
            grid: Grid(vec![Count::Fixed(1)]),
        };
        Candidate::only("one workgroup", dispatch)
    }
}

impl Describe for ReplacedTokenGradient {
    fn name(&self) -> &'static str {
        "replaced_token_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("hidden", self.hidden, Activation, (self.rows, self.columns)),
            read("results", self.results, Exact, (self.rows, 2)),
            read("weight", self.weight, Exact, vector(self.columns)),
            write("hidden_gradient", self.hidden_gradient, Activation, (self.rows, self.columns)),
            accumulate("weight_gradient", self.weight_gradient, Exact, vector(self.columns)),
            accumulate("bias_gradient", self.bias_gradient, Exact, vector(1)),
            scratch("partials", self.partials, Exact, (PARTIALS, self.columns + 1)),
        ]
    }

    fn flops(&self, extents: &Extents) -> f64 {
        4.0 * self.rows.count(extents) as f64 * self.columns as f64
    }
}

impl<S: Scalar> CpuOp<S> for ReplacedTokenGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, columns) = (self.rows.count(&memory.extents()), self.columns);
        if count == 0 {
            return;
        }
        let hidden = &memory.read(self.hidden)[..count * columns];
        let results = memory.read(self.results);
        let weight = memory.read(self.weight);
        let output = &mut memory.write(self.hidden_gradient)[..count * columns];
        let block = count.div_ceil(PARTIALS);
        let blocks = count.div_ceil(block);
        let partials = &mut memory.write(self.partials)[..blocks * (columns + 1)];
        hidden
            .par_chunks(block * columns)
            .zip(output.par_chunks_mut(block * columns))
            .zip(partials.par_chunks_exact_mut(columns + 1))
            .enumerate()
            .for_each(|(index, ((hidden, output), partial))| {
                simd(
                    #[inline(always)]
                    || {
                        partial.fill(S::ZERO);
                        let rows = hidden.chunks_exact(columns).zip(output.chunks_exact_mut(columns));
                        for (row, (hidden, output)) in rows.enumerate() {
                            let gradient = results[2 * (index * block + row) + 1];
                            for (((o, p), &h), &w) in
                                output.iter_mut().zip(partial.iter_mut()).zip(hidden).zip(weight)
                            {
                                *o = gradient * w;
                                *p += gradient * h;
                            }
                            partial[columns] += gradient;
                        }
                    },
                );
            });
        let weight_gradient = memory.write(self.weight_gradient);
        let bias_gradient = memory.write(self.bias_gradient);
        for partial in partials.chunks_exact(columns + 1) {
            for (sum, &p) in weight_gradient.iter_mut().zip(&partial[..columns]) {
                *sum += p;
            }
            bias_gradient[0] += partial[columns];
        }
    }
}

impl Kernels for ReplacedTokenGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = Dispatch {
            shader: "replaced_token_gradient",
            constants: vec![("PARTIALS", PARTIALS as u32)],
            bindings: bind([self.hidden, self.results, self.weight, self.hidden_gradient, self.partials]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: Grid(vec![Count::Fixed(PARTIALS)]),
        };
        Candidate::only("blocks of rows", dispatch)
    }

    fn sums(&self) -> Option<PartialSums> {
        let columns = self.columns + 1;
        let target = |(tensor, first, elements)| SumTarget { tensor, at: 0, first, elements };
        let bias = (self.bias_gradient, self.columns, 1);
        let targets = [(self.weight_gradient, 0, self.columns), bias].map(target).to_vec();
        Some(PartialSums { partials: self.partials, parts: PARTIALS, columns, targets })
    }
}
