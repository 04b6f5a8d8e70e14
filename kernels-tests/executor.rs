//! The GPU executor itself: runs in flight, results that arrive late, plans that do not fit.

use inazuma::gpu::{GpuExecutor, Options};
use inazuma::ops::matmul::Form;
use inazuma::plan::{Data, Executor, PlanBuilder, Upload};
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
    for (run, expected) in sums.into_iter().enumerate() {
        let (tag, words) = executor.poll(true).unwrap().unwrap();
        assert_eq!((tag, f32::from_bits(words[0][0])), (run as u64, expected));
        assert_eq!(words[1], vec![(run as f32).to_bits(); 16]);
    }
    assert_eq!(executor.poll(false).unwrap(), None);
    assert_eq!(executor.read(c).unwrap(), [expected]);
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
