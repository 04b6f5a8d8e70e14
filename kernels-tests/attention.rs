//! Attention: forward and backward at awkward lengths and head sizes, dropout, gradients in the middle of a plan.

use inazuma::cpu::CpuExecutor;
use inazuma::gpu::selector::fits;
use inazuma::gpu::{GpuExecutor, Options, Selection};
use inazuma::ops::attention::{Attention, AttentionGradient};
use inazuma::ops::matmul::{Epilogue, Form, MatMul};
use inazuma::plan::{Executor, Initial, ParameterKind, PlanBuilder};
use inazuma::tensor::{Dropout, Element, Extent, Precision, Role, Rows, StepValues, TensorId};

use crate::harness::{Case, Fill, GradientCase, compare, gpu, gradient_check, prepare, product, step};
use crate::testing::skipped;
use crate::tolerances::{ATTENTION, HALF_CHAIN, HALF_PROBABILITIES};

/// Packed sequences and heads; capacities are larger than what is in use.
struct Shape<'a> {
    lengths: &'a [usize],
    heads: usize,
    head_size: usize,
    dropout: Dropout,
    /// No sequence is longer.
    max_length: usize,
}

/// The tensors of both directions.
struct Tensors {
    qkv: TensorId,
    starts: TensorId,
    context: TensorId,
    log_sum_exp: TensorId,
    context_gradient: TensorId,
    qkv_gradient: TensorId,
}

impl<'a> Shape<'a> {
    fn new(lengths: &'a [usize], heads: usize, head_size: usize, dropout: Dropout) -> Self {
        Shape { lengths, heads, head_size, dropout, max_length: lengths.iter().max().unwrap() + 1 }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn rows(&self) -> Rows {
        Rows::of(Extent::Tokens, self.tokens() + 3)
    }

    fn partial_columns(&self) -> usize {
        AttentionGradient::partial_columns(self.rows(), self.max_length, self.heads, self.head_size)
    }

    fn hidden(&self) -> usize {
        self.heads * self.head_size
    }

    fn step(&self) -> StepValues {
        step(self.tokens() as u32, self.lengths.len() as u32, 0)
    }

    /// First rows of the sequences, as `Fill`.
    fn starts(&self) -> Fill {
        let mut starts = vec![0];
        for &length in self.lengths {
            starts.push(starts[starts.len() - 1] + length as u32);
        }
        Fill::Integers(starts)
    }

    fn tensors(&self, builder: &mut PlanBuilder) -> Tensors {
        let starts = Rows::fixed(self.lengths.len() + 3);
        let (rows, hidden) = (self.rows(), self.hidden());
        Tensors {
            qkv: builder.activation("qkv", rows, 3 * hidden),
            starts: builder.tensor("starts", starts, 1, Element::Uint, Role::Batch),
            context: builder.activation("context", rows, hidden),
            log_sum_exp: builder.exact("log_sum_exp", rows, self.heads),
            context_gradient: builder.gradient("context_gradient", rows, hidden),
            qkv_gradient: builder.gradient("qkv_gradient", rows, 3 * hidden),
        }
    }

    fn forward(&self, t: &Tensors) -> Attention {
        Attention {
            qkv: t.qkv,
            starts: t.starts,
            context: t.context,
            log_sum_exp: t.log_sum_exp,
            tokens: self.rows(),
            sequences: Rows::of(Extent::Sequences, self.lengths.len() + 2),
            max_length: self.max_length,
            heads: self.heads,
            head_size: self.head_size,
            dropout: self.dropout,
        }
    }

    fn backward(&self, t: &Tensors, builder: &mut PlanBuilder) -> AttentionGradient {
        AttentionGradient {
            qkv: t.qkv,
            starts: t.starts,
            context: t.context,
            log_sum_exp: t.log_sum_exp,
            context_gradient: t.context_gradient,
            delta: builder.scratch("delta", self.rows(), self.heads),
            partials: (!builder.is_half())
                .then(|| builder.scratch("partials", self.rows(), self.partial_columns())),
            qkv_gradient: t.qkv_gradient,
            tokens: self.rows(),
            sequences: Rows::of(Extent::Sequences, self.lengths.len() + 2),
            max_length: self.max_length,
            heads: self.heads,
            head_size: self.head_size,
            dropout: self.dropout,
        }
    }
}

/// Forward and backward on all executors; `size` is the standard deviation of queries, keys and values.
fn both_ways(lengths: &[usize], heads: usize, head_size: usize, probability: f64, size: f64) {
    let shape = Shape::new(lengths, heads, head_size, Dropout::new(probability, 21));
    let name = format!("attention {lengths:?}, {heads} heads of {head_size}, dropout {probability}, ±{size}");
    both_ways_of(&name, &shape, size);
}

fn both_ways_of(name: &str, shape: &Shape<'_>, size: f64) {
    compare(name, &shape.step(), |builder| {
        let t = shape.tensors(builder);
        builder.push("forward", shape.forward(&t));
        let backward = shape.backward(&t, builder);
        builder.push("backward", backward);
        Case::new()
            .fill(t.qkv, Fill::Normal(size))
            .fill(t.starts, shape.starts())
            .fill(t.context_gradient, Fill::Normal(1.0))
            .output(t.context, ATTENTION)
            .output(t.log_sum_exp, ATTENTION)
            .output(t.qkv_gradient, ATTENTION)
            .rounded_probabilities(t.context)
            .rounded_probabilities(t.qkv_gradient)
    });
}

/// Lengths around the blocks of all kernels (4, 32, 64 rows), heads of every kind of size: one column, odd ones,
/// those of which several stages are needed. Few sizes: lavapipe compiles each for seconds, the largest longest.
#[test]
fn awkward_shapes() {
    both_ways(&[1], 1, 8, 0.0, 1.0);
    both_ways(&[2, 1, 31], 2, 12, 0.0, 1.0);
    both_ways(&[33, 65], 3, 16, 0.0, 1.0);
    both_ways(&[5, 64, 1], 1, 33, 0.0, 1.0);
    both_ways(&[130, 7], 2, 64, 0.0, 1.0);
    both_ways(&[33, 2], 1, 128, 0.0, 1.0);
    both_ways(&[9], 3, 1, 0.0, 1.0);
}

/// Heads of whole cooperative matrices, one, three, four and eight across where they have eight rows; lengths around
/// stages of 32 rows and blocks of four matrices.
#[test]
fn whole_matrices() {
    both_ways(&[31, 1, 66], 2, 24, 0.1, 1.0);
    both_ways(&[97, 2], 1, 32, 0.0, 3.0);
}

#[test]
fn dropout() {
    both_ways(&[2, 1, 31], 3, 8, 0.1, 1.0);
    both_ways(&[33, 65], 1, 16, 0.5, 1.0);
    both_ways(&[66, 3], 2, 64, 0.1, 1.0);
    both_ways(&[35], 2, 33, 0.1, 1.0);
    both_ways(&[70], 1, 128, 0.1, 1.0);
}

/// Scores of some hundreds: probabilities are nearly 0 or 1, and only the running maximum keeps exp finite.
#[test]
fn large_scores() {
    both_ways(&[67, 33], 2, 16, 0.1, 12.0);
    both_ways(&[67, 33], 1, 64, 0.1, 12.0);
}

/// Backward in one pass: parts of two tiles of queries, of which the longer sequence fills one and a half.
#[test]
fn parts_of_several_tiles() {
    let shape = Shape { max_length: 64 * 64, ..Shape::new(&[200, 3], 8, 4, Dropout::new(0.1, 21)) };
    both_ways_of("attention, parts of two tiles", &shape, 1.0);
}

/// Gradients beyond half precision: kernels that round dS find no number for it, and none for what they make of it, so
/// that loss scaling skips the step. What they do give is right. Keys are small: dq and dk themselves would fit.
#[test]
fn overflow_is_never_a_number() {
    let gpu = gpu();
    if !gpu.capabilities.half {
        return skipped("overflow of half precision in attention: the adapter has no SHADER_F16");
    }
    let shape = Shape::new(&[40, 3], 2, 16, Dropout::new(0.0, 21));
    let head_of = |n: usize| n % 32 / 16;
    let make = || {
        let mut builder = PlanBuilder::new();
        builder.precision(Precision::F16);
        let t = shape.tensors(&mut builder);
        builder.push("forward", shape.forward(&t));
        let backward = shape.backward(&t, &mut builder);
        builder.push("backward", backward);
        // Every second head's value and gradient are large.
        let wave = |n: usize| ((n * 7919) % 101) as f32 / 50.0 - 1.0;
        let qkv = |n: usize| {
            let value = [1.0, 600.0][head_of(n)];
            wave(n) * [0.01, 0.01, value][n % 96 / 32]
        };
        let upstream = |n: usize| wave(n + 13) * [1.0, 20_000.0][head_of(n)];
        let tokens = shape.tokens();
        let case = Case::new()
            .fill(t.qkv, Fill::Floats((0..96 * tokens).map(qkv).collect()))
            .fill(t.starts, shape.starts())
            .fill(t.context_gradient, Fill::Floats((0..32 * tokens).map(upstream).collect()));
        let kept: Vec<TensorId> = case.kept().into_iter().chain([t.qkv_gradient]).collect();
        (builder.build(&kept).expect("a plan"), case, t.qkv_gradient)
    };
    let run = |executor: &mut dyn Executor, case: &Case, result: TensorId| {
        prepare("overflow", executor, case, &shape.step());
        executor.run(0..2, &shape.step(), &[]).expect("it runs");
        executor.read(result).expect("it can be read")
    };
    let (plan, case, result) = make();
    let mut reference = CpuExecutor::<f64>::new(plan, 2).expect("threads start");
    let expected = run(&mut reference, &case, result);
    let largest = [0, 1].map(|head| {
        let of_head =
            expected.iter().enumerate().take(96 * shape.tokens()).filter(|(n, _)| head_of(*n) == head);
        of_head.fold(0.0f32, |most, (_, y)| most.max(y.abs()))
    });
    let candidates = make().0.candidates(1).expect("kernels");
    for strategy in 0..candidates.iter().filter(|c| fits(&c.requires, &gpu.capabilities)).count() {
        let (plan, case, result) = make();
        let options = Options { selection: Selection::Nth(strategy), checked: false };
        let mut executor = GpuExecutor::new(gpu.clone(), plan, options).expect("it opens");
        let label = executor.strategies()[1];
        let got = run(&mut executor, &case, result);
        let mut lost = [0, 0];
        for (n, (&x, &y)) in got.iter().zip(&expected).enumerate().take(96 * shape.tokens()) {
            let allowed = (HALF_CHAIN.relative + HALF_PROBABILITIES.relative) as f32 * largest[head_of(n)];
            let right = (x - y).abs() <= allowed;
            assert!(right || !x.is_finite(), "{label}: element {n} is {x:e}, not {y:e}");
            lost[head_of(n)] += usize::from(!x.is_finite());
        }
        assert_eq!(lost[0], 0, "{label}: the head of small gradients");
        let rounds = label.starts_with("cooperative");
        assert_eq!(lost[1] > 0, rounds, "{label}: {} elements of the large head are lost", lost[1]);
    }
}

/// y = attention(x·Wᵀ + b)·Vᵀ with dropout on, over three sequences of one micro-batch.
#[test]
fn gradients() {
    let shape = Shape::new(&[5, 1, 9], 2, 3, Dropout::new(0.2, 4));
    gradient_check("attention gradients", &shape.step(), |builder| {
        let (rows, hidden) = (shape.rows(), shape.hidden());
        let (inner, out) = (4, 3);
        let x = builder.activation("x", rows, inner);
        let w = builder.parameter(&[("w".into(), 3 * hidden)], inner, ParameterKind::Weight, Initial::Zero);
        let b = builder.parameter(&[("w.bias".into(), 1)], 3 * hidden, ParameterKind::Bias, Initial::Zero);
        let v = builder.parameter(&[("v".into(), out)], hidden, ParameterKind::Weight, Initial::Zero);
        let t = shape.tensors(builder);
        let y = builder.activation("y", rows, out);
        let [dx, dy] = [("dx", inner), ("dy", out)].map(|(name, n)| builder.gradient(name, rows, n));
        builder.push(
            "qkv",
            MatMul {
                epilogue: Epilogue::Bias(b.value),
                ..product(Form::Nt, x, w.value, t.qkv, rows, 3 * hidden, inner)
            },
        );
        builder.push("attention", shape.forward(&t));
        builder.push("output", product(Form::Nt, t.context, v.value, y, rows, out, hidden));
        let middle = builder.op_count();
        builder.push("output weights", product(Form::Tn, dy, t.context, v.gradient, rows, hidden, out));
        builder.push("output input", product(Form::Nn, dy, v.value, t.context_gradient, rows, hidden, out));
        let backward = shape.backward(&t, builder);
        builder.push("attention back", backward);
        builder.push(
            "qkv weights",
            MatMul {
                bias_gradient: Some(b.gradient),
                ..product(Form::Tn, t.qkv_gradient, x, w.gradient, rows, inner, 3 * hidden)
            },
        );
        builder.push("qkv input", product(Form::Nn, t.qkv_gradient, w.value, dx, rows, inner, 3 * hidden));
        let mut fills = [x, w.value, b.value, v.value].map(|id| (id, Fill::Normal(0.7))).to_vec();
        fills.push((t.starts, shape.starts()));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx), (w.value, w.gradient), (b.value, b.gradient), (v.value, v.gradient)],
            output: y,
            output_gradient: dy,
            fills,
        }
    });
}
