//! Clearing, the norm of all gradients, clipping, Adam.

use inazuma::cpu::CpuExecutor;
use inazuma::ops::loss_scaling::LossScaling;
use inazuma::ops::optimizer::{Adam, BLOCK, Clear, Cleared, ClipFactor, SquaredNorm};
use inazuma::plan::{Executor, Plan, PlanBuilder};
use inazuma::tensor::{Element, Role, Rows, StepValues, TensorId};

use crate::harness::{Case, Fill, compare, step};
use crate::tolerances::{ELEMENTWISE, EXACT, LOSS};

fn flat(builder: &mut PlanBuilder, name: &str, elements: usize, role: Role) -> TensorId {
    builder.tensor(name, Rows::fixed(elements), 1, Element::Float, role)
}

#[test]
fn clearing() {
    for elements in [1, 63, 4097] {
        compare(&format!("clear {elements}"), &step(1, 1, 0), |builder| {
            let floats = flat(builder, "floats", elements + 1, Role::Metric);
            let tensors = vec![Cleared { tensor: floats, elements, element: Element::Float }];
            builder.push("clear", Clear { tensors });
            Case::new().fill(floats, Fill::Normal(1.0)).output(floats, EXACT)
        });
    }
}

/// Several tensors at once, of either type, each up to its own end.
#[test]
fn clearing_together() {
    compare("clear together", &step(1, 1, 0), |builder| {
        let sizes = [5000, 1, 4096, 9000];
        let mut case = Case::new();
        let mut tensors = Vec::new();
        for (index, elements) in sizes.into_iter().enumerate() {
            let element = if index == 2 { Element::Uint } else { Element::Float };
            let tensor = builder.tensor("words", Rows::fixed(elements + 3), 1, element, Role::Metric);
            let fill = if index == 2 { Fill::Below(9) } else { Fill::Normal(1.0) };
            case = case.fill(tensor, fill).output(tensor, EXACT);
            tensors.push(Cleared { tensor, elements, element });
        }
        builder.push("clear", Clear { tensors });
        case
    });
}

/// A step of Adam over two ranges, one of which decays; clipped (norm far above 1) and not.
#[test]
fn adam_with_clipping() {
    for (clip_norm, deviation) in [(1.0, 1.0), (1.0, 1e-4), (0.0, 1.0)] {
        for sizes in [[4usize, 64], [4160, 128], [12_288, 4100]] {
            let name = format!("adam {sizes:?}, clip {clip_norm}, gradients {deviation}");
            compare(&name, &step(1, 1, 0), |builder| {
                let blocks: usize = sizes.iter().map(|n| n.div_ceil(BLOCK)).sum();
                let partials = flat(builder, "partials", blocks, Role::Metric);
                let metrics = flat(builder, "metrics", 16, Role::Metric);
                let ranges: Vec<[TensorId; 4]> = sizes
                    .iter()
                    .map(|&n| ["p", "g", "m", "v"].map(|name| flat(builder, name, n, Role::Metric)))
                    .collect();
                let mut first = 0;
                for (range, &elements) in ranges.iter().zip(&sizes) {
                    builder.push("norm", SquaredNorm { gradient: range[1], elements, partials, first });
                    first += elements.div_ceil(BLOCK);
                }
                builder.push("clip", ClipFactor { partials, count: blocks, metrics, clip_norm });
                for (index, (range, &elements)) in ranges.iter().zip(&sizes).enumerate() {
                    builder.push(
                        "adam",
                        Adam {
                            value: range[0],
                            gradient: range[1],
                            first_moment: range[2],
                            second_moment: range[3],
                            metrics,
                            elements,
                            beta1: 0.9,
                            beta2: 0.999,
                            epsilon: 1e-6,
                            weight_decay: if index == 0 { 0.01 } else { 0.0 },
                            rate: if index == 0 { 1.0 } else { 0.8 },
                        },
                    );
                }
                let mut case = Case::new().fill(metrics, Fill::Constant(0.0)).output(metrics, ELEMENTWISE);
                for [p, g, m, v] in ranges {
                    case = case
                        .fill(p, Fill::Normal(1.0))
                        .fill(g, Fill::Normal(deviation))
                        .fill(m, Fill::Normal(0.1))
                        .fill(v, Fill::Uniform(0.0, 0.1))
                        .output(p, ELEMENTWISE)
                        .output(m, ELEMENTWISE)
                        .output(v, LOSS);
                }
                case
            });
        }
    }
}

/// Finite steps raise the scale in the end, others lower it at once, within their bounds.
#[test]
fn loss_scaling() {
    for (state, not_finite) in [
        ([1024.0, 0.0, 5.0], 0.0),
        ([1024.0, 2.0, 5.0], 0.0),
        ([1024.0, 2.0, 5.0], 1.0),
        ([1.0, 0.0, 0.0], 1.0),
        ([16_777_216.0, 2.0, 0.0], 0.0),
    ] {
        compare(&format!("loss_scaling {state:?}, {not_finite}"), &step(1, 1, 0), |builder| {
            let tensor = flat(builder, "state", 3, Role::Metric);
            let metrics = flat(builder, "metrics", 16, Role::Metric);
            builder.push("scaling", LossScaling { state: tensor, metrics, interval: 3 });
            let mut before = vec![0.0; 16];
            before[10] = not_finite;
            Case::new()
                .fill(tensor, Fill::Floats(state.to_vec()))
                .fill(metrics, Fill::Floats(before))
                .output(tensor, EXACT)
                .output(metrics, EXACT)
        });
    }
}

/// The step after one that overflowed has half the scale, which both executors take from the device's own tensor.
#[test]
fn the_scale_is_what_the_next_step_is_scaled_with() {
    let open: [fn(Plan) -> Box<dyn Executor>; 2] =
        [|plan| Box::new(CpuExecutor::<f32>::new(plan, 1).expect("threads start")), crate::steps::open_gpu];
    for open in open {
        let mut builder = PlanBuilder::new();
        let [gradient, partials, metrics, state] =
            [("gradient", 64), ("partials", 1), ("metrics", 16), ("state", 3)]
                .map(|(name, elements)| flat(&mut builder, name, elements, Role::Metric));
        builder.loss_scale(state);
        builder.push("norm", SquaredNorm { gradient, elements: 64, partials, first: 0 });
        builder.push("clip", ClipFactor { partials, count: 1, metrics, clip_norm: 0.0 });
        builder.push("scaling", LossScaling { state, metrics, interval: 2 });
        let mut executor = open(builder.build(&[]).expect("a plan"));
        executor.write(state, &[256.0, 0.0, 0.0]).expect("written");
        let mut run = |first: f32| {
            let mut values = vec![128.0; 64];
            values[0] = first;
            executor.write(gradient, &values).expect("written");
            executor.run(0..3, &step(1, 1, 0), &[]).expect("runs");
            (executor.read(metrics).expect("read"), executor.read(state).expect("read"))
        };
        let (metrics, state) = run(f32::INFINITY);
        assert_eq!((metrics[12], metrics[13], state), (256.0, 1.0, vec![128.0, 0.0, 1.0]));
        let (metrics, state) = run(128.0);
        // 64 gradients of 128 at a scale of 128: a norm of 8.
        assert_eq!((metrics[8], metrics[9], state), (8.0, 1.0 / 128.0, vec![128.0, 1.0, 1.0]));
        let (_, state) = run(128.0);
        assert_eq!(state, vec![256.0, 0.0, 1.0]);
    }
}

/// Norm, clipping and Adam of 64 parameters of 2, on the GPU and on the processor: parameters and metrics after a step
/// with these gradients and this limit.
fn updated(gradient: &[f32], norm_limit: f32) -> (Vec<f32>, Vec<f32>) {
    let run = |open: &dyn Fn(Plan) -> Box<dyn Executor>| {
        let mut builder = PlanBuilder::new();
        let [p, g, m, v, partials, metrics] = ["p", "g", "m", "v", "partials", "metrics"].map(|name| {
            let elements = match name {
                "metrics" => 16,
                "partials" => 1,
                _ => 64,
            };
            flat(&mut builder, name, elements, Role::Metric)
        });
        builder.push("norm", SquaredNorm { gradient: g, elements: 64, partials, first: 0 });
        builder.push("clip", ClipFactor { partials, count: 1, metrics, clip_norm: 1.0 });
        let adam = Adam {
            value: p,
            gradient: g,
            first_moment: m,
            second_moment: v,
            metrics,
            elements: 64,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-6,
            weight_decay: 0.01,
            rate: 1.0,
        };
        builder.push("adam", adam);
        let mut executor = open(builder.build(&[]).expect("a plan"));
        executor.write(p, &[2.0; 64]).expect("written");
        executor.write(g, gradient).expect("written");
        let values = StepValues { norm_limit, ..step(1, 1, 0) };
        executor.run(0..3, &values, &[]).expect("runs");
        (executor.read(p).expect("read"), executor.read(metrics).expect("read"))
    };
    let gpu = run(&|plan| crate::steps::open_gpu(plan));
    let cpu = run(&|plan| Box::new(CpuExecutor::<f32>::new(plan, 1).expect("threads start")));
    assert_eq!((gpu.0 == vec![2.0; 64], gpu.1[10]), (cpu.0 == vec![2.0; 64], cpu.1[10]));
    gpu
}

/// A gradient that is not finite changes nothing and is told, whatever the limit.
#[test]
fn a_gradient_that_is_not_finite_is_skipped() {
    for (bad, limit) in [(f32::NAN, 0.0), (f32::INFINITY, 0.0), (f32::NAN, 1e30), (f32::INFINITY, 1.0)] {
        let mut gradient = vec![0.5; 64];
        gradient[17] = bad;
        let (parameters, metrics) = updated(&gradient, limit);
        assert_eq!((parameters, metrics[10]), (vec![2.0; 64], 1.0), "{bad}, limit {limit}");
    }
}

/// 64 gradients of 0.5 have a norm of 4: beyond a limit below that they change nothing, which is told.
#[test]
fn a_norm_beyond_the_limit_is_refused() {
    let (changed, metrics) = updated(&[0.5; 64], 0.0);
    assert!(changed.iter().all(|&p| p < 2.0) && metrics[8] == 4.0 && metrics[10] == 0.0, "{metrics:?}");
    for (limit, refused) in [(4.0, false), (4.5, false), (3.9, true), (1e-30, true)] {
        let (parameters, metrics) = updated(&[0.5; 64], limit);
        let expected = if refused { &vec![2.0; 64] } else { &changed };
        assert_eq!((&parameters, metrics[10]), (expected, if refused { 2.0 } else { 0.0 }), "limit {limit}");
        assert_eq!(metrics[8], 4.0);
    }
}
