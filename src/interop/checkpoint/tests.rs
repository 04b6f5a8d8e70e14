use std::fs;

use anyhow::Result;
use safetensors::SafeTensors;

use super::*;
use crate::cpu::CpuExecutor;
use crate::ops::optimizer::{Clear, Cleared};
use crate::plan::Executor;
use crate::plan::{Initial, ParameterKind, Phase, PlanBuilder};
use crate::tensor::Element;

/// A plan of one fused and one plain parameter, whose moments are in use.
fn executor(columns: usize) -> CpuExecutor<f32> {
    let mut builder = PlanBuilder::new();
    let parts = [("a.query.weight".to_owned(), 3), ("a.key.weight".to_owned(), 2)];
    let weight = builder.parameter(&parts, columns, ParameterKind::Weight, Initial::Zero);
    let bias = builder.parameter(&[("a.bias".to_owned(), 5)], 1, ParameterKind::Bias, Initial::Zero);
    builder.phase(Phase::Clear);
    for parameter in [&weight, &bias] {
        for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
            let elements = parameter.rows * parameter.columns;
            let tensors = vec![Cleared { tensor, elements, element: Element::Float }];
            builder.push("clear", Clear { tensors });
        }
    }
    CpuExecutor::new(builder.build(&[]).unwrap(), 1).unwrap()
}

fn filled() -> CpuExecutor<f32> {
    let mut executor = executor(4);
    let mut next = 0.0;
    for parameter in executor.plan().parameters.clone() {
        for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
            let values: Vec<f32> = (0..parameter.rows * parameter.columns)
                .map(|_| {
                    next += 0.1;
                    next
                })
                .collect();
            executor.write(tensor, &values).unwrap();
        }
    }
    executor
}

fn state_at(step: u64) -> State {
    let store = StoreIdentity { crc: "0".into(), documents: 1, lines: 2, tokens: 3 };
    State {
        step,
        began: 0,
        tokens: 9,
        seed: 1,
        tokenizer: "t".into(),
        lower: true,
        store,
        loss_scaling: None,
        interval: None,
        device: "d".into(),
        ..State::default()
    }
}

fn failure<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("should be refused"))
}

/// Saves, as a run does.
fn save(run: &Path, executor: &mut CpuExecutor<f32>, step: u64, keep: Keep) {
    Snapshot::of(executor, &state_at(step)).unwrap().write(run, || Ok(())).unwrap();
    remove_old(run, step, keep);
}

/// A run with checkpoints of these steps.
fn run_of_steps(steps: &[u64]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    steps.iter().for_each(|&step| save(run.path(), &mut filled(), step, Keep::default()));
    run
}

fn names(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join(CHECKPOINTS)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn assert_equal(a: &mut CpuExecutor<f32>, b: &mut CpuExecutor<f32>) {
    for parameter in a.plan().parameters.clone() {
        for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
            assert_eq!(a.read(tensor).unwrap(), b.read(tensor).unwrap());
        }
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let mut saved = filled();
    let run = tempfile::tempdir().unwrap();
    let state_12 = State { interval: Some(serde_json::json!({"sum": 0.1, "steps": 2})), ..state_at(12) };
    Snapshot::of(&mut saved, &state_12).unwrap().write(run.path(), || Ok(())).unwrap();
    let path = latest(run.path()).unwrap();
    assert!(path.ends_with("checkpoints/step-00000012"));
    assert_eq!(state(&path).unwrap(), state_12);
    let mut loaded = executor(4);
    let found = newest(run.path()).unwrap().unwrap();
    assert!(found.notes().is_empty() && found.checkpoint.state == state_12);
    found.checkpoint.load(&mut loaded).unwrap();
    assert_equal(&mut saved, &mut loaded);
    let bytes = fs::read(path.join(MODEL)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("a.key.weight").unwrap().shape(), [2, 4]);
    assert_eq!(tensors.tensor("a.bias").unwrap().shape(), [5]);
    let other = tempfile::tempdir().unwrap();
    Snapshot::of(&mut loaded, &state_12).unwrap().write(other.path(), || Ok(())).unwrap();
    for name in [MODEL, OPTIMIZER, STATE] {
        let again = fs::read(latest(other.path()).unwrap().join(name)).unwrap();
        assert!(again == fs::read(path.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn old_ones_go_and_the_newest_and_the_multiples_stay() {
    let run = tempfile::tempdir().unwrap();
    let mut executor = filled();
    for leaving in [".step-00000001.tmp", "step-00000010.damaged", "step-00000017.later"] {
        fs::create_dir_all(run.path().join(CHECKPOINTS).join(leaving)).unwrap();
    }
    for step in [0, 5, 10, 15] {
        save(run.path(), &mut executor, step, Keep { newest: 2, every: 0 });
    }
    assert_eq!(names(run.path()), ["step-00000010", "step-00000015", "step-00000017.later"]);
    assert!(latest(run.path()).unwrap().ends_with("step-00000015"));
    for step in [20, 25, 30, 35] {
        save(run.path(), &mut executor, step, Keep { newest: 1, every: 10 });
    }
    assert_eq!(names(run.path()), ["step-00000010", "step-00000020", "step-00000030", "step-00000035"]);
}

/// A run whose parameters are drawn has a checkpoint without tensors: it is gone on from, and is no model.
#[test]
fn a_beginning_is_drawn_again() {
    let run = tempfile::tempdir().unwrap();
    Snapshot::drawn(&state_at(0)).write(run.path(), || Ok(())).unwrap();
    let found = newest(run.path()).unwrap().unwrap();
    assert_eq!(found.checkpoint.state, state_at(0));
    let (mut loaded, mut drawn) = (filled(), filled());
    found.checkpoint.load(&mut loaded).unwrap();
    crate::model::parameters::initialise(&mut drawn, 1).unwrap();
    assert_equal(&mut loaded, &mut drawn);
    let error = failure(weights(&latest(run.path()).unwrap()));
    assert!(error.contains("nothing has been trained yet"), "{error}");
}

#[test]
fn what_does_not_fit_is_named() {
    let run = run_of_steps(&[1]);
    let found = newest(run.path()).unwrap().unwrap();
    let error = failure(found.checkpoint.load(&mut executor(5)));
    assert!(error.contains("model.safetensors: tensor a.query.weight: has shape [3, 4]"), "{error}");
}

/// Any single bit of any file of a checkpoint, and any length: it is refused, with the file's name; what reads models is told which
/// one to name instead.
#[test]
fn every_changed_bit_and_every_cut_is_found() {
    let run = run_of_steps(&[3, 6]);
    let path = latest(run.path()).unwrap();
    for name in [MODEL, OPTIMIZER, STATE] {
        let file = path.join(name);
        let bytes = fs::read(&file).unwrap();
        let refused = |changed: &[u8]| {
            fs::write(&file, changed).unwrap();
            let error = failure(Whole::open(&path));
            assert!(error.starts_with(name) && !error.contains('\n'), "{error}");
            error
        };
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            refused(&changed);
            if at % 16 == 0 {
                refused(&bytes[..at]);
            }
        }
        let mut changed = bytes.clone();
        let last = changed.len() - 1;
        changed[last] ^= 0x40;
        let error = refused(&changed);
        match name {
            MODEL => assert!(error.contains("(in 3 tensors, a.bias to a.query.weight)"), "{error}"),
            OPTIMIZER => assert!(error.contains("(in 6 tensors, m.a.bias to v.a.query.weight)"), "{error}"),
            _ => {}
        }
        let error = match name {
            MODEL => failure(weights(&path)),
            OPTIMIZER => failure(moments(&path)),
            _ => failure(state(&path)),
        };
        assert!(error.contains("step-00000006 is damaged (") && error.contains(name), "{error}");
        assert!(error.contains("step-00000003 is whole: name that"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(failure(Whole::open(&path)).starts_with(name));
        fs::write(&file, &bytes).unwrap();
    }
    assert!(Whole::open(&path).is_ok());
}

/// One written before there were checksums still loads.
#[test]
fn one_without_checksums_is_taken_as_it_is() {
    let run = run_of_steps(&[7]);
    let path = latest(run.path()).unwrap();
    fs::write(path.join(STATE), serde_json::to_vec_pretty(&state_at(7)).unwrap()).unwrap();
    let found = newest(run.path()).unwrap().unwrap();
    let mut loaded = executor(4);
    found.checkpoint.load(&mut loaded).unwrap();
    assert_equal(&mut filled(), &mut loaded);
    assert!(weights(&path).is_ok() && moments(&path).unwrap().is_some());
    // Cut, it is found out by its own header.
    let bytes = fs::read(path.join(OPTIMIZER)).unwrap();
    fs::write(path.join(OPTIMIZER), &bytes[..bytes.len() - 4]).unwrap();
    let error = failure(newest(run.path()));
    assert!(error.contains("optimizer.safetensors: not a whole safetensors file"), "{error}");
}

/// What `newest` finds in a run of steps 3, 6 and 9 after something was done to it, what it says of that, and the
/// checkpoints there are when the run has settled on it.
fn falls_back(harm: impl Fn(&Path), step: u64, says: &[&str], then: &[&str]) {
    let run = run_of_steps(&[3, 6, 9]);
    harm(run.path());
    let found = newest(run.path()).unwrap().unwrap();
    assert_eq!(found.checkpoint.state.step, step);
    let notes = found.notes();
    assert_eq!(notes.len(), says.len(), "{notes:?}");
    for (note, words) in notes.iter().zip(says) {
        assert!(note.contains(words), "{words}: {notes:?}");
    }
    found.settle().unwrap();
    assert_eq!(names(run.path()), then);
    assert!(latest(run.path()).unwrap().ends_with(name(step)));
    assert!(newest(run.path()).unwrap().unwrap().notes().is_empty());
}

#[test]
fn the_newest_whole_one_is_found() {
    let all = ["step-00000003", "step-00000006", "step-00000009"];
    let set_aside = ["step-00000003", "step-00000006", "step-00000009.damaged"];
    let nine = |run: &Path| run.join("checkpoints/step-00000009");
    let lost = "going on from step 6; 3 steps are trained again";
    falls_back(|_| {}, 9, &[], &all);
    falls_back(
        |run| fs::write(nine(run).join(MODEL), b"cut").unwrap(),
        6,
        &["step-00000009 is damaged: model.safetensors: has 3 bytes of", lost],
        &set_aside,
    );
    falls_back(
        |run| fs::remove_file(nine(run).join(STATE)).unwrap(),
        6,
        &["step-00000009 is damaged: state.json: cannot be read", lost],
        &set_aside,
    );
    falls_back(
        |run| fs::write(nine(run).join(STATE), b"").unwrap(),
        6,
        &["step-00000009 is damaged: state.json: not the state of a run", lost],
        &set_aside,
    );
    falls_back(
        |run| {
            fs::remove_dir_all(nine(run)).unwrap();
            fs::create_dir(nine(run)).unwrap();
        },
        6,
        &["step-00000009 is damaged: state.json", lost],
        &set_aside,
    );
    falls_back(
        |run| fs::remove_dir_all(nine(run)).unwrap(),
        6,
        &["latest names `checkpoints/step-00000009`, which is not there; step-00000006 is the newest", lost],
        &all[..2],
    );
    falls_back(
        |run| fs::remove_file(run.join(LATEST)).unwrap(),
        9,
        &["latest is not there; step-00000009 is the newest that is whole"],
        &all,
    );
    falls_back(
        |run| fs::write(run.join(LATEST), b"").unwrap(),
        9,
        &["latest names ``, which is not there"],
        &all,
    );
    // Two of three, and the one that `latest` names is not the newest.
    falls_back(
        |run| {
            fs::write(run.join("checkpoints/step-00000006").join(OPTIMIZER), b"").unwrap();
            fs::write(run.join(LATEST), b"checkpoints/step-00000006\n").unwrap();
        },
        3,
        &["step-00000006 is damaged: optimizer.safetensors: has 0 bytes", "3 steps are trained again"],
        &["step-00000003", "step-00000006.damaged", "step-00000009.later"],
    );
    // Turned back by hand.
    falls_back(
        |run| fs::write(run.join(LATEST), b"checkpoints/step-00000003\n").unwrap(),
        3,
        &[],
        &["step-00000003", "step-00000006.later", "step-00000009.later"],
    );
    // A copy under another's name.
    falls_back(
        |run| {
            fs::remove_dir_all(nine(run)).unwrap();
            fs::rename(run.join("checkpoints/step-00000006"), nine(run)).unwrap();
        },
        3,
        &["step-00000009 is damaged: state.json: is of step 6", "6 steps are trained again"],
        &["step-00000003", "step-00000009.damaged"],
    );
}

#[test]
fn where_none_is_whole_nothing_is_touched() {
    let run = tempfile::tempdir().unwrap();
    assert!(newest(run.path()).unwrap().is_none() && !is_run(run.path()));
    let error = failure(latest(run.path()));
    assert!(error.contains("latest is not there, and there is no whole checkpoint"), "{error}");
    let run = run_of_steps(&[3, 6]);
    for step in [3, 6] {
        fs::write(directory(run.path(), step).join(MODEL), b"").unwrap();
    }
    let error = failure(newest(run.path()));
    assert!(error.contains("none of the 2 checkpoints in "), "{error}");
    assert!(error.contains("(step-00000006: model.safetensors: has 0 bytes of "), "{error}");
    assert_eq!(names(run.path()), ["step-00000003", "step-00000006"]);
    fs::remove_dir_all(run.path().join(CHECKPOINTS)).unwrap();
    let error = failure(newest(run.path()));
    assert!(error.contains("which is not there, and there is no other checkpoint"), "{error}");
    assert!(is_run(run.path()));
}

/// Nothing of a checkpoint that could not be written stays, and what was there does.
#[test]
fn one_that_cannot_be_written_leaves_nothing() {
    let run = run_of_steps(&[3]);
    let full = || Err(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("cannot write it");
    let error = failure(Snapshot::of(&mut filled(), &state_at(6)).unwrap().write(run.path(), full));
    assert!(error.contains("the checkpoint of step 6 takes 0.00 MB, and "), "{error}");
    assert!(error.contains("B free: cannot write it: "), "{error}");
    assert_eq!(names(run.path()), ["step-00000003"]);
    assert!(latest(run.path()).unwrap().ends_with("step-00000003"));
}
