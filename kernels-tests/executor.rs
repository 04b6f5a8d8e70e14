//! The GPU executor itself: runs in flight, results that arrive late, plans that do not fit.

use std::ops::Range;

use inazuma::gpu::{GpuExecutor, Options};
use inazuma::ops::matmul::{Form, MatMul};
use inazuma::plan::{Data, Executor, Initial, ParameterKind, PlanBuilder, Upload};
use inazuma::tensor::{Element, Extent, Role, Rows};

use crate::harness::{gpu, product, step};

/// Each run sees its own uploads and step values though nobody waits, and results come in order.
#[test]
fn runs_in_flight_do_not_mix() {
    let mut builder = PlanBuilder::new();
    let rows = Rows::of(Extent::Tokens, 16);
    let [a, b] = ["a", "b"].map(|name| builder.tensor(name, rows, 1, Element::Float, Role::Batch));
    let c = builder.tensor("c", Rows::fixed(1), 1, Element::Float, Role::Metric);
    builder.push("product", product(Form::Tn, a, b, c, rows, 1, 1));
    let plan = builder.build(&[]).unwrap();
    let mut executor = GpuExecutor::new(gpu(), plan, Options::default()).unwrap();
    assert_eq!(executor.poll(true).unwrap(), None);
    executor.write(c, &[0.5]).unwrap();
    // One submission a run: what it uploads, its kernels, and the copy of what is asked for.
    let before = executor.submitted();
    let mut expected = 0.5;
    let mut sums = Vec::new();
    for run in 0..20u32 {
        // Σ over run mod 7 rows of run · 1: data and extents differ from run to run.
        let used = run % 7;
        expected += (used * run) as f32;
        sums.push(expected);
        let uploads = [(a, run as f32), (b, 1.0)].map(|(tensor, value)| (tensor, vec![value; 16]));
        let uploads: Vec<Upload> = uploads
            .iter()
            .map(|(tensor, data)| Upload { tensor: *tensor, data: Data::Float(data) })
            .collect();
        executor.run(0..1, &step(used, 1, 0), &uploads).unwrap();
        executor.request(u64::from(run), &[c, a]).unwrap();
    }
    assert_eq!((executor.submitted() - before).submissions, 20);
    for (run, expected) in sums.into_iter().enumerate() {
        let (tag, words) = executor.poll(true).unwrap().unwrap();
        assert_eq!((tag, f32::from_bits(words[0][0])), (run as u64, expected));
        assert_eq!(words[1], vec![(run as f32).to_bits(); 16]);
    }
    assert_eq!(executor.poll(false).unwrap(), None);
    assert_eq!(executor.read(c).unwrap(), [expected]);
}

/// Partial sums of several ops are added up in one dispatch where all of them run, and to the same bytes one by one.
#[test]
fn partial_sums_wait_for_each_other() {
    let mut builder = PlanBuilder::new();
    let rows = Rows::of(Extent::Tokens, 8192);
    let [a, b] = ["a", "b"].map(|name| builder.tensor(name, rows, 8, Element::Float, Role::Activation));
    let weights = ["w", "v", "u"].map(|name| {
        let kind = ParameterKind::Weight;
        let weight = builder.parameter(&[(name.into(), 8)], 8, kind, Initial::Zero);
        let bias = builder.parameter(&[(format!("{name}.bias"), 8)], 1, ParameterKind::Bias, Initial::Zero);
        let partials = Some((builder.scratch(name, Rows::fixed(5), 72), 5));
        let bias_gradient = Some(bias.gradient);
        let product = product(Form::Tn, a, b, weight.gradient, rows, 8, 8);
        builder.push(name, MatMul { bias_gradient, partials, ..product });
        [weight.gradient, bias.gradient]
    });
    let plan = builder.build(&[a, b]).unwrap();
    assert_eq!(plan.sum_groups.len(), 1);
    let mut executor = GpuExecutor::new(gpu(), plan, Options::default()).unwrap();
    let numbers: Vec<f32> = (0..64 * 300).map(|i| (i * 37 % 1001) as f32 / 77.0).collect();
    let mut results = |ranges: &[Range<usize>]| {
        executor.write(a, &numbers[..8 * 300]).unwrap();
        executor.write(b, &numbers[8 * 300..16 * 300]).unwrap();
        let targets = weights.as_flattened();
        for &target in targets {
            let elements = executor.plan().info(target).elements();
            executor.write(target, &vec![1.5; elements]).unwrap();
        }
        let before = executor.submitted();
        for ops in ranges {
            executor.run(ops.clone(), &step(300, 1, 0), &[]).unwrap();
        }
        let read = |&target| executor.read(target).unwrap();
        let sums: Vec<Vec<f32>> = targets.iter().map(read).collect();
        (sums, (executor.submitted() - before).dispatches)
    };
    let (together, launched) = results(std::slice::from_ref(&(0..3)));
    assert_eq!(launched, 4);
    // Weight by hand: 1.5 + Σ over the rows of a[row, 1] · b[row, 2].
    let by_hand: f64 =
        (0..300).map(|row| f64::from(numbers[8 * row + 1]) * f64::from(numbers[8 * (300 + row) + 2])).sum();
    assert!((f64::from(together[0][10]) / (1.5 + by_hand) - 1.0).abs() < 1e-5);
    for ranges in [vec![0..1, 1..2, 2..3], vec![0..2, 2..3]] {
        assert_eq!(results(&ranges), (together.clone(), 6));
    }
}

/// A tensor beyond what can be bound is refused by name, before anything is allocated.
#[test]
fn what_does_not_fit_is_named() {
    let mut builder = PlanBuilder::new();
    let rows = Rows::fixed(gpu().capabilities.binding_bytes as usize / 4 / 64 + 1);
    let [x, w, y] = [("the.large.one", rows, 64), ("w", Rows::fixed(1), 64), ("y", rows, 1)]
        .map(|(name, rows, columns)| builder.activation(name, rows, columns));
    builder.push("product", product(Form::Nt, x, w, y, rows, 1, 64));
    let plan = builder.build(&[x]).unwrap();
    let error = GpuExecutor::new(gpu(), plan, Options::default()).err().expect("it does not fit");
    let line = format!("{error:#}");
    assert!(line.contains("the.large.one") && line.contains("micro_batch") && !line.contains('\n'), "{line}");
}

/// Data for the wrong tensor is an error that names it, not a panic.
#[test]
fn wrong_uploads_are_errors() {
    let mut builder = PlanBuilder::new();
    let rows = Rows::fixed(2);
    let [a, b, c] = ["a", "b", "c"].map(|name| builder.activation(name, rows, 2));
    builder.push("product", product(Form::Nn, a, b, c, rows, 2, 2));
    let plan = builder.build(&[a, b, c]).unwrap();
    let mut executor = GpuExecutor::new(gpu(), plan, Options::default()).unwrap();
    let too_long = [Upload { tensor: a, data: Data::Float(&[0.0; 5]) }];
    let error = executor.run(0..1, &step(1, 1, 0), &too_long).unwrap_err();
    assert!(error.to_string().contains("do not fit into a"), "{error}");
    let integers = [Upload { tensor: b, data: Data::Uint(&[1]) }];
    assert!(executor.run(0..1, &step(1, 1, 0), &integers).is_err());
    assert!(executor.read_uint(c).is_err());
    executor.run(0..1, &step(1, 1, 0), &[]).unwrap();
}
