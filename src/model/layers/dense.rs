//! Dense layers, alone and with GELU.

use crate::ops::gelu::GeluGradient;
use crate::ops::matmul::{Epilogue, Form, MatMul};
use crate::plan::PlanBuilder;
use crate::tensor::{Rows, TensorId};

use crate::model::parameters::DenseParameters;

/// y = x·Wᵀ + b: `[R, in]` to `[R, out]`.
#[derive(Clone, Copy)]
pub struct DenseLayer<'a> {
    /// Of the ops, and of the tensors that `gelu` declares.
    pub label: &'a str,
    pub parameters: &'a DenseParameters,
    pub rows: Rows,
}

/// A dense layer that went forward.
#[derive(Clone, Copy)]
pub struct DenseTape<'a> {
    pub layer: DenseLayer<'a>,
    /// `[R, in]`.
    pub input: TensorId,
}

/// A dense layer with GELU that went forward.
#[derive(Clone, Copy)]
pub struct GeluTape<'a> {
    dense: DenseTape<'a>,
    /// `[R, out]`: what GELU was applied to.
    before: TensorId,
}

impl<'a> DenseLayer<'a> {
    /// The output, called `output`, is in the plan's precision.
    pub fn forward(
        &self,
        builder: &mut PlanBuilder,
        input: TensorId,
        output: &str,
    ) -> (TensorId, DenseTape<'a>) {
        let output = builder.activation(output, self.rows, self.parameters.outputs);
        self.push(builder, input, output, Epilogue::Bias(self.parameters.bias.value))
    }

    /// As `forward`, with an output that is f32 in any precision: what a loss or a person reads.
    pub fn logits(
        &self,
        builder: &mut PlanBuilder,
        input: TensorId,
        output: &str,
    ) -> (TensorId, DenseTape<'a>) {
        let output = builder.exact(output, self.rows, self.parameters.outputs);
        self.push(builder, input, output, Epilogue::Bias(self.parameters.bias.value))
    }

    /// GELU(x·Wᵀ + b), called like the layer; GELU is computed where the product ends.
    pub fn gelu(&self, builder: &mut PlanBuilder, input: TensorId) -> (TensorId, GeluTape<'a>) {
        let columns = self.parameters.outputs;
        let before = builder.activation(&format!("{}.before_gelu", self.label), self.rows, columns);
        let output = builder.activation(self.label, self.rows, columns);
        let epilogue = Epilogue::BiasGelu { bias: self.parameters.bias.value, before };
        let (output, dense) = self.push(builder, input, output, epilogue);
        (output, GeluTape { dense, before })
    }

    fn push(
        &self,
        builder: &mut PlanBuilder,
        input: TensorId,
        output: TensorId,
        epilogue: Epilogue,
    ) -> (TensorId, DenseTape<'a>) {
        builder.product(
            self.label,
            MatMul {
                form: Form::Nt,
                a: input.into(),
                b: self.parameters.weight.value.into(),
                c: output.into(),
                rows: self.rows,
                n: self.parameters.outputs,
                inner: self.parameters.inputs,
                epilogue,
                bias_gradient: None,
                partials: None,
            },
        );
        (output, DenseTape { layer: *self, input })
    }
}

impl DenseTape<'_> {
    /// From the gradient of the output to that of the input, called `input_gradient`.
    ///
    /// `epilogue` is what the product of the input's gradient takes along: `Add` joins the gradient of a residual.
    pub fn backward(
        self,
        builder: &mut PlanBuilder,
        output_gradient: TensorId,
        input_gradient: &str,
        epilogue: Epilogue,
    ) -> TensorId {
        self.parameter_gradients(builder, output_gradient);
        self.input_gradient(builder, output_gradient, input_gradient, epilogue)
    }

    fn input_gradient(
        &self,
        builder: &mut PlanBuilder,
        output_gradient: TensorId,
        input_gradient: &str,
        epilogue: Epilogue,
    ) -> TensorId {
        let DenseLayer { label, parameters, rows } = self.layer;
        let input_gradient = builder.gradient(input_gradient, rows, parameters.inputs);
        builder.product(
            &format!("{label}.input"),
            MatMul {
                form: Form::Nn,
                a: output_gradient.into(),
                b: parameters.weight.value.into(),
                c: input_gradient.into(),
                rows,
                n: parameters.inputs,
                inner: parameters.outputs,
                epilogue,
                bias_gradient: None,
                partials: None,
            },
        );
        input_gradient
    }

    /// dW += dyᵀ·x, db += column sums of dy.
    fn parameter_gradients(&self, builder: &mut PlanBuilder, output_gradient: TensorId) {
        let DenseLayer { label, parameters, rows } = self.layer;
        builder.product(
            &format!("{label}.weight"),
            MatMul {
                form: Form::Tn,
                a: output_gradient.into(),
                b: self.input.into(),
                c: parameters.weight.gradient.into(),
                rows,
                n: parameters.inputs,
                inner: parameters.outputs,
                epilogue: Epilogue::None,
                bias_gradient: Some(parameters.bias.gradient),
                partials: None,
            },
        );
    }
}

impl<'a> GeluTape<'a> {
    /// From the gradient of the output to that of the input, called `input_gradient`, where no product stands behind
    /// the GELU that could take its gradient along.
    pub fn backward(
        self,
        builder: &mut PlanBuilder,
        output_gradient: TensorId,
        input_gradient: &str,
    ) -> TensorId {
        let DenseLayer { label, parameters, rows } = self.dense.layer;
        let before_gradient = builder.gradient(&format!("{label}.gradient"), rows, parameters.outputs);
        builder.push(
            &format!("{label}.gelu"),
            GeluGradient {
                input: self.before,
                output_gradient,
                input_gradient: before_gradient,
                rows,
                columns: parameters.outputs,
            },
        );
        self.dense.backward(builder, before_gradient, input_gradient, Epilogue::None)
    }

    /// Backward of the dense layer `behind` the GELU, and on through the GELU: from the gradient of that layer's output
    /// to that of what GELU was applied to, called `gradient`, from which the tape returned goes on.
    ///
    /// Forward did not keep the GELU's output. The product for the gradient computes it again where its input lies, so
    /// that here, unlike elsewhere, the gradients of parameters come after that of the input.
    pub fn backward_from(
        self,
        builder: &mut PlanBuilder,
        behind: DenseLayer<'a>,
        output_gradient: TensorId,
        gradient: &str,
    ) -> (TensorId, DenseTape<'a>) {
        let behind = DenseTape { layer: behind, input: self.before };
        let epilogue = Epilogue::GeluGradient { before: self.before };
        let gradient = behind.input_gradient(builder, output_gradient, gradient, epilogue);
        behind.parameter_gradients(builder, output_gradient);
        (gradient, self.dense)
    }
}
