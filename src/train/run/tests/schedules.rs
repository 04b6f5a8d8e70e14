//! Schedules of runs: cut anywhere, decayed from a checkpoint, begun with another model.

use super::*;

/// A run of 10 steps with a warm-up of 2, a checkpoint of each.
fn scheduled(scratch: &Scratch, schedule: &str) -> Options {
    let schedule = format!("schedule={schedule}");
    let set =
        ["steps=10", "warmup_steps=2", "decay_share=0.4", "checkpoint_every=1", "keep=0", "log_every=1"];
    let mut options = options(scratch, &[&set[..], &[&schedule]].concat());
    options.eval_store = None;
    options
}

fn at(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

fn bytes(run: &Path, step: u64) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(at(run, step).join(name)).unwrap())
}

fn rates(run: &Path) -> Vec<f32> {
    metrics(run).iter().map(|line| line["lr"].as_f64().unwrap() as f32).collect()
}

fn ran(options: &Options) -> Report {
    run(options, &AtomicBool::new(false)).unwrap()
}

/// Stopped in the warm-up, where the rate stays and while it falls, all schedules end with the same bytes.
#[test]
fn schedules_go_on_where_they_were_stopped() {
    for shape in ["linear", "cosine", "wsd"] {
        let scratch = Scratch::new();
        random_store(&scratch, 40, 1);
        let mut options = scheduled(&scratch, shape);
        ran(&options);
        let whole = options.out.clone();
        assert!(rates(&whole).windows(2).skip(6).all(|pair| pair[0] > pair[1]), "{shape}");
        options.out = scratch.path("stopped");
        for step in [1, 4, 8] {
            assert_eq!(stopped_before(&options, step).step, step);
            options.resume = true;
            options.sources = Sources::default();
        }
        ran(&options);
        assert_eq!(metrics(&options.out), metrics(&whole));
        for step in 1..=10 {
            let states =
                [&options.out, &whole].map(|run| fs::read(at(run, step).join("state.json")).unwrap());
            assert!(bytes(&options.out, step) == bytes(&whole, step) && states[0] == states[1], "{step}");
        }
    }
}

#[test]
fn one_run_decays_more_than_once() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let long = scheduled(&scratch, "wsd");
    let whole = ran(&long);
    let decay = |out: &str, from: u64, set: &[&str]| Options {
        out: scratch.path(out),
        sources: Sources { set: set.iter().map(|text| text.to_string()).collect(), ..Sources::default() },
        decay_from: Some(at(&long.out, from)),
        ..long.clone()
    };
    // Where the run's own decay begins, to its own end: the same decay.
    let same = decay("same", 6, &["steps=10"]);
    let report = ran(&same);
    assert_eq!((report.step, report.tokens), (10, whole.tokens));
    assert!(bytes(&same.out, 10) == bytes(&long.out, 10));
    assert_eq!(metrics(&same.out), metrics(&long.out)[6..]);
    // By its share of all steps: 4 of 4 + 2.67.
    let shared = decay("shared", 4, &[]);
    assert_eq!(ran(&shared).step, 7);

    // Twice from one checkpoint, once cut.
    let [first, mut second] = ["first", "second"].map(|out| decay(out, 4, &["steps=8", "keep=3"]));
    ran(&first);
    let peak = rates(&long.out)[4];
    let expected = [0.0, 0.25, 0.5, 0.75].map(|x: f64| (f64::from(peak) * (1.0 - x.sqrt())) as f32);
    assert!(
        rates(&first.out).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9),
        "{:?}",
        rates(&first.out)
    );
    assert_eq!(stopped_before(&second, 6).step, 6);
    second.resume = true;
    second.sources = Sources::default();
    ran(&second);
    assert!(bytes(&second.out, 8) == bytes(&first.out, 8));
    assert_eq!(metrics(&second.out), metrics(&first.out));

    // Where it came from is kept.
    let state = checkpoint::state(&checkpoint::latest(&second.out).unwrap()).unwrap();
    let origin = state.decay_from.unwrap();
    assert_eq!((origin.run.as_str(), origin.step, state.began), ("run", 4, 4));
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(second.out.join(name)).unwrap()).unwrap()
    };
    assert_eq!(read(HISTORY), json!({"step": 4, "event": "decay_from", "run": "run"}));
    assert_eq!(
        read("import.json"),
        json!({"source": "run", "format": "run", "base_model": null, "init_step": 4})
    );
    let config = fs::read_to_string(second.out.join("config.toml")).unwrap();
    assert!(config.contains("steps = 8\n") && config.contains("decay_share = 0.5\n"), "{config}");
}

#[test]
fn what_cannot_decay_is_refused() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let long = scheduled(&scratch, "wsd");
    ran(&long);
    let linear = Options { out: scratch.path("linear"), ..scheduled(&scratch, "linear") };
    ran(&linear);
    let decay = |from: PathBuf, set: &[&str]| {
        let set = set.iter().map(|text| text.to_string()).collect();
        let sources = Sources { set, ..Sources::default() };
        let out = scratch.path("refused");
        let options = Options { out: out.clone(), sources, decay_from: Some(from), ..long.clone() };
        let error = failure(run(&options, &AtomicBool::new(false)));
        assert!(!out.join("config.toml").exists() && !out.join("latest").exists(), "{error}");
        error
    };
    for (from, set, expected) in [
        (at(&long.out, 1), &["steps=8"][..], "step-00000001: at step 1 the learning rate still rises"),
        (at(&long.out, 7), &["steps=8"], "step-00000007: at step 7 the learning rate falls already"),
        (long.out.clone(), &["steps=20"], "run: at step 10 the learning rate falls already"),
        (at(&linear.out, 4), &["steps=8"], "only a run with schedule=wsd"),
        (scratch.path("nowhere"), &[], "nowhere: neither a run nor one of its checkpoints"),
        (at(&long.out, 4), &["steps=4"], "steps is 4; the decay of "),
        (at(&long.out, 4), &["steps=8", "decay_share=0.1"], "give one of them"),
        (at(&long.out, 4), &["decay_share=1"], "give steps instead"),
        (at(&long.out, 4), &["steps=8", "model.layers=2"], "as it is: model.layers is 2, in the run 1"),
        (at(&long.out, 4), &["seed=2", "learning_rate=1e-4"], "learning_rate is 0.0001, in the run"),
    ] {
        let error = decay(from, set);
        assert!(error.contains(expected), "{error}");
    }
    random_store(&scratch, 40, 2);
    let error = decay(at(&long.out, 4), &["steps=8"]);
    assert!(error.contains("random.store: not the store of the run"), "{error}");
}

/// A run that begins behind step 0 with another's parameters rises anew, if it is asked to.
#[test]
fn a_run_that_begins_with_another_may_warm_up_again() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let first = scheduled(&scratch, "linear");
    ran(&first);
    let begun = |out: &str, set: &[&str]| {
        let mut options = scheduled(&scratch, "linear");
        options.sources.set.extend(set.iter().map(|text| text.to_string()));
        options.sources.set.push("steps=30".into());
        options.sources.set.push("learning_rate=1e-3".into());
        (options.init, options.init_step) = (Some(first.out.clone()), Some(20));
        options.out = scratch.path(out);
        ran(&options);
        rates(&options.out)
    };
    let (cold, warm) = (begun("cold", &[]), begun("warm", &["rewarm_steps=4"]));
    assert_eq!((cold.len(), warm[0]), (10, 0.0));
    assert!((cold[0] - 1e-3 / 3.0).abs() < 1e-9, "{}", cold[0]);
    assert_eq!(warm[4..], cold[4..]);
    assert!((warm[2] - cold[2] / 2.0).abs() < 1e-9 && warm[3] < cold[3]);
}

/// What follows from other keys does so when a run begins, not when it goes on: also one from before there was a rule.
#[test]
fn a_resumed_run_keeps_rate_and_warm_up() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &["steps=30"]);
    options.eval_store = None;
    options.sources.set.retain(|text| !text.starts_with("warmup_steps"));
    assert_eq!(stopped_before(&options, 2).step, 2);
    let path = options.out.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("learning_rate = 0.00022\nwarmup_steps = 3\n"), "{text}");
    fs::write(&path, text.replace("warmup_steps = 3\n", "warmup_steps = 20\n")).unwrap();
    options.resume = true;
    assert_eq!(ran(&options).step, 30);
    assert!(fs::read_to_string(&path).unwrap().contains("learning_rate = 0.00022\nwarmup_steps = 20\n"));
    assert!(!options.out.join(HISTORY).exists());
}
