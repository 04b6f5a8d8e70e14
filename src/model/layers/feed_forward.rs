//! The second half of a Transformer layer: two dense layers with GELU between them, residual and norm.

use crate::ops::matmul::Epilogue;
use crate::plan::PlanBuilder;
use crate::tensor::TensorId;

use super::{DenseLayer, DenseTape, GeluTape, NormLayer, NormTape};

/// output = LayerNorm(input + dropout(output(GELU(intermediate(input))))), `[T, H]`, with F channels between.
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    pub intermediate: DenseLayer<'a>,
    pub output: DenseLayer<'a>,
    pub norm: NormLayer<'a>,
}

/// A feed-forward block that went forward. Of the two tensors of `[T, F]` it keeps the one before GELU; backward
/// computes the other again.
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
        let activated = self.intermediate.again(builder);
        let output = DenseTape { layer: self.output, input: activated };
        let (through_gelu, intermediate) = self.intermediate.through_product();
        let gradient = output.backward(builder, sum.input, "intermediate.gradient", through_gelu);
        let residual = Epilogue::Add(sum.residual);
        intermediate.backward(builder, gradient, "attention.output.gradient", residual)
    }
}
