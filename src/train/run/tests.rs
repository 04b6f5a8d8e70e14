use std::fs;
use std::path::Path;

use serde_json::json;

use super::super::config::TrainConfig;
use super::super::events::{FOLDER, HELD_OUT};
use super::*;
use crate::interop::checkpoint::{self, State};
use crate::store::Stores;
use crate::store::tests::{Scratch, marked_store, random_store};

mod budgets;
mod divergence;
mod looked_into;
mod observed;
mod ranks;
mod schedules;

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

/// Runs, and asks for an end just before the step is computed: it is given up.
fn stopped_before(options: &Options, step: u64) -> Report {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    let watch = Watch(Arc::new(move |next, _| set.store(next == step, Ordering::Relaxed)));
    run(&Options { watch: Some(watch), ..options.clone() }, &stop).unwrap()
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
    let recorded = fs::read(options.out.join(RUN)).unwrap();
    let made: serde_json::Value = serde_json::from_slice(&recorded).unwrap();
    let state = checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
    assert_eq!(made["stores"][0]["crc"], state.store.crc.as_str());
    assert_eq!(
        (&made["eval_store"]["tokens"], &made["device"]),
        (&state.store.tokens.into(), &state.device.into())
    );
    let processor = serde_json::json!(crate::cpu::name());
    assert_eq!((&made["threads"], &made["processor"]), (&1.into(), &processor));

    // Resumed at its end, a run makes nothing but its last evaluation again, and lists it once.
    options.resume = true;
    let again = run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!((again.step, again.tokens), (4, whole.tokens));
    assert_eq!(again.evaluation.unwrap().quality, evaluated.quality);
    assert_eq!(lines(&options.out.join("eval.jsonl")), 1);
    assert_eq!(lines(&options.out.join("metrics.jsonl")), 2);

    options.out = scratch.path("stopped");
    options.resume = false;
    // Before it has begun, nothing is written that is in the way.
    let stopped = run(&options, &AtomicBool::new(true)).unwrap();
    assert_eq!((stopped.step, stopped.interrupted), (0, true));
    let stopped = stopped_before(&options, 1);
    assert_eq!((stopped.step, stopped.interrupted), (1, true));
    options.resume = true;
    options.sources = Sources::default();
    let resumed = run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!((resumed.step, resumed.tokens), (4, whole.tokens));
    let checkpoint = checkpoint::latest(&options.out).unwrap();
    assert!(fs::read(checkpoint.join("model.safetensors")).unwrap() == expected);
    // Nothing in it is of one process alone.
    assert!(fs::read(options.out.join(RUN)).unwrap() == recorded);
}

/// Evaluations and events for TensorBoard go on in a resumed run whose command does not speak of them.
#[test]
fn what_a_run_did_beside_training_goes_on() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    fs::copy(scratch.path("random.store"), scratch.path("held-out.store")).unwrap();
    let mut options = options(&scratch, &["eval_every=2", "eval_sequences=4"]);
    options.eval_store = Some(scratch.path("held-out.store"));
    options.tensorboard = true;
    let stopped = stopped_before(&options, 3);
    assert_eq!((stopped.step, lines(&options.out.join("eval.jsonl"))), (3, 1));
    options.resume = true;
    options.sources = Sources::default();
    options.eval_store = None;
    options.tensorboard = false;
    let events = || -> u64 {
        let files = fs::read_dir(options.out.join("tensorboard")).unwrap().map(|entry| entry.unwrap());
        files.map(|file| file.metadata().unwrap().len()).sum()
    };
    let before = events();
    let report = run(&options, &AtomicBool::new(false)).unwrap();
    assert!(report.evaluation.is_some());
    assert_eq!(lines(&options.out.join("eval.jsonl")), 2);
    assert!(events() > before);
    let made: serde_json::Value = serde_json::from_slice(&fs::read(options.out.join(RUN)).unwrap()).unwrap();
    assert!(made["eval_store"]["path"].as_str().unwrap().ends_with("held-out.store"), "{made}");
    // A store that is gone is said to be, and stops nothing.
    fs::remove_file(scratch.path("held-out.store")).unwrap();
    assert!(run(&options, &AtomicBool::new(false)).unwrap().evaluation.is_none());
    // Where it was is remembered: it may come back.
    fs::copy(scratch.path("random.store"), scratch.path("held-out.store")).unwrap();
    assert!(run(&options, &AtomicBool::new(false)).unwrap().evaluation.is_some());
}

#[test]
fn what_contradicts_the_run_is_refused_by_name() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let first = options(&scratch, &[]);
    stopped_before(&first, 1);
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
    let latest = fs::read_to_string(options.out.join("latest")).unwrap();
    assert_eq!(latest, "checkpoints/step-00000000\n");
}

/// The lines of `metrics.jsonl` without what no two runs have in common.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join(METRICS)).unwrap();
    text.lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields = record.as_object_mut().unwrap();
            for rate in ["tokens_per_second", "positions_per_second", "mfu", "model_flops_per_second"] {
                fields.remove(rate).unwrap();
            }
            record
        })
        .collect()
}

/// The files of all checkpoints, in order.
fn checkpoints(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let list = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = list(run.join("checkpoints")).flat_map(list);
    let mut files: Vec<_> =
        files.map(|path| (path.strip_prefix(run).unwrap().to_owned(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

/// Stopped after every step, within log intervals and at evaluations that were due, a run has the lines, the evaluations
/// and the checkpoints of one that was not.
#[test]
fn a_run_that_is_stopped_at_every_step_writes_what_another_writes() {
    stopped_at_every_step(&[]);
}

/// The same where whole words are masked, more of them from step to step.
#[test]
fn so_it_does_where_words_are_masked() {
    stopped_at_every_step(&["masking=word", "mask_probability_end=0.4"]);
}

fn stopped_at_every_step(more: &[&str]) {
    let scratch = Scratch::new();
    marked_store(&scratch, 40, 1);
    let set = ["steps=7", "log_every=3", "checkpoint_every=2", "eval_every=2", "keep=2", "eval_sequences=4"];
    let mut options = options(&scratch, &[&set, more].concat());
    options.sources.set.push("keep_every=4".into());
    run(&options, &AtomicBool::new(false)).unwrap();
    let whole = options.out.clone();
    assert_eq!(metrics(&whole).len(), 3);

    options.out = scratch.path("stopped");
    let mut steps = vec![stopped_before(&options, 1).step];
    options.resume = true;
    options.sources = Sources::default();
    for step in 2..7 {
        steps.push(stopped_before(&options, step).step);
    }
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    run(&options, &AtomicBool::new(false)).unwrap();
    assert_eq!(metrics(&options.out), metrics(&whole));
    let evaluations = |run: &Path| fs::read_to_string(run.join("eval.jsonl")).unwrap();
    assert_eq!(evaluations(&options.out), evaluations(&whole));
    // Each stop saved; of the checkpoints that both have, the bytes are the same.
    let (ours, theirs) = (checkpoints(&options.out), checkpoints(&whole));
    let same = ours.iter().filter(|(path, _)| theirs.iter().any(|(other, _)| other == path));
    assert!(same.clone().count() >= 6, "{same:?}");
    assert!(same.into_iter().all(|file| theirs.contains(file)));
}

/// What is done to a run of 4 steps with checkpoints of 0, 2 and 4, and what resuming it then says: where it goes on,
/// or an error that has changed nothing.
fn resumed_after(harm: impl Fn(&Path), says: std::result::Result<u64, &[&str]>) {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &["checkpoint_every=2"]);
    options.eval_store = None;
    run(&options, &AtomicBool::new(false)).unwrap();
    let (expected, lines) = (checkpoints(&options.out), metrics(&options.out));
    harm(&options.out);
    let files = |run: &Path| -> Vec<_> {
        let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files(&options.out);
    options.resume = true;
    match says {
        Ok(step) => {
            let found = begin::found(&options.out).unwrap();
            assert_eq!(found.map_or(0, |found| found.checkpoint.state.step), step);
            run(&options, &AtomicBool::new(false)).unwrap();
            assert_eq!(metrics(&options.out), lines);
            let last = expected.iter().filter(|(path, _)| path.starts_with("checkpoints/step-00000004"));
            let found = checkpoints(&options.out);
            assert!(last.into_iter().all(|file| found.contains(file)));
        }
        Err(words) => {
            let error = failure(run(&options, &AtomicBool::new(false)));
            for word in words {
                assert!(error.contains(word), "{word}: {error}");
            }
            assert_eq!(files(&options.out), before, "nothing was touched");
        }
    }
}

#[test]
fn what_is_left_of_a_run_is_found_or_refused() {
    let remove = |run: &Path, name: &str| match run.join(name) {
        path if path.is_dir() => fs::remove_dir_all(path).unwrap(),
        path => fs::remove_file(path).unwrap(),
    };
    let cut = |run: &Path, step: u64| {
        let file = run.join(format!("checkpoints/step-{step:08}/optimizer.safetensors"));
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    };
    resumed_after(|run| remove(run, "latest"), Ok(4));
    resumed_after(|run| cut(run, 4), Ok(2));
    resumed_after(|run| remove(run, "checkpoints/step-00000004"), Ok(2));
    resumed_after(|run| [2, 4].iter().for_each(|&step| cut(run, step)), Ok(0));
    resumed_after(
        |run| {
            remove(run, "checkpoints/step-00000000");
            [2, 4].iter().for_each(|&step| cut(run, step));
        },
        Err(&[
            "--resume: none of the 2 checkpoints",
            "is whole",
            "step-00000004: optimizer.safetensors: has ",
        ]),
    );
    resumed_after(
        |run| remove(run, "checkpoints"),
        Err(&[
            "latest names `checkpoints/step-00000004`, which is not there, and there is no other checkpoint",
        ]),
    );
    resumed_after(
        |run| ["checkpoints", "latest"].iter().for_each(|name| remove(run, name)),
        Err(&["metrics.jsonl has lines up to step 4, but there is no checkpoint", "put one back there"]),
    );
    resumed_after(
        |run| ["checkpoints", "latest", "metrics.jsonl"].iter().for_each(|name| remove(run, name)),
        Ok(0),
    );
}

#[test]
fn a_directory_in_use_is_refused() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &[]);
    options.eval_store = None;
    let claim = Claim::fresh(&options.out).unwrap();
    let never = AtomicBool::new(false);
    assert!(failure(run(&options, &never)).contains("run is in use by process "));
    drop(claim);
    stopped_before(&options, 1);
    options.resume = true;
    let claim = Claim::resumed(&options.out).unwrap();
    let error = failure(run(&options, &never));
    assert!(error.contains(&format!("run is in use by process {} on ", std::process::id())), "{error}");
    drop(claim);
    run(&options, &never).unwrap();
}

fn incidents(options: &Options) -> Vec<serde_json::Value> {
    let mut paths: Vec<_> = fs::read_dir(options.out.join("incidents"))
        .map_or(Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect());
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

fn whole(options: &Options) -> [Vec<u8>; 3] {
    let last = checkpoint::latest(&options.out).unwrap();
    ["model.safetensors", "optimizer.safetensors", "state.json"]
        .map(|name| fs::read(last.join(name)).unwrap())
}

#[test]
fn what_is_computed_changes_only_if_the_user_says_so() {
    let scratch = Scratch::new();
    random_store(&scratch, 60, 1);
    let options = options(&scratch, &[]);
    run(&options, &AtomicBool::new(false)).unwrap();
    let mut longer = Options { resume: true, ..options.clone() };
    longer.sources =
        Sources { set: vec!["steps=6".into(), "learning_rate=1e-4".into()], ..Sources::default() };
    let error = failure(run(&longer, &AtomicBool::new(false)));
    assert!(
        error.contains("steps is 6, in the run 4") && error.contains("--allow-change allows it"),
        "{error}"
    );
    longer.allow_change = true;
    assert_eq!(run(&longer, &AtomicBool::new(false)).unwrap().step, 6);
    let history = fs::read_to_string(options.out.join("history.jsonl")).unwrap();
    assert!(history.contains("\"key\":\"steps\",\"from\":\"4\",\"to\":\"6\""), "{history}");
    assert_eq!(history.lines().count(), 2, "{history}");
    // It stays so, and sizes are what they are.
    longer.sources.set = vec!["model.layers=2".into()];
    let error = failure(run(&longer, &AtomicBool::new(false)));
    assert!(error.contains("model.layers is 2, in the run 1") && !error.contains("allows it"), "{error}");
}

mod phases;
