//! Attention on the processor: blocks of scores that stay in the cache, products by `gemm`.
//!
//! Forward: a task for every (sequence, head, block of queries). Backward: a task for every (sequence, head),
//! which computes all of that head's dq, dk and dv, so sums need neither atomics nor partial copies. The
//! blocks depend on the shapes alone, so results do not depend on the number of threads.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::ops::scalar::Strided;
use crate::ops::strip::Strip;
use crate::ops::{CpuOp, Memory, Scalar, simd};
use crate::tensor::random::{derive, threefry};
use crate::tensor::{Dropout, StepValues};

use super::Attention;

mod gradient;

/// Queries and keys of a block: 128 × 128 scores are 64 KiB in f32, of which backward holds two; with the
/// operands they fit into a second-level cache, and smaller products are slower in `gemm`. Keys must be a
/// multiple of 4, the draws of one random block.
const QUERIES: usize = 128;
const KEYS: usize = 128;

/// Partial sums and maxima of a row are kept in this many lanes, always added in the same order.
const LANES: usize = 16;

thread_local! {
    /// Scratch of the tasks of a thread, as words that any scalar can be laid over. Tasks never nest.
    static SCRATCH: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Lends `elements` scalars of unspecified content.
fn with_scratch<S: Scalar, R>(elements: usize, f: impl FnOnce(&mut [S]) -> R) -> R {
    SCRATCH.with_borrow_mut(|words| {
        let needed = (elements * size_of::<S>()).div_ceil(8);
        if words.len() < needed {
            words.resize(needed, 0);
        }
        f(&mut bytemuck::cast_slice_mut::<u64, S>(words)[..elements])
    })
}

/// A block of scores, `QUERIES × KEYS` row-major, as an operand.
fn block<S>(scores: &[S]) -> Strided<S> {
    Strided { pointer: scores.as_ptr(), row: KEYS, column: 1 }
}

fn block_transposed<S>(scores: &[S]) -> Strided<S> {
    Strided { pointer: scores.as_ptr(), row: 1, column: KEYS }
}

/// The dropout of one head of one sequence.
#[derive(Clone, Copy)]
struct Draws<S> {
    key: [u32; 2],
    /// head << 16.
    head: u32,
    threshold: u32,
    scale: S,
}

impl<S: Scalar> Draws<S> {
    fn new(dropout: &Dropout, values: &StepValues, sequence: usize, head: usize) -> Option<Self> {
        dropout.is_on().then(|| Draws {
            key: derive(values.key, dropout.site, values.first_sequence + sequence as u32),
            head: (head as u32) << 16,
            threshold: dropout.threshold,
            scale: S::of(f64::from(dropout.scale)),
        })
    }

    /// Factors (0 or the scale) of one query and keys `first_key..first_key + factors.len()`.
    #[inline(always)]
    fn factors(&self, query: usize, first_key: usize, factors: &mut [S]) {
        // Little-endian words: seen as half-words the draws are in the order of the keys.
        let mut words = [0u32; KEYS / 2];
        let words = &mut words[..factors.len().div_ceil(4) * 2];
        let first = (first_key / 4) as u32;
        for (index, pair) in words.chunks_exact_mut(2).enumerate() {
            let [a, b] = threefry(self.key, [self.head | query as u32, first + index as u32]);
            pair[0] = a.to_le();
            pair[1] = b.to_le();
        }
        let draws: &[u16] = bytemuck::cast_slice(words);
        for (factor, &draw) in factors.iter_mut().zip(draws) {
            *factor = if u32::from(u16::from_le(draw)) >= self.threshold { self.scale } else { S::ZERO };
        }
    }
}

/// Maximum of a row that is not empty.
#[inline(always)]
fn maximum<S: Scalar>(row: &[S]) -> S {
    let mut lanes = [row[0]; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.maximum(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = lane.maximum(x);
    }
    lanes.iter().fold(row[0], |a, &b| a.maximum(b))
}

/// `row ← exp(row·scale − shift)`; returns the sum.
#[inline(always)]
fn exponentials<S: Scalar>(row: &mut [S], scale: S, shift: S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = (*x * scale - shift).exp();
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = (*x * scale - shift).exp();
        *lane += *x;
    }
    lanes.iter().fold(S::ZERO, |a, &b| a + b)
}

#[inline(always)]
fn dot<S: Scalar>(a: &[S], b: &[S]) -> S {
    let mut lanes = [S::ZERO; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    lanes.iter().fold(S::ZERO, |a, &b| a + b)
}

/// The running softmax of a block of queries.
struct Running<S> {
    maximum: [S; QUERIES],
    sum: [S; QUERIES],
    /// Keys have been seen.
    begun: bool,
}

impl<S: Scalar> Running<S> {
    fn new() -> Self {
        Running { maximum: [S::ZERO; QUERIES], sum: [S::ZERO; QUERIES], begun: false }
    }

    /// Turns `n` scores of each of `m` queries into exp(score·scale − maximum), with dropout, and brings the
    /// sums over the keys and `context` so far to the new maximum.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn absorb(
        &mut self,
        [m, n, head_size]: [usize; 3],
        scores: &mut [S],
        scale: S,
        context: &mut [S],
        draws: Option<Draws<S>>,
        first_query: usize,
        first_key: usize,
    ) {
        for i in 0..m {
            let row = &mut scores[i * KEYS..][..n];
            let mut shift = maximum(row) * scale;
            if self.begun {
                shift = shift.maximum(self.maximum[i]);
                let correction = (self.maximum[i] - shift).exp();
                self.sum[i] *= correction;
                for x in &mut context[i * head_size..][..head_size] {
                    *x *= correction;
                }
            }
            self.maximum[i] = shift;
            self.sum[i] += exponentials(row, scale, shift);
            if let Some(draws) = draws {
                let mut factors = [S::ZERO; KEYS];
                draws.factors(first_query + i, first_key, &mut factors[..n]);
                for (x, &factor) in row.iter_mut().zip(&factors) {
                    *x *= factor;
                }
            }
        }
        self.begun = true;
    }
}

/// The sequences of a micro-batch: rows of sequence i are `starts[i]..starts[i + 1]`.
fn longest(starts: &[u32]) -> usize {
    starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
}

impl<S: Scalar> CpuOp<S> for Attention {
    fn run(&self, memory: &Memory<'_, S>) {
        let extents = memory.extents();
        let sequences = self.sequences.count(&extents);
        let starts = &memory.read_uint(self.starts)[..sequences + 1];
        assert!(
            starts[sequences] as usize <= self.tokens.count(&extents),
            "attention: rows beyond the tokens"
        );
        let qkv = memory.read(self.qkv).as_ptr().cast_mut();
        let context = Strip::new(memory.write(self.context).as_mut_ptr(), self.hidden(), 0, 0);
        let log_sum_exp = Strip::new(memory.write(self.log_sum_exp).as_mut_ptr(), self.heads, 0, 0);
        let blocks = longest(starts).div_ceil(QUERIES);
        let (hidden, size) = (self.hidden(), self.head_size);
        let qkv = Strip::new(qkv, 3 * hidden, 0, 0);
        (0..sequences * self.heads * blocks).into_par_iter().for_each(|task| {
            let (pair, first_query) = (task / blocks, task % blocks * QUERIES);
            let (sequence, head) = (pair / self.heads, pair % self.heads);
            let (start, end) = (starts[sequence] as usize, starts[sequence + 1] as usize);
            if first_query >= end - start {
                return;
            }
            let part =
                |index: usize| Strip::new(qkv.at(start), qkv.stride, index * hidden + head * size, size);
            let head = Head {
                query: part(0),
                key: part(1),
                value: part(2),
                length: end - start,
                draws: Draws::new(&self.dropout, memory.values, sequence, head),
                context: Strip::new(context.at(start), hidden, head * size, size),
                log_sum_exp: Strip::new(log_sum_exp.at(start), self.heads, head, 1),
            };
            // SAFETY: the strips are rows start..end and the columns of one head, inside the tensors; of what
            // is written, this task alone touches rows first_query..first_query + QUERIES.
            unsafe { head.forward(first_query) };
        });
    }
}

/// One head of one sequence; row 0 of the strips is its first token.
struct Head<S> {
    query: Strip<S>,
    key: Strip<S>,
    value: Strip<S>,
    context: Strip<S>,
    log_sum_exp: Strip<S>,
    length: usize,
    draws: Option<Draws<S>>,
}

impl<S: Scalar> Head<S> {
    fn head_size(&self) -> usize {
        self.query.columns
    }

    fn scale(&self) -> S {
        S::of(1.0 / (self.head_size() as f64).sqrt())
    }

    /// Context and log-sum-exp of the block of queries that starts at `first_query`.
    ///
    /// # Safety
    /// The strips cover `length` rows, and nobody else touches the rows written meanwhile.
    unsafe fn forward(&self, first_query: usize) {
        let size = self.head_size();
        let m = QUERIES.min(self.length - first_query);
        with_scratch(QUERIES * (KEYS + size), |scratch| {
            let (scores, sums) = scratch.split_at_mut(QUERIES * KEYS);
            let mut running = Running::new();
            for first_key in (0..self.length).step_by(KEYS) {
                let n = KEYS.min(self.length - first_key);
                let (query, key) = (self.query.operand(first_query), self.key.transposed(first_key));
                // SAFETY: rows of the strips, and scratch of the products' sizes.
                unsafe { S::gemm([m, n, size], scores.as_mut_ptr(), KEYS, false, query, key) };
                simd(
                    #[inline(always)]
                    || {
                        let dims = [m, n, size];
                        running.absorb(dims, scores, self.scale(), sums, self.draws, first_query, first_key)
                    },
                );
                let (scores, value) = (block(scores), self.value.operand(first_key));
                // SAFETY: as above.
                unsafe { S::gemm([m, size, n], sums.as_mut_ptr(), size, first_key > 0, scores, value) };
            }
            simd(
                #[inline(always)]
                || {
                    for i in 0..m {
                        let factor = S::ONE / running.sum[i];
                        // SAFETY: this task's own rows.
                        let (context, log_sum_exp) = unsafe {
                            (self.context.row_mut(first_query + i), self.log_sum_exp.row_mut(first_query + i))
                        };
                        for (to, &x) in context.iter_mut().zip(&sums[i * size..]) {
                            *to = x * factor;
                        }
                        log_sum_exp[0] = running.maximum[i] + running.sum[i].ln();
                    }
                },
            );
        });
    }
}
