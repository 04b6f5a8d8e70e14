//! The ops of a dense layer one by one, for the heads of fine-tuning.

use crate::ops::matmul::{Epilogue, Form, MatMul, Operand};
use crate::plan::PlanBuilder;
use crate::tensor::{Element, Role, Rows, TensorId};

use crate::model::parameters::DenseParameters;

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
