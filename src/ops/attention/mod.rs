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

use crate::tensor::{Dropout, Extents, Rows, TensorId};

use super::{Describe, Io};

mod cpu;
mod kernels;
#[cfg(test)]
mod tests;

/// The way forward.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[T, 3H]`: q | k | v, head h at columns h·head_size of each.
    pub qkv: TensorId,
    /// First row of each sequence, u32 `[B + 1]`.
    pub starts: TensorId,
    /// `[T, H]`, written.
    pub context: TensorId,
    /// `[T, heads]`, written: ln Σ exp(score) of each query, for the way back.
    pub log_sum_exp: TensorId,
    pub tokens: Rows,
    pub sequences: Rows,
    /// No sequence is longer.
    pub max_length: usize,
    pub heads: usize,
    pub head_size: usize,
    pub dropout: Dropout,
}

/// The way back.
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

impl Describe for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn io(&self) -> Io {
        Io {
            reads: vec![self.qkv, self.starts],
            writes: vec![self.context, self.log_sum_exp],
            ..Io::default()
        }
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

    fn io(&self) -> Io {
        Io {
            reads: vec![self.qkv, self.starts, self.context, self.log_sum_exp, self.context_gradient],
            writes: vec![self.qkv_gradient],
            scratch: vec![self.delta],
            ..Io::default()
        }
    }

    /// Five products, one of them q·kᵀ again; Σ length² is estimated as tokens² / sequences.
    fn flops(&self, extents: &Extents) -> f64 {
        10.0 * self.hidden() as f64 * squared_lengths(self.tokens, self.sequences, extents)
    }
}
