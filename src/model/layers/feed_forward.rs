//! The second half of a Transformer layer: two dense layers with GELU between them, residual and norm.

use crate::ops::matmul::Epilogue;
use crate::plan::PlanBuilder;
use crate::tensor::TensorId;

use super::{DenseLayer, GeluTape, NormLayer, NormTape};

/// output = LayerNorm(input + dropout(output(GELU(intermediate(input))))), `[T, H]`, with F channels between.
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    pub intermediate: DenseLayer<'a>,
    pub output: DenseLayer<'a>,
    pub norm: NormLayer<'a>,
}

/// A feed-forward block that went forward. Of the two tensors of `[T, F]` it keeps the one before GELU, which backward
/// turns into the other.
pub struct FeedForwardTape<'a> {
    intermediate: GeluTape<'a>,
    output: DenseLayer<'a>,
    norm: NormTape<'a>,
}

impl<'a> FeedForward<'a> {
    pub fn forward(&self, builder: &mut PlanBuilder, input: TensorId) -> (TensorId, FeedForwardTape<'a>) {
        let (activated, intermediate) = self.intermediate.gelu(builder, input);
        let (branch, _) = self.output.forward(builder, activated, "output.sum");
        let (normed, norm) = self.norm.forward(builder, branch, Some(input));
        (normed, FeedForwardTape { intermediate, output: self.output, norm })
    }
}

impl FeedForwardTape<'_> {
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId) -> TensorId {
        let sum = self.norm.backward(builder, output_gradient);
        let (gradient, intermediate) =
            self.intermediate.backward_from(builder, self.output, sum.input, "intermediate.gradient");
        let residual = Epilogue::Add(sum.residual);
        intermediate.backward(builder, gradient, "attention.output.gradient", residual)
    }
}
