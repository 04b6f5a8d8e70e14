//! Attention within each packed sequence, without a matrix of scores.
//!
//! context = dropout(softmax(q·kᵀ / √head_size))·v for every sequence and head, where all tokens of a
//! sequence are keys of all its queries. Forward walks over blocks of keys with a running maximum and sum
//! (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018) and keeps one number a row,
//! the log-sum-exp; backward computes the probabilities again from it (Dao et al., "FlashAttention", 2022).
//! Nothing of size tokens × tokens exists on either executor.
//!
//! With P the probabilities, M the dropout factors (0 or the scale) and P̃ = P∘M, per head:
//! O = P̃·v, dv = P̃ᵀ·dO, dP = (dO·vᵀ)∘M, dS = P∘(dP − D), dq = dS·k/√d, dk = dSᵀ·q/√d,
//! where D_i = Σ_j P_ij·dP_ij = Σ_j P̃_ij·(dO·vᵀ)_ij = dO_i·O_i: the row sums of dO∘O serve with dropout too.
//!
//! The bits of element (head, query, key), both positions within the sequence, are half-word key mod 4 of
//! `threefry(derive(step key, site, sequence), [head << 16 | query, key / 4])`.

use anyhow::{Result, ensure};

use crate::tensor::{Dropout, Extents, Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::tensor_use::{read, scratch, starts, write};
use super::{Describe, TensorUse};

mod cooperative;
mod cpu;
mod fused;
mod kernels;
#[cfg(test)]
mod tests;

/// Forward.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[T, 3H]`: q | k | v, head h at columns h·head_size of each.
    pub qkv: TensorId,
    /// First row of each sequence, u32 `[B + 1]`.
    pub starts: TensorId,
    /// `[T, H]`, written.
    pub context: TensorId,
    /// `[T, heads]`, written: ln Σ exp(score) of each query, for backward.
    pub log_sum_exp: TensorId,
    pub tokens: Rows,
    pub sequences: Rows,
    /// No sequence is longer.
    pub max_length: usize,
    pub heads: usize,
    pub head_size: usize,
    pub dropout: Dropout,
}

/// Backward.
#[derive(Clone, Debug)]
pub struct AttentionGradient {
    pub qkv: TensorId,
    pub starts: TensorId,
    pub context: TensorId,
    pub log_sum_exp: TensorId,
    /// `[T, H]`, read.
    pub context_gradient: TensorId,
    /// `[T, heads]`, scratch: row sums of context_gradient ∘ context.
    pub delta: TensorId,
    /// `[T, partial_columns]`, scratch: the gradients of keys and values from each part of the queries. Not in plans of
    /// half precision (`fused.rs`).
    pub partials: Option<TensorId>,
    /// `[T, 3H]`, written for every row in use.
    pub qkv_gradient: TensorId,
    pub tokens: Rows,
    pub sequences: Rows,
    pub max_length: usize,
    pub heads: usize,
    pub head_size: usize,
    pub dropout: Dropout,
}

impl Attention {
    fn hidden(&self) -> usize {
        self.heads * self.head_size
    }
}

impl AttentionGradient {
    fn hidden(&self) -> usize {
        self.heads * self.head_size
    }
}

/// Σ length² over the sequences, if all were equally long: the extents hold only totals. A lower bound of the
/// true sum, so rates computed from it flatter nobody.
fn squared_lengths(tokens: Rows, sequences: Rows, extents: &Extents) -> f64 {
    let tokens = tokens.count(extents) as f64;
    tokens * tokens / sequences.count(extents).max(1) as f64
}

/// Fails where dropout could not tell all queries and heads apart.
fn check_draws(dropout: Dropout, max_length: usize, heads: usize) -> Result<()> {
    const MOST: usize = 1 << 16;
    let apart = max_length <= MOST && heads <= MOST;
    ensure!(
        apart || !dropout.is_on(),
        "{heads} heads over sequences of {max_length} tokens: with dropout at most {MOST} of either"
    );
    Ok(())
}

impl Describe for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, hidden) = (self.tokens, self.hidden());
        vec![
            read("qkv", self.qkv, Activation, (tokens, 3 * hidden)),
            read("starts", self.starts, Uint, starts(self.sequences)),
            write("context", self.context, Activation, (tokens, hidden)),
            write("log_sum_exp", self.log_sum_exp, Exact, (tokens, self.heads)),
        ]
    }

    fn check(&self) -> Result<()> {
        check_draws(self.dropout, self.max_length, self.heads)
    }

    /// Two products, q·kᵀ and P·v; Σ length² is estimated as tokens² / sequences.
    fn flops(&self, extents: &Extents) -> f64 {
        4.0 * self.hidden() as f64 * squared_lengths(self.tokens, self.sequences, extents)
    }
}

impl Describe for AttentionGradient {
    fn name(&self) -> &'static str {
        "attention_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, hidden) = (self.tokens, self.hidden());
        let mut tensors = vec![
            read("qkv", self.qkv, Activation, (tokens, 3 * hidden)),
            read("starts", self.starts, Uint, starts(self.sequences)),
            read("context", self.context, Activation, (tokens, hidden)),
            read("log_sum_exp", self.log_sum_exp, Exact, (tokens, self.heads)),
            read("context_gradient", self.context_gradient, Activation, (tokens, hidden)),
            write("qkv_gradient", self.qkv_gradient, Activation, (tokens, 3 * hidden)),
            scratch("delta", self.delta, Exact, (tokens, self.heads)),
        ];
        let columns = Self::partial_columns(tokens, self.max_length, self.heads, self.head_size);
        tensors.extend(self.partials.map(|partials| scratch("partials", partials, Exact, (tokens, columns))));
        tensors
    }

    fn check(&self) -> Result<()> {
        check_draws(self.dropout, self.max_length, self.heads)
    }

    /// Five products, one of them q·kᵀ again; Σ length² is estimated as tokens² / sequences.
    fn flops(&self, extents: &Extents) -> f64 {
        10.0 * self.hidden() as f64 * squared_lengths(self.tokens, self.sequences, extents)
    }
}
