//! The first half of a Transformer layer: attention between dense layers, residual and norm.

use crate::ops::matmul::Epilogue;
use crate::plan::PlanBuilder;
use crate::tensor::TensorId;

use super::{AttentionLayer, AttentionTape, DenseLayer, DenseTape, NormLayer, NormTape};

/// output = LayerNorm(input + dropout(dense(attention(qkv(input))))), `[T, H]`.
#[derive(Clone, Copy)]
pub struct SelfAttention<'a> {
    pub qkv: DenseLayer<'a>,
    pub attention: AttentionLayer<'a>,
    pub output: DenseLayer<'a>,
    pub norm: NormLayer<'a>,
}

/// Self-attention that went forward.
pub struct SelfAttentionTape<'a> {
    qkv: DenseTape<'a>,
    attention: AttentionTape<'a>,
    output: DenseTape<'a>,
    norm: NormTape<'a>,
}

impl<'a> SelfAttention<'a> {
    pub fn forward(&self, builder: &mut PlanBuilder, input: TensorId) -> (TensorId, SelfAttentionTape<'a>) {
        let (projected, qkv) = self.qkv.forward(builder, input, "attention.qkv");
        let (context, attention) = self.attention.forward(builder, projected);
        let (branch, output) = self.output.forward(builder, context, "attention.output.sum");
        let (normed, norm) = self.norm.forward(builder, branch, Some(input));
        (normed, SelfAttentionTape { qkv, attention, output, norm })
    }
}

impl SelfAttentionTape<'_> {
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId) -> TensorId {
        let sum = self.norm.backward(builder, output_gradient);
        let context = self.output.backward(builder, sum.input, "attention.context.gradient", Epilogue::None);
        let qkv = self.attention.backward(builder, context);
        self.qkv.backward(builder, qkv, "input.gradient", Epilogue::Add(sum.residual))
    }
}
