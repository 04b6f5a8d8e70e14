//! Dense layers and norms as ops of a plan, forward and backward: what encoders and heads are built from.

use crate::ops::matmul::{Epilogue, Form, MatMul, Operand};
use crate::ops::norm::{NORM_PARTIALS, Norm, NormGradient};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Element, Role, Rows, TensorId};

use crate::model::inputs::Packed;
use crate::model::parameters::{DenseParameters, NormParameters};

/// SPEC.md §2.
pub const NORM_EPSILON: f32 = 1e-12;

/// y = x·Wᵀ + b with the given epilogue; the caller names the output.
pub fn linear(x: TensorId, dense: &DenseParameters, y: TensorId, rows: Rows, epilogue: Epilogue) -> MatMul {
    MatMul {
        form: Form::Nt,
        a: x.into(),
        b: dense.weight.value.into(),
        c: y.into(),
        rows,
        n: dense.outputs,
        inner: dense.inputs,
        epilogue,
        bias_gradient: None,
        partials: None,
    }
}

/// dx = dy·W with the given epilogue.
pub fn linear_input_gradient(
    dy: TensorId,
    dense: &DenseParameters,
    dx: TensorId,
    rows: Rows,
    epilogue: Epilogue,
) -> MatMul {
    MatMul {
        form: Form::Nn,
        a: dy.into(),
        b: dense.weight.value.into(),
        c: dx.into(),
        rows,
        n: dense.inputs,
        inner: dense.outputs,
        epilogue,
        bias_gradient: None,
        partials: None,
    }
}

/// dW += dyᵀ·x, db += column sums of dy.
pub fn linear_weight_gradient(
    builder: &mut PlanBuilder,
    label: &str,
    dy: TensorId,
    x: TensorId,
    dense: &DenseParameters,
    rows: Rows,
) {
    let splits = MatMul::splits(dense.outputs, dense.inputs, rows.capacity);
    let partials = (splits > 1).then(|| {
        let columns = dense.outputs * dense.inputs + dense.outputs;
        let name = format!("{label}.partials");
        (builder.tensor(&name, Rows::fixed(splits), columns, Element::Float, Role::Scratch), splits)
    });
    builder.push(
        label,
        MatMul {
            form: Form::Tn,
            a: dy.into(),
            b: x.into(),
            c: Operand::from(dense.weight.gradient),
            rows,
            n: dense.inputs,
            inner: dense.outputs,
            epilogue: Epilogue::None,
            bias_gradient: Some(dense.bias.gradient),
            partials,
        },
    );
}

/// Where a norm's gradients come from and go to.
pub struct NormWay {
    pub output_gradient: TensorId,
    pub sum: TensorId,
    pub statistics: TensorId,
    pub columns: usize,
    pub rows: Rows,
    pub output_dropout: Dropout,
    pub input_dropout: Dropout,
}

/// Pushes the way back through a norm; returns the gradients of the sum and of the dropped-out input.
pub fn norm_gradient(
    builder: &mut PlanBuilder,
    label: &str,
    parameters: &NormParameters,
    way: NormWay,
    packed: Option<&Packed>,
) -> (TensorId, TensorId) {
    let sum_gradient = builder.gradient(&format!("{label}.sum.gradient"), way.rows, way.columns);
    let input_gradient = way
        .input_dropout
        .is_on()
        .then(|| builder.gradient(&format!("{label}.input.gradient"), way.rows, way.columns));
    let partials = builder.tensor(
        &format!("{label}.partials"),
        Rows::fixed(NORM_PARTIALS),
        2 * way.columns,
        Element::Float,
        Role::Scratch,
    );
    builder.push(
        label,
        NormGradient {
            output_gradient: way.output_gradient,
            sum: way.sum,
            statistics: way.statistics,
            weight: parameters.weight.value,
            sum_gradient,
            input_gradient,
            weight_gradient: parameters.weight.gradient,
            bias_gradient: parameters.bias.gradient,
            partials,
            rows: way.rows,
            columns: way.columns,
            output_dropout: way.output_dropout,
            input_dropout: way.input_dropout,
            positions: packed.map(|packed| packed.positions),
            sequences: packed.map(|packed| packed.sequences),
        },
    );
    (sum_gradient, input_gradient.unwrap_or(sum_gradient))
}

/// Pushes output = LayerNorm(residual + dropout(input)); returns (output, statistics).
pub fn norm(
    builder: &mut PlanBuilder,
    label: &str,
    parameters: &NormParameters,
    (input, residual): (TensorId, Option<TensorId>),
    (rows, columns): (Rows, usize),
    dropout: Dropout,
    packed: Option<&Packed>,
) -> (TensorId, TensorId) {
    let statistics = builder.exact(&format!("{label}.statistics"), rows, 2);
    let output = builder.activation(label, rows, columns);
    builder.push(
        label,
        Norm {
            input,
            residual,
            weight: parameters.weight.value,
            bias: parameters.bias.value,
            statistics,
            output,
            rows,
            columns,
            epsilon: NORM_EPSILON,
            dropout,
            positions: packed.map(|packed| packed.positions),
            sequences: packed.map(|packed| packed.sequences),
        },
    );
    (output, statistics)
}
