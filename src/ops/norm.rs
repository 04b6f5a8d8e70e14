//! Layer normalisation with what surrounds it in a post-LN transformer: dropout of the branch and the residual.
//!
//! Variance in two passes (mean, then mean of squared deviations), always in f32 or better: the one-pass form
//! E[x²] − E[x]² cancels where the mean is large against the deviation.

use anyhow::Result;
use rayon::prelude::*;

use crate::tensor::{Dropout, Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::dropout::{RowDropout, check_coordinates};
use super::tensor_use::{accumulate, read, scratch, vector, write};
use super::{CpuOp, Describe, Memory, Scalar, TensorUse, simd};

/// How many partial sums of the weight and bias gradients there are, each of one contiguous block of rows: blocks enough
/// to fill a GPU, of 16 rows at least. From the capacity alone, so that the order of summation is the same on every
/// device.
pub fn partials(rows: Rows) -> usize {
    rows.capacity.div_ceil(16).clamp(1, 512)
}

/// As many blocks the CPU makes at most: more would only be more to add up.
const CPU_BLOCKS: usize = 128;

/// Rows a task of the CPU takes.
pub(super) const TASK_ROWS: usize = 32;

/// output = LayerNorm(sum)·weight + bias with sum = residual + dropout(input).
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[R, C]`; where there is a residual it is overwritten with the sum, which backward needs.
    pub input: TensorId,
    /// `[R, C]`
    pub residual: Option<TensorId>,
    /// `[C]`
    pub weight: TensorId,
    /// `[C]`
    pub bias: TensorId,
    /// `[R, 2]`, written: mean and 1/σ of each row.
    pub statistics: TensorId,
    /// `[R, C]`, written.
    pub output: TensorId,
    pub rows: Rows,
    pub columns: usize,
    /// Added to the variance, inside the root.
    pub epsilon: f32,
    /// Of `input`; off where there is no residual.
    pub dropout: Dropout,
    /// u32 `[R]`: position of each row in its sequence; needed where dropout is on.
    pub positions: Option<TensorId>,
    /// u32 `[R]`: sequence of each row; needed where dropout is on.
    pub sequences: Option<TensorId>,
}

impl Describe for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        let mut tensors = vec![
            read("weight", self.weight, Exact, vector(columns)),
            read("bias", self.bias, Exact, vector(columns)),
            write("statistics", self.statistics, Exact, (rows, 2)),
            write("output", self.output, Activation, (rows, columns)),
        ];
        match self.residual {
            Some(residual) => {
                tensors.push(read("residual", residual, Activation, (rows, columns)));
                tensors.push(accumulate("input", self.input, Activation, (rows, columns)));
            }
            None => tensors.push(read("input", self.input, Activation, (rows, columns))),
        }
        if self.dropout.is_on() {
            tensors.extend(self.positions.map(|positions| read("positions", positions, Uint, (rows, 1))));
            tensors.extend(self.sequences.map(|sequences| read("sequences", sequences, Uint, (rows, 1))));
        }
        tensors
    }

    fn check(&self) -> Result<()> {
        check_coordinates(&[self.dropout], self.positions, self.sequences)
    }
}

impl<S: Scalar> CpuOp<S> for Norm {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let scale_shift = [&memory.read(self.weight)[..c], &memory.read(self.bias)[..c]];
        let epsilon = S::of(f64::from(self.epsilon));
        let statistics = memory.write(self.statistics)[..rows * 2].par_chunks_mut(2 * TASK_ROWS);
        let output = memory.write(self.output)[..rows * c].par_chunks_mut(c * TASK_ROWS);
        let Some(residual) = self.residual else {
            let input = memory.read(self.input)[..rows * c].par_chunks(c * TASK_ROWS);
            input.zip(statistics).zip(output).for_each(|((input, statistics), output)| {
                simd(
                    #[inline(always)]
                    || {
                        let rows = input.chunks_exact(c).zip(statistics.chunks_exact_mut(2));
                        for ((input, statistics), output) in rows.zip(output.chunks_exact_mut(c)) {
                            statistics.copy_from_slice(&normalise(input, scale_shift, epsilon, output));
                        }
                    },
                )
            });
            return;
        };
        let dropout = RowDropout::new(memory, self.dropout, self.positions, self.sequences);
        let residual = memory.read(residual)[..rows * c].par_chunks(c * TASK_ROWS);
        let input = memory.write(self.input)[..rows * c].par_chunks_mut(c * TASK_ROWS);
        let tasks = input.zip(residual).zip(statistics).zip(output).enumerate();
        tasks.for_each(|(task, (((input, residual), statistics), output))| {
            simd(
                #[inline(always)]
                || {
                    let rows = input.chunks_exact_mut(c).zip(residual.chunks_exact(c));
                    let rows = rows.zip(statistics.chunks_exact_mut(2)).zip(output.chunks_exact_mut(c));
                    for (row, (((input, residual), statistics), output)) in rows.enumerate() {
                        add_residual(input, residual, dropout, task * TASK_ROWS + row);
                        statistics.copy_from_slice(&normalise(input, scale_shift, epsilon, output));
                    }
                },
            )
        });
    }
}

/// input = residual + dropout(input), one row.
#[inline(always)]
fn add_residual<S: Scalar>(input: &mut [S], residual: &[S], dropout: Option<RowDropout<'_>>, row: usize) {
    match dropout {
        Some(dropout) => dropout.factors(row, input.len(), |first, factors| {
            let pairs = input[first..].iter_mut().zip(&residual[first..]);
            for ((x, &r), &factor) in pairs.zip(factors) {
                *x = r + *x * factor;
            }
        }),
        None => {
            for (x, &r) in input.iter_mut().zip(residual) {
                *x += r;
            }
        }
    }
}

/// output = (sum − mean)/σ·weight + bias, one row; returns mean and 1/σ.
#[inline(always)]
pub(super) fn normalise<S: Scalar>(
    sum: &[S],
    [weight, bias]: [&[S]; 2],
    epsilon: S,
    output: &mut [S],
) -> [S; 2] {
    let reciprocal = S::ONE / S::of(sum.len() as f64);
    let mean = sum_of([sum, sum], |x, _| x) * reciprocal;
    let variance = sum_of([sum, sum], |x, _| (x - mean) * (x - mean)) * reciprocal;
    let inverse_deviation = S::ONE / (variance + epsilon).sqrt();
    for ((y, &x), (&w, &b)) in output.iter_mut().zip(sum).zip(weight.iter().zip(bias)) {
        *y = (x - mean) * inverse_deviation * w + b;
    }
    [mean, inverse_deviation]
}

const LANES: usize = 16;

/// Σ f(a[i], b[i]) in 16 partial sums, added up pairwise: vectorises, and its order is fixed.
#[inline(always)]
fn sum_of<S: Scalar>([a, b]: [&[S]; 2], f: impl Fn(S, S) -> S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    for (a, b) in a.zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f(a, b);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(rest) {
        *lane += f(a, b);
    }
    tree(lanes)
}

/// The sum of 16 lanes, pairwise.
#[inline(always)]
fn tree<S: Scalar>(mut lanes: [S; LANES]) -> S {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Backward of [`Norm`], and of the norm of `Embedding`.
///
/// With x̂ = (sum − mean)/σ and g = output_gradient·weight:
/// sum_gradient = (g − mean(g) − x̂·mean(g·x̂))/σ, weight_gradient += Σ rows of output_gradient·x̂,
/// bias_gradient += Σ rows of output_gradient.
#[derive(Clone, Debug)]
pub struct NormGradient {
    /// `[R, C]`
    pub output_gradient: TensorId,
    /// `[R, C]`: what was normalised.
    pub sum: TensorId,
    /// `[R, 2]`: mean and 1/σ.
    pub statistics: TensorId,
    /// `[C]`
    pub weight: TensorId,
    /// `[R, C]`, written: the gradient of the sum, which is that of the residual.
    pub sum_gradient: TensorId,
    /// `[R, C]`, written: the gradient of the branch, sum_gradient under `input_dropout`. `None` where there is
    /// no branch.
    pub input_gradient: Option<TensorId>,
    /// `[C]`, accumulated.
    pub weight_gradient: TensorId,
    /// `[C]`, accumulated.
    pub bias_gradient: TensorId,
    /// Scratch `[partials(R), 2C]`.
    pub partials: TensorId,
    pub rows: Rows,
    pub columns: usize,
    /// Dropout that followed the norm (embeddings): applied to `output_gradient` first.
    pub output_dropout: Dropout,
    /// Dropout of the branch.
    pub input_dropout: Dropout,
    /// u32 `[R]`: position of each row in its sequence; needed where dropout is on.
    pub positions: Option<TensorId>,
    /// u32 `[R]`: sequence of each row; needed where dropout is on.
    pub sequences: Option<TensorId>,
}

impl NormGradient {
    /// Dropout of the branch, off where there is no branch.
    pub(super) fn branch_dropout(&self) -> Dropout {
        if self.input_gradient.is_some() { self.input_dropout } else { Dropout::off() }
    }
}

impl Describe for NormGradient {
    fn name(&self) -> &'static str {
        "norm_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        let mut tensors = vec![
            read("output_gradient", self.output_gradient, Activation, (rows, columns)),
            read("sum", self.sum, Activation, (rows, columns)),
            read("statistics", self.statistics, Exact, (rows, 2)),
            read("weight", self.weight, Exact, vector(columns)),
            write("sum_gradient", self.sum_gradient, Activation, (rows, columns)),
            accumulate("weight_gradient", self.weight_gradient, Exact, vector(columns)),
            accumulate("bias_gradient", self.bias_gradient, Exact, vector(columns)),
            scratch("partials", self.partials, Exact, (partials(rows), 2 * columns)),
        ];
        if let Some(gradient) = self.input_gradient {
            tensors.push(write("input_gradient", gradient, Activation, (rows, columns)));
        }
        if self.output_dropout.is_on() || self.branch_dropout().is_on() {
            tensors.extend(self.positions.map(|positions| read("positions", positions, Uint, (rows, 1))));
            tensors.extend(self.sequences.map(|sequences| read("sequences", sequences, Uint, (rows, 1))));
        }
        tensors
    }

    fn check(&self) -> Result<()> {
        let dropouts = [self.output_dropout, self.branch_dropout()];
        check_coordinates(&dropouts, self.positions, self.sequences)
    }
}

/// Rows that make one partial sum, of `partials`: at least one task's worth.
pub(super) fn partial_rows(rows: usize, partials: usize) -> usize {
    rows.div_ceil(partials).max(TASK_ROWS)
}

impl<S: Scalar> CpuOp<S> for NormGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let block = partial_rows(rows, partials(self.rows).min(CPU_BLOCKS));
        let weight = &memory.read(self.weight)[..c];
        let output_dropout = RowDropout::new(memory, self.output_dropout, self.positions, self.sequences);
        let input_dropout = RowDropout::new(memory, self.branch_dropout(), self.positions, self.sequences);
        let partials = &mut memory.write(self.partials)[..rows.div_ceil(block) * 2 * c];
        let sum_gradient = &mut memory.write(self.sum_gradient)[..rows * c];
        let gradient = memory.read(self.output_gradient)[..rows * c].par_chunks(block * c);
        let sum = memory.read(self.sum)[..rows * c].par_chunks(block * c);
        let statistics = memory.read(self.statistics)[..rows * 2].par_chunks(block * 2);
        // Pairs every block with its block of the second output, where there is one.
        let branches: Vec<&mut [S]> = match self.input_gradient {
            Some(id) => memory.write(id)[..rows * c].chunks_mut(block * c).collect(),
            None => (0..rows.div_ceil(block)).map(|_| <&mut [S]>::default()).collect(),
        };
        let reads = gradient.zip(sum).zip(statistics);
        let writes = sum_gradient.par_chunks_mut(block * c).zip(branches).zip(partials.par_chunks_mut(2 * c));
        reads.zip(writes).enumerate().for_each(|(index, (reads, ((to, branch), partial)))| {
            let ((gradient, sum), statistics) = reads;
            simd(
                #[inline(always)]
                || {
                    partial.fill(S::ZERO);
                    let (weight_sums, bias_sums) = partial.split_at_mut(c);
                    let inputs = gradient.chunks_exact(c).zip(sum.chunks_exact(c));
                    let outputs = to.chunks_exact_mut(c).zip(statistics.chunks_exact(2));
                    for (row, ((gradient, sum), (to, statistics))) in inputs.zip(outputs).enumerate() {
                        let at = index * block + row;
                        to.copy_from_slice(gradient);
                        if let Some(dropout) = output_dropout {
                            dropout.apply(at, to);
                        }
                        let statistics = [statistics[0], statistics[1]];
                        row_gradient(to, [sum, weight], statistics, [weight_sums, bias_sums]);
                        if !branch.is_empty() {
                            let branch = &mut branch[row * c..][..c];
                            branch.copy_from_slice(to);
                            if let Some(dropout) = input_dropout {
                                dropout.apply(at, branch);
                            }
                        }
                    }
                },
            )
        });
        for (part, id) in [(0, self.weight_gradient), (1, self.bias_gradient)] {
            add_partials(partials, 2 * c, part * c, &mut memory.write(id)[..c]);
        }
    }
}

/// Turns the gradient of one row's output into that of its sum, in place, and adds to the sums for the weight
/// and bias gradients.
#[inline(always)]
fn row_gradient<S: Scalar>(
    gradient: &mut [S],
    [sum, weight]: [&[S]; 2],
    [mean, inverse_deviation]: [S; 2],
    [weight_sums, bias_sums]: [&mut [S]; 2],
) {
    let reciprocal = S::ONE / S::of(sum.len() as f64);
    let sums = weight_sums.iter_mut().zip(bias_sums.iter_mut());
    for ((&g, &x), (weight_sum, bias_sum)) in gradient.iter().zip(sum).zip(sums) {
        *weight_sum += g * ((x - mean) * inverse_deviation);
        *bias_sum += g;
    }
    for (g, &w) in gradient.iter_mut().zip(weight) {
        *g *= w;
    }
    let scaled = &*gradient;
    let a = sum_of([scaled, scaled], |g, _| g) * reciprocal;
    let b = sum_of([scaled, sum], |g, x| g * (x - mean)) * inverse_deviation * reciprocal;
    for (g, &x) in gradient.iter_mut().zip(sum) {
        *g = (*g - a - (x - mean) * inverse_deviation * b) * inverse_deviation;
    }
}

/// `sums[j] += Σ_i partials[i, first + j]`, in order; `partials` has `columns` columns.
pub(super) fn add_partials<S: Scalar>(partials: &[S], columns: usize, first: usize, sums: &mut [S]) {
    const STRIP: usize = 64;
    sums.par_chunks_mut(STRIP).enumerate().for_each(|(strip, sums)| {
        simd(
            #[inline(always)]
            || {
                let mut totals = [S::ZERO; STRIP];
                for row in partials.chunks_exact(columns) {
                    for (total, &x) in totals.iter_mut().zip(&row[first + strip * STRIP..][..sums.len()]) {
                        *total += x;
                    }
                }
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum += total;
                }
            },
        )
    });
}
