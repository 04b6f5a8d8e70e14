//! Self-attention between the tokens of a sequence, from fused queries, keys and values to the context.

use crate::ops::attention::{Attention, AttentionGradient};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, TensorId};

use crate::model::inputs::Packed;

/// context = dropout(softmax(q·kᵀ/√HD))·v in every head: `[T, 3H]` to `[T, H]`.
#[derive(Clone, Copy)]
pub struct AttentionLayer<'a> {
    /// Of the ops, and before the names of what they write.
    pub label: &'a str,
    pub packed: Packed,
    pub hidden: usize,
    pub heads: usize,
    /// Of the probabilities.
    pub dropout: Dropout,
}

/// Attention that went forward.
#[derive(Clone, Copy)]
pub struct AttentionTape<'a> {
    layer: AttentionLayer<'a>,
    /// `[T, 3H]`, `[T, H]`, `[T, NH]`.
    qkv: TensorId,
    context: TensorId,
    log_sum_exp: TensorId,
}

impl<'a> AttentionLayer<'a> {
    pub fn forward(&self, builder: &mut PlanBuilder, qkv: TensorId) -> (TensorId, AttentionTape<'a>) {
        let AttentionLayer { label, packed, hidden, heads, dropout } = *self;
        let context = builder.activation(&format!("{label}.context"), packed.tokens, hidden);
        let log_sum_exp = builder.exact(&format!("{label}.log_sum_exp"), packed.tokens, heads);
        builder.push(
            label,
            Attention {
                qkv,
                starts: packed.starts,
                context,
                log_sum_exp,
                tokens: packed.tokens,
                sequences: packed.sequence_rows,
                max_length: packed.max_length,
                heads,
                head_size: hidden / heads,
                dropout,
            },
        );
        (context, AttentionTape { layer: *self, qkv, context, log_sum_exp })
    }
}

impl AttentionTape<'_> {
    /// From the gradient of the context to that of queries, keys and values.
    pub fn backward(self, builder: &mut PlanBuilder, context_gradient: TensorId) -> TensorId {
        let AttentionLayer { label, packed, hidden, heads, dropout } = self.layer;
        let rows = packed.tokens;
        let head_size = hidden / heads;
        let columns = AttentionGradient::partial_columns(rows, packed.max_length, heads, head_size);
        let partials =
            (!builder.is_half()).then(|| builder.scratch(&format!("{label}.partials"), rows, columns));
        let delta = builder.scratch(&format!("{label}.delta"), rows, heads);
        let qkv_gradient = builder.gradient(&format!("{label}.qkv.gradient"), rows, 3 * hidden);
        builder.push(
            &format!("{label}.backward"),
            AttentionGradient {
                qkv: self.qkv,
                starts: packed.starts,
                context: self.context,
                log_sum_exp: self.log_sum_exp,
                context_gradient,
                delta,
                partials,
                qkv_gradient,
                tokens: rows,
                sequences: packed.sequence_rows,
                max_length: packed.max_length,
                heads,
                head_size,
                dropout,
            },
        );
        qkv_gradient
    }
}
