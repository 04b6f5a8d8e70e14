//! Backward: a task for every (sequence, head).

use rayon::prelude::*;

use crate::ops::scalar::Strided;
use crate::ops::strip::Strip;
use crate::ops::{CpuOp, Memory, Scalar, simd};

use super::super::AttentionGradient;
use super::{Draws, Head, KEYS, QUERIES, block, block_transposed, dot, with_scratch};

impl<S: Scalar> CpuOp<S> for AttentionGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let extents = memory.extents();
        let sequences = self.sequences.count(&extents);
        let starts = &memory.read_uint(self.starts)[..sequences + 1];
        assert!(
            starts[sequences] as usize <= self.tokens.count(&extents),
            "attention: rows beyond the tokens"
        );
        let (hidden, size) = (self.hidden(), self.head_size);
        let whole = |slice: &[S], columns: usize| Strip::new(slice.as_ptr().cast_mut(), columns, 0, 0);
        let qkv = whole(memory.read(self.qkv), 3 * hidden);
        let context = whole(memory.read(self.context), hidden);
        let log_sum_exp = whole(memory.read(self.log_sum_exp), self.heads);
        let upstream = whole(memory.read(self.context_gradient), hidden);
        let written = memory.write(self.qkv_gradient).as_mut_ptr();
        let written = Strip::new(written, 3 * hidden, 0, 0);
        (0..sequences * self.heads).into_par_iter().for_each(|pair| {
            let (sequence, head) = (pair / self.heads, pair % self.heads);
            let (start, end) = (starts[sequence] as usize, starts[sequence + 1] as usize);
            let part = |matrix: Strip<S>, index: usize| {
                Strip::new(matrix.at(start), matrix.stride, index * hidden + head * size, size)
            };
            let gradient = HeadGradient {
                forward: Head {
                    query: part(qkv, 0),
                    key: part(qkv, 1),
                    value: part(qkv, 2),
                    length: end - start,
                    draws: Draws::new(&self.dropout, memory.values, sequence, head),
                    context: part(context, 0),
                    log_sum_exp: Strip::new(log_sum_exp.at(start), self.heads, head, 1),
                },
                context: part(upstream, 0),
                query: part(written, 0),
                key: part(written, 1),
                value: part(written, 2),
            };
            // SAFETY: the strips are rows start..end and the columns of one head, inside the tensors; no other
            // task writes this (sequence, head).
            unsafe { gradient.run() };
        });
    }
}

/// One head of one sequence in backward: the strips of forward, and gradients.
struct HeadGradient<S> {
    forward: Head<S>,
    /// Read.
    context: Strip<S>,
    /// Written.
    query: Strip<S>,
    key: Strip<S>,
    value: Strip<S>,
}

impl<S: Scalar> HeadGradient<S> {
    /// # Safety
    /// The strips cover `length` rows, and nobody else touches those written meanwhile.
    unsafe fn run(&self) {
        let length = self.forward.length;
        if length == 0 {
            return;
        }
        let size = self.forward.head_size();
        with_scratch(2 * QUERIES * KEYS + length * size, |scratch| {
            let (scores, scratch) = scratch.split_at_mut(QUERIES * KEYS);
            let (products, centred) = scratch.split_at_mut(QUERIES * KEYS);
            simd(
                #[inline(always)]
                || {
                    // SAFETY: rows of the strip, which nobody writes.
                    unsafe { self.centre_keys(centred) }
                },
            );
            for first_query in (0..length).step_by(QUERIES) {
                let m = QUERIES.min(length - first_query);
                let mut delta = [S::ZERO; QUERIES];
                simd(
                    #[inline(always)]
                    || {
                        for (i, delta) in delta[..m].iter_mut().enumerate() {
                            let row = first_query + i;
                            // SAFETY: rows of the strips, which nobody writes.
                            *delta = unsafe { dot(self.context.row(row), self.forward.context.row(row)) };
                        }
                    },
                );
                for first_key in (0..length).step_by(KEYS) {
                    // SAFETY: the caller's promise.
                    unsafe { self.block(first_query, first_key, &delta, scores, products, centred) };
                }
            }
        });
    }

    /// Every key less the mean of the keys, `length × head size`.
    ///
    /// The gradients of a query's scores sum to zero, so that what all keys share adds nothing to the query's
    /// gradient but the rounding of that sum; early in training it would be as large as the gradient.
    ///
    /// # Safety
    /// As `run`.
    #[inline(always)]
    unsafe fn centre_keys(&self, centred: &mut [S]) {
        let key = &self.forward.key;
        let (rows, mean) = centred.split_at_mut(self.forward.length * key.columns - key.columns);
        mean.fill(S::ZERO);
        for row in 0..self.forward.length {
            // SAFETY: a row of the strip.
            for (sum, &x) in mean.iter_mut().zip(unsafe { key.row(row) }) {
                *sum += x;
            }
        }
        let factor = S::of(1.0 / self.forward.length as f64);
        mean.iter_mut().for_each(|sum| *sum *= factor);
        // The mean lies where the last row will stand.
        for (row, to) in rows.chunks_exact_mut(key.columns).enumerate() {
            // SAFETY: a row of the strip.
            for ((to, &mean), &x) in to.iter_mut().zip(&*mean).zip(unsafe { key.row(row) }) {
                *to = x - mean;
            }
        }
        // SAFETY: a row of the strip.
        for (mean, &x) in mean.iter_mut().zip(unsafe { key.row(self.forward.length - 1) }) {
            *mean = x - *mean;
        }
    }

    /// What one block of queries and one of keys give to each other; `centred` as `centre_keys` makes it.
    ///
    /// # Safety
    /// As `run`.
    unsafe fn block(
        &self,
        first_query: usize,
        first_key: usize,
        delta: &[S; QUERIES],
        scores: &mut [S],
        products: &mut [S],
        centred: &[S],
    ) {
        let forward = &self.forward;
        let size = forward.head_size();
        let m = QUERIES.min(forward.length - first_query);
        let n = KEYS.min(forward.length - first_key);
        let query = forward.query.operand(first_query);
        let key = Strided { pointer: centred[first_key * size..].as_ptr(), row: size, column: 1 };
        let upstream = self.context.operand(first_query);
        // SAFETY: rows of the strips, and scratch of the products' sizes.
        unsafe {
            let key = forward.key.transposed(first_key);
            S::gemm([m, n, size], scores.as_mut_ptr(), KEYS, false, query, key);
            let value = forward.value.transposed(first_key);
            S::gemm([m, n, size], products.as_mut_ptr(), KEYS, false, upstream, value);
        }
        simd(
            #[inline(always)]
            || self.probabilities([m, n], [first_query, first_key], delta, scores, products),
        );
        let (probabilities, gradients) = (block_transposed(scores), block_transposed(products));
        // Later blocks add to what the first wrote.
        let (more_queries, more_keys) = (first_query > 0, first_key > 0);
        let stride = self.query.stride;
        // SAFETY: as above; of the strips written, all rows are this task's own.
        unsafe {
            S::gemm([n, size, m], self.value.at(first_key), stride, more_queries, probabilities, upstream);
            S::gemm([n, size, m], self.key.at(first_key), stride, more_queries, gradients, query);
            S::gemm([m, size, n], self.query.at(first_query), stride, more_keys, block(products), key);
        }
    }

    /// `scores` (q·kᵀ) become probabilities after dropout, `products` (dO·vᵀ) the gradients of q·kᵀ.
    #[inline(always)]
    fn probabilities(
        &self,
        [m, n]: [usize; 2],
        [first_query, first_key]: [usize; 2],
        delta: &[S; QUERIES],
        scores: &mut [S],
        products: &mut [S],
    ) {
        let scale = self.forward.scale();
        let mut factors = [S::ONE; KEYS];
        for (i, &delta) in delta[..m].iter().enumerate() {
            // SAFETY: a row of the strip, which nobody writes.
            let shift = unsafe { self.forward.log_sum_exp.row(first_query + i)[0] };
            if let Some(draws) = self.forward.draws {
                draws.factors(first_query + i, first_key, &mut factors[..n]);
            }
            let scores = &mut scores[i * KEYS..][..n];
            let products = &mut products[i * KEYS..][..n];
            for ((score, product), &factor) in scores.iter_mut().zip(products).zip(&factors) {
                let probability = (*score * scale - shift).exp();
                *score = probability * factor;
                *product = probability * scale * (*product * factor - delta);
            }
        }
    }
}
