//! Steps that are no good, and a discriminator that collapses.

use super::super::super::divergence::norm_limit;
use super::*;

/// A factor that makes a step of the run no good, which goes as it does without until then.
pub fn factor_in_reach(options: &Options) -> f64 {
    let mut options = Options { out: options.out.with_extension("free"), ..options.clone() };
    options.sources.set.push("norm_factor=0".into());
    run(&options, &AtomicBool::new(false)).unwrap();
    let mut state = checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
    let mut factor: f64 = 0.0;
    for (step, norm) in state.norms.clone().into_iter().filter(|(step, _)| *step >= 20) {
        state.step = step;
        factor = factor.max(f64::from(f32::from_bits(norm)) / f64::from(norm_limit(&state, 1.0)));
    }
    factor * 0.999
}

/// Norms a little above the median are called no good: steps with them change nothing, however the run is cut.
#[test]
fn skipped_steps_change_nothing_and_are_the_same_after_a_resume() {
    let scratch = Scratch::new();
    random_store(&scratch, 60, 1);
    let set = ["steps=30", "on_divergence=skip", "checkpoint_every=7", "log_every=5"];
    let mut options = options(&scratch, &set);
    let factor = factor_in_reach(&options);
    options.sources.set.push(format!("norm_factor={factor}"));
    let report = run(&options, &AtomicBool::new(false)).unwrap();
    let seen = incidents(&options);
    assert!(!seen.is_empty() && seen.len() < 12, "{} of 30 steps", seen.len());
    assert!(
        seen.iter().all(|incident| incident["action"] == "skip" && incident["cause"] == "norm_beyond_range")
    );
    let first = &seen[0];
    assert!(first["gradient_norm"].as_f64().unwrap() > first["norm_limit"].as_f64().unwrap(), "{first}");
    assert!(first["norms"].as_object().unwrap().len() > 20, "{first}");
    assert_eq!(report.metrics.unwrap().step, 30);
    let expected = whole(&options);
    let metrics = fs::read_to_string(options.out.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"skipped_steps\""), "{metrics}");

    // From the checkpoint before the last.
    fs::remove_dir_all(options.out.join("checkpoints/step-00000030")).unwrap();
    fs::write(options.out.join("latest"), "checkpoints/step-00000028\n").unwrap();
    let resumed = Options { resume: true, ..options.clone() };
    run(&resumed, &AtomicBool::new(false)).unwrap();
    assert!(whole(&options) == expected, "resumed");
}

/// A rollback leaves the batch out, scales the rate, and both stay in the run.
#[test]
fn a_rollback_goes_on_without_the_batch() {
    let scratch = Scratch::new();
    random_store(&scratch, 60, 1);
    let set = ["steps=30", "on_divergence=rollback", "checkpoint_every=6", "rollback_rate=0.25"];
    let mut options = options(&scratch, &set);
    let factor = factor_in_reach(&options);
    options.sources.set.push(format!("norm_factor={factor}"));
    let ended = run(&options, &AtomicBool::new(false));
    let seen = incidents(&options);
    assert!(!seen.is_empty());
    let history = fs::read_to_string(options.out.join("history.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["rate"]), (&"rollback".into(), &0.25.into()));
    match ended {
        Ok(report) => {
            let state = checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
            assert_eq!((report.step, state.rollbacks.len()), (30, history.lines().count()));
            let lr = report.metrics.unwrap().lr;
            assert!(lr < 5e-4 * 0.25 * (1.0 - 29.0 / 30.0) + 1e-9, "{lr}");
        }
        Err(error) => assert!(format!("{error:#}").contains("given up after 3 rollbacks"), "{error:#}"),
    }

    // What diverges at once cannot be helped by going back.
    let set = ["steps=4", "on_divergence=rollback", "learning_rate=1e30"];
    let hopeless = Options { out: scratch.path("hopeless"), ..self::options(&scratch, &set) };
    let error = failure(run(&hopeless, &AtomicBool::new(false)));
    assert!(error.contains("given up after 3 rollbacks to step 0"), "{error}");
}

/// Weights that decay to nothing make a discriminator that says the same of every token.
#[test]
fn a_collapse_is_told_and_a_rollback_goes_back_before_it() {
    let scratch = Scratch::new();
    random_store(&scratch, 60, 1);
    let set = ["steps=140", "learning_rate=1e-2", "warmup_steps=0", "lr_decay_power=0", "weight_decay=20"];
    let with = |name: &str, more: &[&str]| {
        let mut options = Options { out: scratch.path(name), ..options(&scratch, &set) };
        options.sources.set.extend(more.iter().map(|text| (*text).to_owned()));
        options
    };
    let state = |options: &Options| checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();

    let warned = with("warned", &[]);
    assert_eq!(run(&warned, &AtomicBool::new(false)).unwrap().step, 140);
    let seen = state(&warned).detection;
    assert!(seen.collapsed && seen.steps == 140 && seen.spread < 0.05, "{seen:?}");
    let line = fs::read_to_string(warned.out.join("metrics.jsonl")).unwrap();
    assert!(line.contains("\"disc_spread\":0.0"), "{line}");

    // At a hundred-thousandth of the rate nothing decays.
    let set = ["on_collapse=rollback", "rollback_rate=1e-5", "checkpoint_every=20", "keep=0"];
    let rolled_back = with("rolled-back", &set);
    assert_eq!(run(&rolled_back, &AtomicBool::new(false)).unwrap().step, 140);
    let ended = state(&rolled_back);
    let [rollback] = &ended.rollbacks[..] else { panic!("{:?}", ended.rollbacks) };
    assert!(!ended.detection.collapsed && rollback.batch.is_none(), "{ended:?}");
    assert!(rollback.step + 100 <= rollback.diverged_at && rollback.diverged_at <= 140, "{rollback:?}");
    let history = fs::read_to_string(rolled_back.out.join("history.jsonl")).unwrap();
    assert!(history.contains("\"event\":\"rollback\""), "{history}");

    // The oldest checkpoint left is from the collapse.
    let set = ["on_collapse=rollback", "checkpoint_every=20", "keep=1"];
    let error = failure(run(&with("too-late", &set), &AtomicBool::new(false)));
    assert!(error.contains("no checkpoint from before that is left"), "{error}");
}
