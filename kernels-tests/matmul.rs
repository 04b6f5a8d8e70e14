//! Matrix products: forms, epilogues, awkward shapes, offsets, splits, operands in f32, no rows at all.

use std::time::Instant;

use inazuma::cpu::CpuExecutor;
use inazuma::gpu::{GpuExecutor, Options, Selection, selector};
use inazuma::ops::matmul::{Epilogue, Form, MatMul, Operand};
use inazuma::plan::{Executor, Initial, ParameterKind, Phase, PlanBuilder};
use inazuma::tensor::{Extent, Precision, Rows, TensorId};

use crate::harness::{Case, Fill, GradientCase, compare, gpu, gradient_check, product, step};
use crate::testing::skipped;
use crate::tolerances::MATMUL;

/// A product of C[rows, n], the varying dimension in use up to `used`, with rows of every operand skipped.
#[derive(Clone, Copy)]
struct Shape {
    used: usize,
    n: usize,
    inner: usize,
    skip: usize,
    splits: Option<usize>,
    /// The weight (`Tn`: the gradient of the output) is f32 in any precision.
    exact: bool,
}

fn shape(used: usize, n: usize, inner: usize) -> Shape {
    Shape { used, n, inner, skip: 0, splits: None, exact: false }
}

impl Shape {
    fn split(self, splits: usize) -> Shape {
        Shape { splits: Some(splits), ..self }
    }

    /// Differs where anything does: a case draws its inputs from its name.
    fn name(&self) -> String {
        let Shape { used, n, inner, skip, splits, exact } = self;
        let exact = if *exact { " exact" } else { "" };
        format!("{used}×{n}×{inner} skip {skip} splits {splits:?}{exact}")
    }

    /// An operand that is f32 where `exact`.
    fn operand(&self, builder: &mut PlanBuilder, name: &str, rows: Rows, columns: usize) -> TensorId {
        match self.exact {
            true => builder.exact(name, rows, columns),
            false => builder.activation(name, rows, columns),
        }
    }

    /// The partial sums of the product.
    fn parts(&self, builder: &mut PlanBuilder, product: &MatMul) -> Option<(TensorId, usize)> {
        let partials = |splits| (builder.scratch("partials", Rows::fixed(splits), product.part()), splits);
        self.splits.map(partials)
    }
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
    let name = format!("matmul {form:?} {after:?} {}", s.name());
    compare(&name, &step(s.used as u32, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, s.used + 3);
        let b_rows = if form == Form::Nt { s.n } else { s.inner };
        let b_columns = if form == Form::Nt { s.inner } else { s.n };
        let fixed = |extra| Rows::fixed(extra + s.skip);
        let a = builder.activation("a", if s.skip == 0 { rows } else { fixed(rows.capacity) }, s.inner);
        let b = s.operand(builder, "b", fixed(b_rows), b_columns);
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
        let product = MatMul {
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
        };
        let partials = s.parts(builder, &product);
        builder.push("product", MatMul { partials, ..product });
        case
    });
}

/// `Tn`: C[inner, n] += Aᵀ·B over the rows in use, with or without bias gradient.
fn gradient_product(s: Shape, bias: bool) {
    let name = format!("matmul Tn {} bias {bias}", s.name());
    compare(&name, &step(s.used as u32, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, s.used + 3);
        let operands = if s.skip == 0 { rows } else { Rows::fixed(rows.capacity + s.skip) };
        let a = s.operand(builder, "a", operands, s.inner);
        let b = builder.activation("b", operands, s.n);
        let c = builder.exact("c", Rows::fixed(s.inner + s.skip), s.n);
        let sums = builder.exact("sums", Rows::fixed(1), s.inner);
        let operand = |tensor| Operand { tensor, first_row: s.skip };
        let product = MatMul {
            a: operand(a),
            b: operand(b),
            c: operand(c),
            bias_gradient: bias.then_some(sums),
            ..product(Form::Tn, a, b, c, rows, s.n, s.inner)
        };
        let partials = s.parts(builder, &product);
        builder.push("product", MatMul { partials, ..product });
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
        gradient_product(shape(used, n, inner), false);
        gradient_product(shape(used, n, inner), true);
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
        for (n, inner) in [(9, 18), (12, 20)] {
            let shape = Shape { skip: 5, ..shape(35, n, inner) };
            rows_product(form, After::BiasGelu, shape);
            rows_product(form, After::None, shape);
            rows_product(form, After::BiasGelu, shape.split(2));
        }
    }
    let shape = Shape { skip: 5, ..shape(35, 9, 18) };
    gradient_product(shape, true);
    gradient_product(shape.split(3), true);
}

/// More splits than steps of k leave some of them empty.
#[test]
fn splits() {
    for (used, n, inner, splits) in
        [(100, 67, 35, 3), (33, 5, 70, 7), (1, 3, 2, 4), (100, 68, 132, 3), (39, 4, 8, 7)]
    {
        gradient_product(shape(used, n, inner).split(splits), true);
        gradient_product(shape(used, n, inner).split(splits), false);
    }
}

/// The epilogue follows the sum of the parts.
#[test]
fn splits_with_every_epilogue() {
    for after in [After::None, After::Bias, After::BiasGelu, After::GeluGradient, After::Add] {
        for form in [Form::Nt, Form::Nn] {
            rows_product(form, after, shape(13, 7, 35).split(3));
            rows_product(form, after, shape(67, 68, 132).split(3));
        }
    }
    // 16 parts at a time, then four, then what is left of four; and parts of nothing.
    rows_product(Form::Nt, After::Bias, shape(3, 8, 16 * 23).split(23));
    rows_product(Form::Nn, After::Add, shape(1, 5, 3).split(7));
}

/// Tiles that C divides without a rest, many of them, in groups of eight rows and more; k of several steps and a rest.
#[test]
fn whole_tiles() {
    for (used, n, inner) in [(128, 128, 64), (1, 128, 256), (640, 64, 20), (256, 260, 100)] {
        rows_product(Form::Nt, After::Bias, shape(used, n, inner));
        rows_product(Form::Nn, After::GeluGradient, shape(used, n, inner));
    }
    rows_product(Form::Nt, After::BiasGelu, shape(128, 128, 96).split(2));
    gradient_product(shape(200, 128, 128), true);
    gradient_product(shape(200, 128, 256).split(5), true);
    gradient_product(shape(200, 64, 192).split(2), false);
}

/// Weights, and the gradients of logits, are f32 in any precision; cooperative matrices take them rounded.
#[test]
fn operands_in_f32() {
    for (used, n, inner) in [(37, 68, 36), (5, 7, 130), (3, 4, 1024)] {
        let shape = Shape { exact: true, ..shape(used, n, inner) };
        rows_product(Form::Nt, After::BiasGelu, shape);
        rows_product(Form::Nn, After::Add, shape);
        rows_product(Form::Nn, After::None, shape.split(3));
        gradient_product(shape, true);
        gradient_product(shape.split(2), true);
    }
}

/// Tiles of 128 × 64 are taken where there are many: splits, or columns, make them so.
#[test]
fn wide_tiles() {
    gradient_product(shape(133, 68, 132).split(60), true);
    gradient_product(shape(133, 68, 132).split(60), false);
    rows_product(Form::Nn, After::None, shape(133, 68, 132).split(60));
    rows_product(Form::Nt, After::BiasGelu, shape(2, 64 * 240 - 4, 20));
    rows_product(Form::Nn, After::Add, shape(2, 64 * 240 - 4, 20));
}

/// No rows in use: nothing is written, and gradients stay as they are.
#[test]
fn no_rows() {
    rows_product_of_nothing(Form::Nt);
    rows_product_of_nothing(Form::Nn);
    gradient_product(shape(0, 7, 5), true);
    gradient_product(shape(0, 7, 5).split(3), true);
}

fn rows_product_of_nothing(form: Form) {
    rows_product(form, After::None, shape(0, 7, 5));
    rows_product(form, After::BiasGelu, shape(0, 7, 5));
    rows_product(form, After::BiasGelu, shape(0, 8, 4).split(3));
}

/// Rounding at k = 1000 stays within the tolerance, in one sum and in splits.
#[test]
fn long_sums() {
    rows_product(Form::Nt, After::None, shape(9, 8, 1000));
    rows_product(Form::Nn, After::None, shape(9, 8, 1000));
    gradient_product(shape(1000, 8, 9), true);
    gradient_product(shape(1000, 8, 9).split(4), true);
}

/// More workgroups than one dimension of a grid holds: as many splits, nearly all of them empty.
#[test]
fn grids_beyond_one_dimension() {
    gradient_product(shape(100, 1, 1).split(65_536 + 1), true);
}

/// GELU of f16 results, at every third number that f16 has up to 12 in size: off by a unit of the result (drivers may
/// round either way) and by what the short tail costs, whatever else the tensor holds.
#[test]
fn gelu_in_half_precision() {
    if !gpu().capabilities.half {
        return skipped("GELU in half precision: the adapter has no SHADER_F16");
    }
    let numbers: Vec<f32> =
        (0..=u16::MAX).step_by(3).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
    let mut numbers: Vec<f32> = numbers.into_iter().filter(|x| x.abs() <= 12.0).collect();
    numbers.resize(numbers.len().next_multiple_of(4), 0.0);
    let rows = numbers.len() / 4;
    let make = || {
        let mut builder = PlanBuilder::new();
        builder.precision(Precision::F16);
        let tokens = Rows::of(Extent::Tokens, rows);
        let [x, ones, gelu, before, slope] =
            ["x", "ones", "gelu", "before", "slope"].map(|name| builder.activation(name, tokens, 4));
        let [identity, quarters] =
            ["identity", "quarters"].map(|name| builder.activation(name, Rows::fixed(4), 4));
        let bias = builder.exact("bias", Rows::fixed(1), 4);
        let forward = product(Form::Nt, x, identity, gelu, tokens, 4, 4);
        builder.push("gelu", MatMul { epilogue: Epilogue::BiasGelu { bias, before }, ..forward });
        let backward = product(Form::Nn, ones, quarters, slope, tokens, 4, 4);
        builder.push("slope", MatMul { epilogue: Epilogue::GeluGradient { before }, ..backward });
        let plan = builder.build(&[x, ones, identity, quarters, bias, gelu, before, slope]).unwrap();
        (plan, [x, ones, identity, quarters, bias], [gelu, slope])
    };
    let fill = |executor: &mut dyn Executor, [x, ones, identity, quarters, bias]: [TensorId; 5]| {
        executor.write(x, &numbers).unwrap();
        executor.write(ones, &vec![1.0; 4 * rows]).unwrap();
        executor.write(identity, &[1.0, 0.0, 0.0, 0.0, 0.0].repeat(4)[..16]).unwrap();
        executor.write(quarters, &[0.25; 16]).unwrap();
        executor.write(bias, &[0.0; 4]).unwrap();
        executor.run(0..2, &step(rows as u32, 1, 0), &[]).unwrap();
    };
    let (plan, inputs, outputs) = make();
    let candidates = plan.candidates(0).unwrap();
    let fitting = candidates.iter().filter(|c| selector::fits(&c.requires, &gpu().capabilities)).count();
    let mut reference = CpuExecutor::<f64>::new(plan, 1).unwrap();
    fill(&mut reference, inputs);
    let expected = outputs.map(|output| reference.read_exact(output).unwrap());
    for nth in 0..fitting {
        let options = Options { selection: Selection::Nth(nth), checked: false };
        let mut executor = GpuExecutor::new(gpu(), make().0, options).unwrap();
        fill(&mut executor, inputs);
        for (output, expected) in outputs.iter().zip(&expected) {
            let found = executor.read(*output).unwrap();
            for ((&x, &expected), found) in numbers.iter().zip(expected).zip(found) {
                let allowed = expected.abs() / 1024.0 + 6e-8 + 1e-7 * f64::from(x.abs()).max(1.0);
                let difference = (f64::from(found) - expected).abs();
                let (strategy, name) = (executor.strategies()[0], &executor.plan().info(*output).name);
                assert!(difference <= allowed, "{strategy}: {name}({x:e}) is {found:e}, not {expected:e}");
            }
        }
    }
}
