use std::fs;
use std::path::Path;

use super::*;
use crate::interop::checkpoint;
use crate::store::tests::{Scratch, random_store};

fn options(scratch: &Scratch, set: &[&str]) -> Options {
    let mut set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
    for (key, value) in [
        ("steps", "4"),
        ("batch_size", "3"),
        ("micro_batch", "2"),
        ("warmup_steps", "0"),
        ("log_every", "2"),
        ("model.layers", "1"),
        ("model.hidden_size", "32"),
        ("model.ffn_size", "32"),
        ("model.embedding_size", "16"),
    ] {
        if !set.iter().any(|text| text.starts_with(&format!("{key}="))) {
            set.push(format!("{key}={value}"));
        }
    }
    Options {
        stores: vec![WeightedPath { path: scratch.path("random.store"), weight: 1.0 }],
        out: scratch.path("run"),
        sources: Sources { preset: Some("tiny".into()), set, ..Sources::default() },
        device: DeviceChoice::Cpu,
        threads: 1,
        eval_store: Some(scratch.path("random.store")),
        ..Options::default()
    }
}

fn failure(result: Result<Report>) -> String {
    let error = format!("{:#}", result.expect_err("should be refused"));
    assert!(!error.contains('\n'), "{error}");
    error
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_stopped_run_is_saved_and_goes_on_to_the_same_end() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &[]);
    let whole = run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!((whole.step, whole.interrupted, whole.metrics.unwrap().step), (4, false, 4));
    let expected = fs::read(checkpoint::latest(&options.out).unwrap().join("model.safetensors")).unwrap();
    let evaluated = whole.evaluation.unwrap();

    // Resumed at its end, a run makes nothing but its last evaluation again, and lists it once.
    options.resume = true;
    let again = run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!((again.step, again.tokens), (4, whole.tokens));
    assert_eq!(again.evaluation.unwrap().quality, evaluated.quality);
    assert_eq!(lines(&options.out.join("eval.jsonl")), 1);
    assert_eq!(lines(&options.out.join("metrics.jsonl")), 2);

    options.out = scratch.path("stopped");
    options.resume = false;
    let stopped = run(&options, &AtomicBool::new(true)).unwrap();
    assert_eq!((stopped.step, stopped.interrupted), (1, true));
    options.resume = true;
    options.sources = Sources::default();
    let resumed = run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!((resumed.step, resumed.tokens), (4, whole.tokens));
    let checkpoint = checkpoint::latest(&options.out).unwrap();
    assert!(fs::read(checkpoint.join("model.safetensors")).unwrap() == expected);
}

#[test]
fn what_contradicts_the_run_is_refused_by_name() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let first = options(&scratch, &[]);
    run(&first, &AtomicBool::new(true)).unwrap();
    let never = AtomicBool::new(false);
    assert!(failure(run(&first, &never)).contains("is not empty; continue the run in it with --resume"));

    let resume = |set: &[&str]| Options { resume: true, ..options(&scratch, set) };
    let error = failure(run(&resume(&["seed=2", "keep=9"]), &never));
    assert!(error.contains("seed is 2, in the run 1") && !error.contains("keep"), "{error}");
    random_store(&scratch, 40, 2);
    let error = failure(run(&resume(&[]), &never));
    assert!(error.contains("random.store: not the store of the run"), "{error}");
    let error = failure(run(&Options { out: scratch.path("nowhere"), ..resume(&[]) }, &never));
    assert!(error.contains("nowhere/config.toml"), "{error}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let options = options(&scratch, &["learning_rate=1e30"]);
    let error = failure(run(&options, &AtomicBool::new(false)));
    assert!(error.starts_with("step 2: ") && error.contains("lower learning_rate"), "{error}");
    assert!(!options.out.join("latest").exists());
}
