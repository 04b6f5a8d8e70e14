//! Norms: with and without residual and dropout, both ways, at awkward shapes.

use inazuma::ops::matmul::Form;
use inazuma::ops::norm::{Norm, NormGradient, partials};
use inazuma::plan::{Initial, ParameterKind, PlanBuilder};
use inazuma::tensor::{Dropout, Element, Extent, Role, Rows, TensorId};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::tolerances::{ELEMENTWISE, NORM, NORM_GRADIENT};

/// Tokens packed into three sequences (fewer where there are fewer tokens), the first the longest.
pub struct Packed {
    /// First row of each sequence, and one more.
    pub starts: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<u32>,
}

pub fn packed(tokens: usize) -> Packed {
    let mut packed = Packed { starts: vec![0], positions: vec![], sequences: vec![] };
    let first = tokens.div_ceil(2);
    let second = (tokens - first).div_ceil(2);
    for (sequence, length) in [first, second, tokens - first - second].into_iter().enumerate() {
        if length > 0 {
            packed.positions.extend(0..length as u32);
            packed.sequences.extend(vec![sequence as u32; length]);
            packed.starts.push(packed.positions.len() as u32);
        }
    }
    packed
}

/// A batch tensor of integers.
pub fn integers(builder: &mut PlanBuilder, name: &str, rows: Rows) -> TensorId {
    builder.tensor(name, rows, 1, Element::Uint, Role::Batch)
}

pub fn scratch(builder: &mut PlanBuilder, rows: usize, columns: usize) -> TensorId {
    builder.scratch("partials", Rows::fixed(rows), columns)
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    used: usize,
    columns: usize,
    residual: bool,
    /// Probability of the branch's dropout.
    dropout: f64,
}

const SITE: u32 = 41;

fn forward(shape: Shape) {
    let packed = packed(shape.used);
    let sequences = packed.starts.len() as u32 - 1;
    compare(&format!("norm {shape:?}"), &step(shape.used as u32, sequences, 0), |builder| {
        let (rows, columns) = (Rows::of(Extent::Tokens, shape.used + 3), shape.columns);
        let [input, residual, output] =
            ["input", "residual", "output"].map(|n| builder.activation(n, rows, columns));
        let statistics = builder.exact("statistics", rows, 2);
        let [weight, bias] = ["weight", "bias"].map(|n| builder.exact(n, Rows::fixed(1), columns));
        let [positions, ids] = ["positions", "sequences"].map(|n| integers(builder, n, rows));
        let dropout = Dropout::new(shape.dropout, SITE);
        builder.push(
            "norm",
            Norm {
                input,
                residual: shape.residual.then_some(residual),
                weight,
                bias,
                statistics,
                output,
                rows,
                columns,
                epsilon: 1e-12,
                dropout,
                positions: dropout.is_on().then_some(positions),
                sequences: dropout.is_on().then_some(ids),
            },
        );
        let mut case = Case::new()
            .fill(input, Fill::Normal(2.0))
            .fill(weight, Fill::Normal(1.0))
            .fill(bias, Fill::Normal(1.0))
            .output(input, ELEMENTWISE)
            .output(statistics, NORM)
            .output(output, NORM);
        if shape.residual {
            // A mean well away from zero: what one-pass variances lose digits to.
            case = case.fill(residual, Fill::Uniform(3.0, 5.0));
        }
        if dropout.is_on() {
            case = case.fill(positions, Fill::Integers(packed.positions.clone()));
            case = case.fill(ids, Fill::Integers(packed.sequences.clone()));
        }
        case
    });
}

/// Where dropout acts in backward.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dropped {
    Nothing,
    Branch,
    Output,
}

fn backward(used: usize, columns: usize, branch: bool, dropped: Dropped) {
    let packed = packed(used);
    let name = format!("norm gradient {used}×{columns} branch {branch} dropout {dropped:?}");
    compare(&name, &step(used as u32, packed.starts.len() as u32 - 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, used + 3);
        let [output_gradient, sum, sum_gradient, input_gradient] =
            ["output_gradient", "sum", "sum_gradient", "input_gradient"]
                .map(|n| builder.activation(n, rows, columns));
        let statistics = builder.exact("statistics", rows, 2);
        let [weight, weight_gradient, bias_gradient] =
            ["weight", "weight_gradient", "bias_gradient"].map(|n| builder.exact(n, Rows::fixed(1), columns));
        let [positions, ids] = ["positions", "sequences"].map(|n| integers(builder, n, rows));
        let on = |side| Dropout::new(if dropped == side { 0.1 } else { 0.0 }, SITE);
        let any = dropped != Dropped::Nothing;
        let partials = scratch(builder, partials(rows), 2 * columns);
        builder.push(
            "norm gradient",
            NormGradient {
                output_gradient,
                sum,
                statistics,
                weight,
                sum_gradient,
                input_gradient: branch.then_some(input_gradient),
                weight_gradient,
                bias_gradient,
                partials,
                rows,
                columns,
                output_dropout: on(Dropped::Output),
                input_dropout: on(Dropped::Branch),
                positions: any.then_some(positions),
                sequences: any.then_some(ids),
            },
        );
        // Statistics that are not the rows' own: what is compared are the formulas, without the cancellation
        // that true ones bring at few columns. The gradient check below has the true ones.
        let mut case = Case::new()
            .fill(output_gradient, Fill::Normal(1.0))
            .fill(sum, Fill::Normal(2.0))
            .fill(statistics, Fill::Uniform(0.2, 0.7))
            .fill(weight, Fill::Normal(1.0))
            .fill(weight_gradient, Fill::Normal(1.0))
            .fill(bias_gradient, Fill::Normal(1.0))
            .output(sum_gradient, NORM_GRADIENT)
            .output(weight_gradient, NORM_GRADIENT)
            .output(bias_gradient, NORM_GRADIENT);
        if branch {
            case = case.output(input_gradient, NORM_GRADIENT);
        }
        if any {
            case = case.fill(positions, Fill::Integers(packed.positions.clone()));
            case = case.fill(ids, Fill::Integers(packed.sequences.clone()));
        }
        case
    });
}

/// Rows in use and columns: ones, primes, more rows than partial sums, more lanes than threads.
pub const SHAPES: [(usize, usize); 9] =
    [(1, 1), (5, 3), (67, 16), (130, 31), (1, 64), (5, 129), (67, 256), (300, 12), (3, 1028)];

#[test]
fn forward_plain() {
    for (used, columns) in SHAPES {
        forward(Shape { used, columns, residual: false, dropout: 0.0 });
    }
}

#[test]
fn forward_with_residual() {
    for (used, columns) in SHAPES {
        forward(Shape { used, columns, residual: true, dropout: 0.0 });
    }
}

#[test]
fn forward_with_dropout() {
    for (used, columns) in SHAPES {
        forward(Shape { used, columns, residual: true, dropout: 0.1 });
    }
}

#[test]
fn no_rows() {
    forward(Shape { used: 0, columns: 16, residual: true, dropout: 0.1 });
    backward(0, 16, true, Dropped::Branch);
}

#[test]
fn backward_plain() {
    for (used, columns) in SHAPES {
        backward(used, columns, false, Dropped::Nothing);
    }
    backward(67, 16, true, Dropped::Nothing);
}

#[test]
fn backward_with_dropout_of_the_branch() {
    for (used, columns) in SHAPES {
        backward(used, columns, true, Dropped::Branch);
    }
}

#[test]
fn backward_with_dropout_of_the_output() {
    for (used, columns) in SHAPES {
        backward(used, columns, false, Dropped::Output);
    }
    backward(67, 16, true, Dropped::Output);
}

/// y = norm(x·W₁ᵀ [+ residual])·W₂ᵀ.
fn gradients(residual: bool, dropout: f64) {
    let packed = packed(11);
    let name = format!("norm gradients, residual {residual}, dropout {dropout}");
    gradient_check(&name, &step(11, 3, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, 13);
        let (inner, columns, out) = (5, 7, 3);
        let x = builder.activation("x", rows, inner);
        let w1 = builder.parameter(&[("w1".into(), columns)], inner, ParameterKind::Weight, Initial::Zero);
        let weight =
            builder.parameter(&[("LayerNorm.weight".into(), columns)], 1, ParameterKind::Norm, Initial::One);
        let bias =
            builder.parameter(&[("LayerNorm.bias".into(), columns)], 1, ParameterKind::Norm, Initial::Zero);
        let w2 = builder.parameter(&[("w2".into(), out)], columns, ParameterKind::Weight, Initial::Zero);
        let [branch, other, normalised] =
            ["branch", "other", "normalised"].map(|n| builder.activation(n, rows, columns));
        let statistics = builder.exact("statistics", rows, 2);
        let y = builder.activation("y", rows, out);
        let [dx, dy] = [("dx", inner), ("dy", out)].map(|(n, columns)| builder.gradient(n, rows, columns));
        let [d_normalised, d_sum, d_branch] =
            ["d_normalised", "d_sum", "d_branch"].map(|n| builder.gradient(n, rows, columns));
        let [positions, ids] = ["positions", "sequences"].map(|n| integers(builder, n, rows));
        let dropout = Dropout::new(dropout, SITE);
        let coordinates = [positions, ids].map(|id| dropout.is_on().then_some(id));
        builder.push("first", product(Form::Nt, x, w1.value, branch, rows, columns, inner));
        builder.push(
            "norm",
            Norm {
                input: branch,
                residual: residual.then_some(other),
                weight: weight.value,
                bias: bias.value,
                statistics,
                output: normalised,
                rows,
                columns,
                epsilon: 1e-12,
                dropout,
                positions: coordinates[0],
                sequences: coordinates[1],
            },
        );
        builder.push("second", product(Form::Nt, normalised, w2.value, y, rows, out, columns));
        let middle = builder.op_count();
        builder.push("second weights", product(Form::Tn, dy, normalised, w2.gradient, rows, columns, out));
        builder.push("second input", product(Form::Nn, dy, w2.value, d_normalised, rows, columns, out));
        let partials = scratch(builder, partials(rows), 2 * columns);
        builder.push(
            "norm gradient",
            NormGradient {
                output_gradient: d_normalised,
                sum: branch,
                statistics,
                weight: weight.value,
                sum_gradient: d_sum,
                input_gradient: residual.then_some(d_branch),
                weight_gradient: weight.gradient,
                bias_gradient: bias.gradient,
                partials,
                rows,
                columns,
                output_dropout: Dropout::off(),
                input_dropout: dropout,
                positions: coordinates[0],
                sequences: coordinates[1],
            },
        );
        let d_product = if residual { d_branch } else { d_sum };
        builder.push("first weights", product(Form::Tn, d_product, x, w1.gradient, rows, inner, columns));
        builder.push("first input", product(Form::Nn, d_product, w1.value, dx, rows, inner, columns));
        let mut wrt = vec![(x, dx)];
        wrt.extend([&w1, &w2, &weight, &bias].map(|p| (p.value, p.gradient)));
        let mut fills: Vec<_> =
            [x, w1.value, w2.value, weight.value, bias.value].map(|id| (id, Fill::Normal(0.7))).to_vec();
        if residual {
            wrt.push((other, d_sum));
            fills.push((other, Fill::Normal(1.0)));
        }
        if dropout.is_on() {
            fills.push((positions, Fill::Integers(packed.positions.clone())));
            fills.push((ids, Fill::Integers(packed.sequences.clone())));
        }
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt,
            output: y,
            output_gradient: dy,
            fills,
        }
    });
}

#[test]
fn gradients_alone_and_with_residual_and_dropout() {
    gradients(false, 0.0);
    gradients(true, 0.0);
    gradients(true, 0.2);
}
