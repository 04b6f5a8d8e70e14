//! Matrix products: forms, epilogues, awkward shapes, offsets, splits, no rows at all.

use inazuma::ops::matmul::{Epilogue, Form, MatMul, Operand};
use std::time::Instant;

use inazuma::gpu::{GpuExecutor, Options, Selection};
use inazuma::plan::{Executor, Initial, ParameterKind, Phase, PlanBuilder};
use inazuma::tensor::{Extent, Rows};

use crate::harness::{Case, Fill, GradientCase, compare, gpu, gradient_check, product, step};
use crate::tolerances::MATMUL;

/// A product of C[rows, n], the varying dimension in use up to `used`, with rows of every operand skipped.
#[derive(Clone, Copy)]
struct Shape {
    used: usize,
    n: usize,
    inner: usize,
    skip: usize,
}

fn shape(used: usize, n: usize, inner: usize) -> Shape {
    Shape { used, n, inner, skip: 0 }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    None,
    Bias,
    BiasGelu,
    GeluGradient,
    Add,
}

/// `Nt` and `Nn`: C has three rows more than are used.
fn rows_product(form: Form, after: After, s: Shape) {
    let name = format!("matmul {form:?} {after:?} {}×{}×{} skip {}", s.used, s.n, s.inner, s.skip);
    compare(&name, &step(s.used as u32, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, s.used + 3);
        let b_rows = if form == Form::Nt { s.n } else { s.inner };
        let b_columns = if form == Form::Nt { s.inner } else { s.n };
        let fixed = |extra| Rows::fixed(extra + s.skip);
        let a = builder.activation("a", if s.skip == 0 { rows } else { fixed(rows.capacity) }, s.inner);
        let b = builder.activation("b", fixed(b_rows), b_columns);
        let c = builder.activation("c", fixed(rows.capacity), s.n);
        let mut case = Case::new().fill(a, Fill::Normal(1.0)).fill(b, Fill::Normal(1.0)).output(c, MATMUL);
        let bias = builder.exact("bias", Rows::fixed(1), s.n);
        let other = builder.activation("other", rows, s.n);
        if matches!(after, After::Bias | After::BiasGelu) {
            case = case.fill(bias, Fill::Normal(1.0));
        }
        if matches!(after, After::GeluGradient | After::Add) {
            case = case.fill(other, Fill::Normal(1.0));
        }
        if matches!(after, After::BiasGelu | After::GeluGradient) {
            case = case.output(other, MATMUL);
        }
        let operand = |tensor| Operand { tensor, first_row: s.skip };
        builder.push(
            "product",
            MatMul {
                a: operand(a),
                b: operand(b),
                c: operand(c),
                epilogue: match after {
                    After::None => Epilogue::None,
                    After::Bias => Epilogue::Bias(bias),
                    After::BiasGelu => Epilogue::BiasGelu { bias, before: other },
                    After::GeluGradient => Epilogue::GeluGradient { before: other },
                    After::Add => Epilogue::Add(other),
                },
                ..product(form, a, b, c, rows, s.n, s.inner)
            },
        );
        case
    });
}

/// `Tn`: C[inner, n] += Aᵀ·B over the rows in use, with or without bias gradient and splits.
fn gradient_product(s: Shape, bias: bool, splits: Option<usize>) {
    let name =
        format!("matmul Tn {}×{}×{} skip {} bias {bias} splits {splits:?}", s.inner, s.n, s.used, s.skip);
    compare(&name, &step(s.used as u32, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, s.used + 3);
        let operands = if s.skip == 0 { rows } else { Rows::fixed(rows.capacity + s.skip) };
        let a = builder.activation("a", operands, s.inner);
        let b = builder.activation("b", operands, s.n);
        let c = builder.exact("c", Rows::fixed(s.inner + s.skip), s.n);
        let sums = builder.exact("sums", Rows::fixed(1), s.inner);
        let partials = splits.map(|splits| {
            let rows = Rows::fixed(splits);
            let columns = s.inner * s.n + s.inner;
            (builder.scratch("partials", rows, columns), splits)
        });
        let operand = |tensor| Operand { tensor, first_row: s.skip };
        builder.push(
            "product",
            MatMul {
                a: operand(a),
                b: operand(b),
                c: operand(c),
                bias_gradient: bias.then_some(sums),
                partials,
                ..product(Form::Tn, a, b, c, rows, s.n, s.inner)
            },
        );
        let mut case = Case::new()
            .fill(a, Fill::Normal(1.0))
            .fill(b, Fill::Normal(1.0))
            .fill(c, Fill::Normal(1.0))
            .output(c, MATMUL);
        if bias {
            case = case.fill(sums, Fill::Normal(1.0)).output(sums, MATMUL);
        }
        case
    });
}

/// Rows, columns, inner: ones, primes, one more than a tile, whole tiles; those of multiples of 4 have a strategy more.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (2, 1, 37),
    (1, 67, 3),
    (13, 7, 17),
    (65, 65, 65),
    (64, 64, 64),
    (31, 130, 33),
    (129, 33, 16),
    (1, 4, 4),
    (67, 68, 36),
    (130, 132, 20),
    (3, 64, 132),
];

#[test]
fn forms_at_awkward_shapes() {
    for (used, n, inner) in SHAPES {
        rows_product(Form::Nt, After::None, shape(used, n, inner));
        rows_product(Form::Nn, After::None, shape(used, n, inner));
        gradient_product(shape(used, n, inner), false, None);
        gradient_product(shape(used, n, inner), true, None);
    }
}

#[test]
fn epilogues() {
    for after in [After::Bias, After::BiasGelu, After::GeluGradient, After::Add] {
        for (used, n, inner) in [(1, 1, 1), (37, 67, 19), (70, 72, 20)] {
            rows_product(Form::Nt, after, shape(used, n, inner));
            rows_product(Form::Nn, after, shape(used, n, inner));
        }
    }
}

/// y = gelu(x·W₁ᵀ + b)·W₂ᵀ, loss Σ w·y: every form and the epilogues of both ways, in the middle of a plan.
#[test]
fn gradients() {
    gradient_check("matmul gradients", &step(11, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, 13);
        let (inner, hidden, out) = (5, 7, 3);
        let x = builder.activation("x", rows, inner);
        let w1 = builder.parameter(&[("w1".into(), hidden)], inner, ParameterKind::Weight, Initial::Zero);
        let b1 = builder.parameter(&[("b1.bias".into(), 1)], hidden, ParameterKind::Bias, Initial::Zero);
        let w2 = builder.parameter(&[("w2".into(), out)], hidden, ParameterKind::Weight, Initial::Zero);
        let before = builder.activation("before", rows, hidden);
        let h = builder.activation("h", rows, hidden);
        let y = builder.activation("y", rows, out);
        let [dx, dh, dy] = [("dx", inner), ("dh", hidden), ("dy", out)]
            .map(|(name, columns)| builder.gradient(name, rows, columns));
        builder.push(
            "first",
            MatMul {
                epilogue: Epilogue::BiasGelu { bias: b1.value, before },
                ..product(Form::Nt, x, w1.value, h, rows, hidden, inner)
            },
        );
        builder.push("second", product(Form::Nt, h, w2.value, y, rows, out, hidden));
        let middle = builder.op_count();
        builder.push(
            "second input",
            MatMul {
                epilogue: Epilogue::GeluGradient { before },
                ..product(Form::Nn, dy, w2.value, dh, rows, hidden, out)
            },
        );
        // That product has left gelu(before) where `before` was.
        builder.push("second weights", product(Form::Tn, dy, before, w2.gradient, rows, hidden, out));
        builder.push(
            "first weights",
            MatMul {
                bias_gradient: Some(b1.gradient),
                ..product(Form::Tn, dh, x, w1.gradient, rows, inner, hidden)
            },
        );
        builder.push("first input", product(Form::Nn, dh, w1.value, dx, rows, inner, hidden));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx), (w1.value, w1.gradient), (b1.value, b1.gradient), (w2.value, w2.gradient)],
            output: y,
            output_gradient: dy,
            fills: [x, w1.value, b1.value, w2.value].map(|id| (id, Fill::Normal(0.7))).to_vec(),
        }
    });
}

/// GFLOP/s of every strategy at 256×256×256, for what it is worth: `cargo test --release -- --ignored speed`.
#[test]
#[ignore = "measures, checks nothing"]
fn speed() {
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        for nth in 0..3 {
            let mut builder = PlanBuilder::new();
            let rows = Rows::of(Extent::Tokens, 256);
            let [a, b, c] = ["a", "b", "c"].map(|name| builder.activation(name, rows, 256));
            builder.push("product", product(form, a, b, c, rows, 256, 256));
            let plan = builder.build(&[a, b, c]).unwrap();
            let flops = plan.flops(Phase::Micro, &step(256, 1, 0).extents());
            let options = Options { selection: Selection::Nth(nth), checked: false };
            let mut executor = GpuExecutor::new(gpu(), plan, options).unwrap();
            let mut best = f64::MAX;
            for _ in 0..8 {
                let start = Instant::now();
                executor.run(0..1, &step(256, 1, 0), &[]).unwrap();
                executor.read(c).unwrap();
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!("{form:?} {}: {:.2} GFLOP/s", executor.strategies()[0], flops / best / 1e9);
        }
    }
}

#[test]
fn operands_from_a_row_on() {
    for form in [Form::Nt, Form::Nn] {
        let shape = Shape { used: 35, n: 9, inner: 18, skip: 5 };
        rows_product(form, After::BiasGelu, shape);
        rows_product(form, After::None, shape);
    }
    gradient_product(Shape { used: 35, n: 9, inner: 18, skip: 5 }, true, None);
    gradient_product(Shape { used: 35, n: 9, inner: 18, skip: 5 }, true, Some(3));
}

/// More splits than steps of k leave some of them empty.
#[test]
fn splits() {
    for (used, n, inner, splits) in
        [(100, 67, 35, 3), (33, 5, 70, 7), (1, 3, 2, 4), (100, 68, 132, 3), (39, 4, 8, 7)]
    {
        gradient_product(shape(used, n, inner), true, Some(splits));
        gradient_product(shape(used, n, inner), false, Some(splits));
    }
    rows_split(shape(13, 7, 35), 3);
    rows_split(shape(67, 68, 132), 3);
}

/// Tiles of 128 × 64 are taken where there are many: splits, or columns, make them so.
#[test]
fn wide_tiles() {
    gradient_product(shape(133, 68, 132), true, Some(60));
    gradient_product(shape(133, 68, 132), false, Some(60));
    rows_split(shape(133, 68, 132), 60);
    rows_product(Form::Nt, After::BiasGelu, shape(2, 64 * 240 - 4, 20));
    rows_product(Form::Nn, After::Add, shape(2, 64 * 240 - 4, 20));
}

/// `Nn` in splits: written, not added, from a row of C on.
fn rows_split(s: Shape, splits: usize) {
    let name = format!("matmul Nn {}×{}×{} splits {splits}", s.used, s.n, s.inner);
    compare(&name, &step(s.used as u32, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, s.used + 3);
        let a = builder.activation("a", rows, s.inner);
        let b = builder.activation("b", Rows::fixed(s.inner), s.n);
        let c = builder.activation("c", Rows::fixed(rows.capacity + 2), s.n);
        let columns = rows.capacity * s.n;
        let partials = builder.scratch("partials", Rows::fixed(splits), columns);
        let c_rows = Operand { tensor: c, first_row: 2 };
        let partials = Some((partials, splits));
        builder.push(
            "product",
            MatMul { c: c_rows, partials, ..product(Form::Nn, a, b, c, rows, s.n, s.inner) },
        );
        Case::new().fill(a, Fill::Normal(1.0)).fill(b, Fill::Normal(1.0)).output(c, MATMUL)
    });
}

/// No rows in use: nothing is written, and gradients stay as they are.
#[test]
fn no_rows() {
    rows_product_of_nothing(Form::Nt);
    rows_product_of_nothing(Form::Nn);
    gradient_product(shape(0, 7, 5), true, None);
    gradient_product(shape(0, 7, 5), true, Some(3));
}

fn rows_product_of_nothing(form: Form) {
    rows_product(form, After::None, shape(0, 7, 5));
    rows_product(form, After::BiasGelu, shape(0, 7, 5));
}

/// Rounding at k = 1000 stays within the tolerance, in one sum and in splits.
#[test]
fn long_sums() {
    rows_product(Form::Nt, After::None, shape(9, 8, 1000));
    rows_product(Form::Nn, After::None, shape(9, 8, 1000));
    gradient_product(shape(1000, 8, 9), true, None);
    gradient_product(shape(1000, 8, 9), true, Some(4));
}

/// More workgroups than one dimension of a grid holds: as many splits, nearly all of them empty.
#[test]
fn grids_beyond_one_dimension() {
    gradient_product(shape(100, 1, 1), true, Some(65_536 + 1));
}
