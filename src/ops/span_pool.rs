//! One vector a sequence, for whether a question has an answer at all: the first token's, and the mean of all
//! under the probabilities of where an answer starts.

use rayon::prelude::*;

use crate::tensor::{Extents, Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::immediates::RowsColumns;
use super::lanes::Lanes;
use super::simd;
use super::span_pair::BlockImmediates;
use super::spans::{Softmax, by_sequence};
use super::tensor_use::{accumulate, read, starts, write};
use super::{
    Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Requirements, Scalar, TensorUse, bind,
};

/// Workgroups that share the rows of a sequence in backward: enough to fill a GPU with few sequences.
const SPLITS: usize = 8;

/// output[b] = hidden[first row of b] ‖ Σ_t p_t·hidden_t, with p the softmax of the logits over the allowed
/// tokens of sequence b. Where none is allowed, the sum and the statistics are 0.
#[derive(Clone, Debug)]
pub struct SpanPool {
    /// `[T, H]`
    pub hidden: TensorId,
    /// `[T, 1]`
    pub logits: TensorId,
    /// u32 `[T]`: 1 may be chosen, 0 may not.
    pub allowed: TensorId,
    /// u32 `[B + 1]`: first packed row of each sequence, and T.
    pub starts: TensorId,
    /// `[B, 2H]`, written.
    pub output: TensorId,
    /// `[B, 2]`, written: the largest logit and Σ exp(logit − largest), for backward.
    pub statistics: TensorId,
    pub sequences: Rows,
    pub tokens: Rows,
    /// H
    pub columns: usize,
}

/// With g_first ‖ g_pool the gradient of a sequence's output: hidden_gradient_t = p_t·g_pool, and g_first besides
/// at its first row; logits_gradient_t += p_t · g_pool·(hidden_t − pooled).
#[derive(Clone, Debug)]
pub struct SpanPoolGradient {
    pub hidden: TensorId,
    pub logits: TensorId,
    pub allowed: TensorId,
    pub starts: TensorId,
    pub statistics: TensorId,
    /// `[B, 2H]`, as forward wrote it.
    pub output: TensorId,
    /// `[B, 2H]`
    pub output_gradient: TensorId,
    /// `[T, H]`, written for every row in use.
    pub hidden_gradient: TensorId,
    /// `[T, 1]`, added to: the loss of the span has written it.
    pub logits_gradient: TensorId,
    pub sequences: Rows,
    pub tokens: Rows,
    /// H
    pub columns: usize,
}

impl Describe for SpanPool {
    fn name(&self) -> &'static str {
        "span_pool"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, sequences, columns) = (self.tokens, self.sequences, self.columns);
        vec![
            read("hidden", self.hidden, Activation, (tokens, columns)),
            read("logits", self.logits, Exact, (tokens, 1)),
            read("allowed", self.allowed, Uint, (tokens, 1)),
            read("starts", self.starts, Uint, starts(sequences)),
            write("output", self.output, Activation, (sequences, 2 * columns)),
            write("statistics", self.statistics, Exact, (sequences, 2)),
        ]
    }

    fn flops(&self, extents: &Extents) -> f64 {
        2.0 * self.tokens.count(extents) as f64 * self.columns as f64
    }
}

impl Describe for SpanPoolGradient {
    fn name(&self) -> &'static str {
        "span_pool_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, sequences, columns) = (self.tokens, self.sequences, self.columns);
        vec![
            read("hidden", self.hidden, Activation, (tokens, columns)),
            read("logits", self.logits, Exact, (tokens, 1)),
            read("allowed", self.allowed, Uint, (tokens, 1)),
            read("starts", self.starts, Uint, starts(sequences)),
            read("statistics", self.statistics, Exact, (sequences, 2)),
            read("output", self.output, Activation, (sequences, 2 * columns)),
            read("output_gradient", self.output_gradient, Activation, (sequences, 2 * columns)),
            write("hidden_gradient", self.hidden_gradient, Activation, (tokens, columns)),
            accumulate("logits_gradient", self.logits_gradient, Exact, (tokens, 1)),
        ]
    }

    /// A product for the logits and one for the hidden rows.
    fn flops(&self, extents: &Extents) -> f64 {
        4.0 * self.tokens.count(extents) as f64 * self.columns as f64
    }
}

/// to += factor · from.
#[inline(always)]
fn add_scaled<S: Scalar>(to: &mut [S], factor: S, from: &[S]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

impl<S: Scalar> CpuOp<S> for SpanPool {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.sequences.count(&memory.extents()), self.columns);
        let starts = &memory.read_uint(self.starts)[..=count];
        let hidden = memory.read(self.hidden);
        let (logits, allowed) = (memory.read(self.logits), memory.read_uint(self.allowed));
        let output = memory.write(self.output)[..count * 2 * c].par_chunks_exact_mut(2 * c);
        let statistics = memory.write(self.statistics)[..count * 2].par_chunks_exact_mut(2);
        output.zip(statistics).zip(starts.par_windows(2)).for_each(|((output, statistics), span)| {
            let (first, end) = (span[0] as usize, span[1] as usize);
            let allowed = &allowed[first..end];
            let softmax = Softmax::over(|t| logits[first + t], allowed);
            statistics.copy_from_slice(&[softmax.largest, softmax.sum]);
            let (own, pooled) = output.split_at_mut(c);
            own.copy_from_slice(&hidden[first * c..][..c]);
            pooled.fill(S::ZERO);
            for t in (first..end).filter(|&t| allowed[t - first] != 0) {
                let probability = softmax.probability(logits[t]);
                simd(
                    #[inline(always)]
                    || add_scaled(pooled, probability, &hidden[t * c..][..c]),
                );
            }
        });
    }
}

impl<S: Scalar> CpuOp<S> for SpanPoolGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.sequences.count(&memory.extents()), self.columns);
        let starts = &memory.read_uint(self.starts)[..=count];
        let hidden = memory.read(self.hidden);
        let (logits, allowed) = (memory.read(self.logits), memory.read_uint(self.allowed));
        let statistics = memory.read(self.statistics)[..count * 2].par_chunks_exact(2);
        let output = memory.read(self.output)[..count * 2 * c].par_chunks_exact(2 * c);
        let gradient = memory.read(self.output_gradient)[..count * 2 * c].par_chunks_exact(2 * c);
        let hidden_gradient = by_sequence(memory.write(self.hidden_gradient), starts, c);
        let logits_gradient = by_sequence(memory.write(self.logits_gradient), starts, 1);
        let written = hidden_gradient.into_par_iter().zip(logits_gradient);
        let read = statistics.zip(output).zip(gradient).zip(starts.par_windows(2));
        written.zip(read).for_each(|((hidden_gradient, logits_gradient), (read, span))| {
            let ((statistics, output), gradient) = read;
            let softmax = Softmax { top: 0, largest: statistics[0], sum: statistics[1] };
            let (pooled, (own, gradient)) = (&output[c..], gradient.split_at(c));
            for (t, to) in hidden_gradient.chunks_exact_mut(c).enumerate() {
                let row = span[0] as usize + t;
                if t == 0 {
                    to.copy_from_slice(own);
                } else {
                    to.fill(S::ZERO);
                }
                if allowed[row] == 0 {
                    continue;
                }
                let probability = softmax.probability(logits[row]);
                let change = simd(
                    #[inline(always)]
                    || {
                        add_scaled(to, probability, gradient);
                        deviation(gradient, &hidden[row * c..][..c], pooled)
                    },
                );
                logits_gradient[t] += probability * change;
            }
        });
    }
}

/// gradient·(hidden − pooled), in 16 lanes.
#[inline(always)]
fn deviation<S: Scalar>(gradient: &[S], hidden: &[S], pooled: &[S]) -> S {
    let mut lanes = [S::ZERO; 16];
    for ((gradient, hidden), pooled) in gradient.chunks(16).zip(hidden.chunks(16)).zip(pooled.chunks(16)) {
        for (((lane, &g), &h), &p) in lanes.iter_mut().zip(gradient).zip(hidden).zip(pooled) {
            *lane += g * (h - p);
        }
    }
    lanes.iter().fold(S::ZERO, |sum, &lane| sum + lane)
}

impl Kernels for SpanPool {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::new(self.columns, 16, 256);
        let immediates = BlockImmediates::new(self.sequences, self.columns, lanes).into();
        let blocks = Count::Fixed(lanes.per_thread());
        let dispatch = Dispatch {
            shader: "span_pool",
            constants: lanes.constants(),
            bindings: bind([
                self.hidden,
                self.logits,
                self.allowed,
                self.starts,
                self.output,
                self.statistics,
            ]),
            immediates,
            grid: Grid(vec![Count::Rows { rows: self.sequences, per: 1 }, blocks]),
        };
        Candidate::only("blocks of channels", dispatch)
    }
}

impl SpanPoolGradient {
    fn grid(&self) -> Grid {
        Grid(vec![Count::Rows { rows: self.sequences, per: 1 }, Count::Fixed(SPLITS)])
    }

    fn hidden_dispatch(&self) -> Dispatch {
        let mut constants = Lanes::elementwise(self.columns).constants();
        constants.push(("SPLITS", SPLITS as u32));
        Dispatch {
            shader: "span_pool_gradient_hidden",
            constants,
            bindings: bind([
                self.logits,
                self.allowed,
                self.starts,
                self.statistics,
                self.output_gradient,
                self.hidden_gradient,
            ]),
            immediates: RowsColumns::new(self.sequences, self.columns).into(),
            grid: self.grid(),
        }
    }

    fn logits_dispatch(&self) -> Dispatch {
        let mut constants = Lanes::new(self.columns, 32, 256).constants();
        constants.push(("SPLITS", SPLITS as u32));
        Dispatch {
            shader: "span_pool_gradient_logits",
            constants,
            bindings: bind([
                self.hidden,
                self.logits,
                self.allowed,
                self.starts,
                self.statistics,
                self.output,
                self.output_gradient,
                self.logits_gradient,
            ]),
            immediates: RowsColumns::new(self.sequences, self.columns).into(),
            grid: self.grid(),
        }
    }
}

impl Kernels for SpanPoolGradient {
    fn candidates(&self) -> Vec<Candidate> {
        // Two kernels: together they would bind nine buffers, and WebGPU promises eight.
        let dispatches = vec![self.hidden_dispatch(), self.logits_dispatch()];
        vec![Candidate { strategy: "split sequences", requires: Requirements::default(), dispatches }]
    }
}
