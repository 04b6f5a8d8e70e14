//! The loss of heads that point at tokens: where an answer starts and ends.

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::{Exact, Uint};
use super::row_loss::{LossImmediates, RESULTS, loss_factor};
use super::spans::{Softmax, by_sequence};
use super::tensor_use::{flat, read, starts, write};
use super::{
    Binding, Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind,
};

/// Per sequence b and column c, a softmax of the logits over the allowed tokens of b, whose target is one of
/// them. results[b] = (mean over the columns of −ln p[target], 1 where the target is the first of the likeliest
/// tokens in every column, 1), and gradient = (p − onehot) · weight / C · loss_scale / labelled_total.
#[derive(Clone, Debug)]
pub struct SpanLoss {
    /// `[T, C]`: starts, or starts and ends.
    pub logits: TensorId,
    /// u32 `[T]`: 1 may win, 0 may not.
    pub allowed: TensorId,
    /// u32 `[B + 1]`: first packed row of each sequence, and T.
    pub starts: TensorId,
    /// u32 `[B, C]`: positions within the sequence, always allowed.
    pub targets: TensorId,
    /// `[B, 3]`, written.
    pub results: TensorId,
    /// `[T, C]`, written for every row in use; 0 where not allowed.
    pub gradient: Option<TensorId>,
    pub sequences: Rows,
    pub tokens: Rows,
    pub columns: usize,
    pub weight: f32,
}

impl Describe for SpanLoss {
    fn name(&self) -> &'static str {
        "span_loss"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (sequences, columns) = (self.sequences, self.columns);
        let mut tensors = vec![
            read("logits", self.logits, Exact, (self.tokens, columns)),
            read("allowed", self.allowed, Uint, (self.tokens, 1)),
            read("starts", self.starts, Uint, starts(sequences)),
            read("targets", self.targets, Uint, flat(sequences.capacity * columns)),
            write("results", self.results, Exact, (sequences, RESULTS)),
        ];
        tensors
            .extend(self.gradient.map(|gradient| write("gradient", gradient, Exact, (self.tokens, columns))));
        tensors
    }
}

/// One sequence of the loss: its part of every tensor.
struct Sequence<'a, S> {
    /// `[t, C]`
    logits: &'a [S],
    /// `[t]`
    allowed: &'a [u32],
    /// `[C]`
    targets: &'a [u32],
    factor: S,
}

impl<S: Scalar> Sequence<'_, S> {
    /// Writes the results, and the gradient `[t, C]` where it is not empty.
    fn run(&self, results: &mut [S], gradient: &mut [S]) {
        let columns = self.targets.len();
        let (mut loss, mut correct) = (S::ZERO, true);
        for (column, &target) in self.targets.iter().enumerate() {
            let target = target as usize;
            let logit = |t: usize| self.logits[t * columns + column];
            let softmax = Softmax::over(logit, self.allowed);
            loss += softmax.sum.ln() - (logit(target) - softmax.largest);
            correct &= softmax.top == target;
            for (t, gradient) in gradient.chunks_exact_mut(columns).enumerate() {
                let probability = if self.allowed[t] == 0 { S::ZERO } else { softmax.probability(logit(t)) };
                let onehot = if t == target { S::ONE } else { S::ZERO };
                gradient[column] = (probability - onehot) * self.factor;
            }
        }
        results[0] = loss / S::of(columns as f64);
        results[1] = S::of(f64::from(u8::from(correct)));
        results[2] = S::ONE;
    }
}

impl<S: Scalar> CpuOp<S> for SpanLoss {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.sequences.count(&memory.extents()), self.columns);
        let starts = &memory.read_uint(self.starts)[..=count];
        let (logits, allowed) = (memory.read(self.logits), memory.read_uint(self.allowed));
        let targets = memory.read_uint(self.targets)[..count * c].par_chunks_exact(c);
        let results = memory.write(self.results)[..count * RESULTS].par_chunks_exact_mut(RESULTS);
        let gradients = match self.gradient {
            Some(gradient) => by_sequence(memory.write(gradient), starts, c),
            None => (0..count).map(|_| Default::default()).collect(),
        };
        let factor = S::of(loss_factor(self.weight, memory.values) / c as f64);
        let sequences = results.zip(gradients).zip(targets).zip(starts.par_windows(2));
        sequences.for_each(|(((results, gradient), targets), span)| {
            let (first, end) = (span[0] as usize, span[1] as usize);
            let (logits, allowed) = (&logits[first * c..end * c], &allowed[first..end]);
            Sequence { logits, allowed, targets, factor }.run(results, gradient);
        });
    }
}

impl Kernels for SpanLoss {
    fn candidates(&self) -> Vec<Candidate> {
        let mut bindings = bind([self.logits, self.allowed, self.starts, self.targets, self.results]);
        bindings.extend(self.gradient.map(Binding::from));
        let immediates = LossImmediates::new(self.sequences, self.columns, self.weight).into();
        let dispatch = Dispatch {
            shader: "span_loss",
            constants: vec![("GRADIENT", u32::from(self.gradient.is_some()))],
            bindings,
            immediates,
            grid: Grid(vec![Count::Rows { rows: self.sequences, per: 1 }]),
        };
        Candidate::only("sequences", dispatch)
    }
}
