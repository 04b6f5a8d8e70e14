//! Losses of the fine-tuning heads whose rows stand for themselves: classification of sequences or tokens,
//! yes or no, and regression.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::tensor::{Rows, StepValues, TensorId};

use super::Kind::{Exact, Uint};
use super::immediates::{RowsColumns, immediates};
use super::tensor_use::{read, write};
use super::{
    Binding, Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind,
};

/// The target of a row without loss and gradient ([`RowLossKind::Softmax`]).
pub use super::constants::NO_TARGET;

/// Columns of `results`: loss, correct, count. What `MetricSums` sums.
pub const RESULTS: usize = 3;

/// Rows a task of the CPU computes.
const TASK_ROWS: usize = 64;

/// Threads of a workgroup of the softmax: one wave on AMD.
const WIDTH: usize = 64;

/// Threads of a workgroup of the others, a row each.
const ROWS: usize = 256;

/// What the loss of a row is. `correct` and the gradient of the logits, before its factor:
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLossKind {
    /// ln Σ exp(logits) − logits[target]; whether the target is the first of the largest logits;
    /// softmax − onehot.
    Softmax,
    /// Binary cross-entropy of sigmoid(logit) with a target in 0..=1; (logit > 0) == (target > ½);
    /// sigmoid − target.
    Sigmoid,
    /// (logit − target)²; never; 2·(logit − target).
    Squared,
}

/// results[r] = (loss, correct 0 or 1, 1) of row r, and the gradient of
/// weight · loss_scale · Σ loss / labelled_total: the step's labelled_total is the denominator over the whole batch.
///
/// The logits are indexed flat, so the tensor may be declared in another shape of the same elements: the `[B, 1]`
/// of multiple choice are the `[B/5, 5]` of this.
#[derive(Clone, Debug)]
pub struct RowLoss {
    pub kind: RowLossKind,
    /// `[R, C]`; C is 1 except for [`RowLossKind::Softmax`].
    pub logits: TensorId,
    /// `[R]`: u32 classes, or [`NO_TARGET`], for [`RowLossKind::Softmax`]; floats for the others.
    pub targets: TensorId,
    /// `[R, 3]`, written; all 0 where there is no target.
    pub results: TensorId,
    /// `[R, C]`, written; 0 where there is no target.
    pub gradient: Option<TensorId>,
    pub rows: Rows,
    pub columns: usize,
    pub weight: f32,
}

/// Factor of the gradients of a head's loss.
pub(super) fn loss_factor(weight: f32, values: &StepValues) -> f64 {
    f64::from(weight) * f64::from(values.loss_scale) / f64::from(values.labelled_total)
}

impl Describe for RowLoss {
    fn name(&self) -> &'static str {
        "row_loss"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        let targets = if self.kind == RowLossKind::Softmax { Uint } else { Exact };
        let mut tensors = vec![
            read("logits", self.logits, Exact, (rows, columns)),
            read("targets", self.targets, targets, (rows, 1)),
            write("results", self.results, Exact, (rows, RESULTS)),
        ];
        tensors.extend(self.gradient.map(|gradient| write("gradient", gradient, Exact, (rows, columns))));
        tensors
    }

    fn check(&self) -> Result<()> {
        let one = self.kind == RowLossKind::Softmax || self.columns == 1;
        ensure!(one, "{:?} takes 1 column, not {}", self.kind, self.columns);
        Ok(())
    }
}

/// The targets of all rows.
enum Targets<'a, S> {
    Classes(&'a [u32]),
    Probabilities(&'a [S]),
    Values(&'a [S]),
}

impl RowLoss {
    fn targets<'a, S: Scalar>(&self, memory: &Memory<'a, S>) -> Targets<'a, S> {
        match self.kind {
            RowLossKind::Softmax => Targets::Classes(memory.read_uint(self.targets)),
            RowLossKind::Sigmoid => Targets::Probabilities(memory.read(self.targets)),
            RowLossKind::Squared => Targets::Values(memory.read(self.targets)),
        }
    }
}

impl<S: Scalar> Targets<'_, S> {
    /// Loss and correctness of row `row`; its gradient replaces what `gradient` holds (nothing, or the row).
    fn row(&self, row: usize, logits: &[S], factor: S, gradient: &mut [S]) -> Option<(S, bool)> {
        match self {
            Targets::Classes(classes) if classes[row] == NO_TARGET => {
                gradient.fill(S::ZERO);
                None
            }
            Targets::Classes(classes) => Some(softmax(logits, classes[row] as usize, factor, gradient)),
            Targets::Probabilities(targets) => {
                let (x, y) = (logits[0], targets[row]);
                // max(x, 0) − x·y + ln(1 + e^−|x|) never overflows.
                let small = (-(x.maximum(-x))).exp();
                let sigmoid = if x > S::ZERO { S::ONE } else { small } / (S::ONE + small);
                gradient.fill((sigmoid - y) * factor);
                let loss = x.maximum(S::ZERO) - x * y + S::of(small.to_f64().ln_1p());
                Some((loss, (x > S::ZERO) == (y > S::of(0.5))))
            }
            Targets::Values(targets) => {
                let difference = logits[0] - targets[row];
                gradient.fill(S::of(2.0) * difference * factor);
                Some((difference * difference, false))
            }
        }
    }
}

/// Cross-entropy of a row, and whether `class` is the first of its largest logits.
fn softmax<S: Scalar>(logits: &[S], class: usize, factor: S, gradient: &mut [S]) -> (S, bool) {
    let top = (1..logits.len()).fold(0, |top, c| if logits[c] > logits[top] { c } else { top });
    let largest = logits[top];
    let sum = logits.iter().fold(S::ZERO, |sum, &x| sum + (x - largest).exp());
    for (g, &x) in gradient.iter_mut().zip(logits) {
        *g = (x - largest).exp() * (factor / sum);
    }
    if let Some(g) = gradient.get_mut(class) {
        *g -= factor;
    }
    (sum.ln() - (logits[class] - largest), top == class)
}

impl<S: Scalar> CpuOp<S> for RowLoss {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.rows.count(&memory.extents()), self.columns);
        let logits = &memory.read(self.logits)[..count * c];
        let targets = self.targets(memory);
        let results = memory.write(self.results)[..count * RESULTS].par_chunks_mut(TASK_ROWS * RESULTS);
        let factor = S::of(loss_factor(self.weight, memory.values));
        // Rows of a task with their gradients, which are empty where none are wanted.
        let rows = |task: usize, results: &mut [S], gradients: &mut [S]| {
            for (index, results) in results.chunks_exact_mut(RESULTS).enumerate() {
                let row = task * TASK_ROWS + index;
                let gradient = gradients.get_mut(index * c..(index + 1) * c).unwrap_or_default();
                match targets.row(row, &logits[row * c..][..c], factor, gradient) {
                    Some((loss, correct)) => {
                        results.copy_from_slice(&[loss, S::of(f64::from(u8::from(correct))), S::ONE]);
                    }
                    None => results.fill(S::ZERO),
                }
            }
        };
        match self.gradient {
            Some(gradient) => {
                let gradients = memory.write(gradient)[..count * c].par_chunks_mut(TASK_ROWS * c);
                let tasks = results.zip(gradients).enumerate();
                tasks.for_each(|(task, (results, gradients))| rows(task, results, gradients));
            }
            None => results.enumerate().for_each(|(task, results)| rows(task, results, &mut [])),
        }
    }
}

immediates! {
    /// Of the losses of heads.
    pub(super) struct LossImmediates {
        shape: RowsColumns,
        weight: f32,
    }
}

impl LossImmediates {
    pub(super) fn new(rows: Rows, columns: usize, weight: f32) -> Self {
        LossImmediates { shape: RowsColumns::new(rows, columns), weight }
    }
}

impl RowLoss {
    fn softmax_dispatch(&self) -> Dispatch {
        // Short rows share a workgroup.
        let threads = self.columns.next_power_of_two().min(WIDTH);
        let rows = WIDTH / threads;
        self.dispatch(
            "row_loss_softmax",
            vec![("THREADS", threads as u32), ("ROWS", rows as u32)],
            Grid(vec![Count::Rows { rows: self.rows, per: rows }]),
        )
    }

    fn value_dispatch(&self) -> Dispatch {
        let sigmoid = u32::from(self.kind == RowLossKind::Sigmoid);
        self.dispatch(
            "row_loss_value",
            vec![("ROWS", ROWS as u32), ("SIGMOID", sigmoid)],
            Grid(vec![Count::Rows { rows: self.rows, per: ROWS }]),
        )
    }

    fn dispatch(
        &self,
        shader: &'static str,
        mut constants: Vec<(&'static str, u32)>,
        grid: Grid,
    ) -> Dispatch {
        constants.push(("GRADIENT", u32::from(self.gradient.is_some())));
        let mut bindings = bind([self.logits, self.targets, self.results]);
        bindings.extend(self.gradient.map(Binding::from));
        let immediates = LossImmediates::new(self.rows, self.columns, self.weight).into();
        Dispatch { shader, constants, bindings, immediates, grid }
    }
}

impl Kernels for RowLoss {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = match self.kind {
            RowLossKind::Softmax => self.softmax_dispatch(),
            RowLossKind::Sigmoid | RowLossKind::Squared => self.value_dispatch(),
        };
        Candidate::only("rows", dispatch)
    }
}
