//! Runs that end with their time.

use std::sync::atomic::AtomicU64;

use super::*;

/// A run without `steps`.
fn budgeted(scratch: &Scratch, budget: &str, set: &[&str]) -> Options {
    let mut options = options(scratch, set);
    options
        .sources
        .set
        .retain(|text| !["steps=", "warmup_steps=", "micro_batch="].iter().any(|key| text.starts_with(key)));
    options.budget = Some(parse_budget(budget).unwrap());
    options.eval_store = None;
    options
}

/// Lets each step take so many milliseconds of a time that stands still otherwise.
fn taking(options: &Options, milliseconds: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Options {
    let passed = Arc::new(AtomicU64::new(5000));
    let tell = passed.clone();
    let pass = move |step, _: &Device| {
        passed.fetch_add(milliseconds(step), Ordering::Relaxed);
    };
    Options {
        time: Time(Arc::new(move || tell.load(Ordering::Relaxed) as f64 / 1e3)),
        watch: Some(Watch(Arc::new(pass))),
        ..options.clone()
    }
}

fn saved(options: &Options) -> (u64, f64) {
    let state = checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
    (state.step, state.budget.unwrap().used)
}

fn history(options: &Options) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(options.out.join(HISTORY)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Steps of 400 ms, and of 600 from the 200th on, in 200 s: 200 and 200. (So much time that what a last checkpoint takes, by the
/// clock on the wall, is no matter.)
#[test]
fn steps_follow_from_the_time() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let options = budgeted(&scratch, "200s", &["log_every=10", "checkpoint_every=50", "model.ffn_size=16"]);
    let options = taking(&options, |step| if step < 200 { 400 } else { 600 });
    let report = run(&options, &AtomicBool::new(false)).unwrap();
    let (step, used) = saved(&options);
    assert!((390..=400).contains(&step) && (196.0..=200.0).contains(&used), "{step} steps in {used} s");
    // The last step is told from the others, and its rate is the last of the schedule.
    let last = report.metrics.unwrap();
    assert_eq!((last.step, report.interrupted), (step, false));
    assert!(f64::from(last.lr) < 5e-4 / step as f64, "{}", last.lr);

    // 3 steps and a window of 10, then at checkpoints and each 50th of the time.
    let events = history(&options);
    let (first, rest) = events.split_first().unwrap();
    assert_eq!(
        (&first["step"], &first["event"], &first["from"]),
        (&13.into(), &"budget".into(), &json!(null))
    );
    assert!(first["to"].as_u64().unwrap().abs_diff(500) < 5, "{first}");
    assert!((first["seconds_per_step"].as_f64().unwrap() - 0.4).abs() < 1e-6, "{first}");
    assert!(rest.windows(2).all(|pair| pair[0]["to"] == pair[1]["from"]) && rest.len() > 5, "{rest:?}");
    assert_eq!(rest.last().unwrap()["to"], step);
    let config = fs::read_to_string(options.out.join("config.toml")).unwrap();
    // Rate and warm-up follow from what the window said: a tenth of the steps, 3 × 128 tokens for 16 × 128.
    assert!(
        config.contains(&format!("steps = {step}\n")) && config.contains("warmup_steps = 50\n"),
        "{config}"
    );
    assert!(config.contains("learning_rate = 0.00022\n"), "{config}");
}

/// Cut in the window and later, a run has what is left; the time between counts for nothing.
#[test]
fn a_resumed_run_has_what_is_left() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let set = ["checkpoint_every=30", "eval_every=40", "eval_sequences=4", "warmup_steps=7", "schedule=wsd"];
    let mut options = budgeted(&scratch, "100s", &set);
    options.eval_store = Some(scratch.path("random.store"));
    options.sources.set.push("warmup_steps=7".into());
    let started = options.clone();
    for (before, resume) in [(6, false), (90, true), (150, true)] {
        options.resume = resume;
        let stop = Arc::new(AtomicBool::new(false));
        let set = stop.clone();
        let timed = taking(&options, |_| 500);
        let pass = timed.watch.clone().unwrap();
        let watch = Watch(Arc::new(move |step, device: &Device| {
            pass.0(step, device);
            set.store(step == before, Ordering::Relaxed);
        }));
        let report = run(&Options { watch: Some(watch), ..timed }, &stop).unwrap();
        assert_eq!((report.step, report.interrupted), (before, true));
        let used = saved(&options).1;
        assert!((used - 0.5 * (before + 1) as f64).abs() < 1.6, "{used} s after {before} steps");
    }
    let config = fs::read_to_string(options.out.join("config.toml")).unwrap();
    assert!(config.contains("warmup_steps = 7\n"), "{config}");
    // Other budgets and steps are refused.
    let minutes = Options { budget: Some(parse_budget("1m").unwrap()), ..options.clone() };
    let error = failure(run(&minutes, &AtomicBool::new(false)));
    assert!(error.contains("--budget is 1 min 0 s, in the run 1 min 40 s"), "{error}");
    let mut steps = Options { allow_change: true, ..options.clone() };
    steps.sources = Sources { set: vec!["steps=500".into()], ..Sources::default() };
    let error = failure(run(&steps, &AtomicBool::new(false)));
    assert!(error.contains("steps follow from the budget"), "{error}");

    // With the command that began it, or with no more than --resume.
    let options = taking(&Options { resume: true, ..started }, |_| 500);
    run(&options, &AtomicBool::new(false)).unwrap();
    let (step, used) = saved(&options);
    assert!((98.0..=100.0).contains(&used) && (190..=200).contains(&step), "{step} steps in {used} s");
    // It is over.
    let again = Options { sources: Sources::default(), budget: None, ..options.clone() };
    assert_eq!(run(&again, &AtomicBool::new(false)).unwrap().step, step);
    assert_eq!(saved(&options), (step, used));
}

/// Phases of steps of 200 and of 570 ms (as their FLOPs let expect), with shares of the steps, and of the time.
#[test]
fn phases_have_their_shares_of_a_budget() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let set = [
        "checkpoint_every=50",
        "model.ffn_size=16",
        "phase.1.share=0.6",
        "phase.1.max_length=8",
        "phase.1.batch_size=2",
        "phase.2.max_length=20",
        "phase.2.batch_size=2",
    ];
    for (number, of) in ["steps", "time"].into_iter().enumerate() {
        let of_time = format!("share_of={of}");
        let mut options = budgeted(&scratch, "200s", &[&set[..], &[&of_time]].concat());
        options.out = scratch.path(&format!("shared-{number}"));
        let started = options.clone();
        let config = options.out.join("config.toml");
        // Where the second phase begins, as it stands.
        let border = move || {
            let config: toml::Table = fs::read_to_string(&config).unwrap().parse().unwrap();
            let share = config["phase"][0]["share"].as_float().unwrap();
            (config["steps"].as_integer().unwrap() as f64 * share).round() as u64
        };
        let now = border.clone();
        let pace = move |step| if step < now() { 200 } else { 570 };
        // Cut in the second phase.
        let stop = Arc::new(AtomicBool::new(false));
        let timed = taking(&options, pace.clone());
        let (pass, set, now) = (timed.watch.clone().unwrap(), stop.clone(), border.clone());
        let watch = Watch(Arc::new(move |step, device: &Device| {
            pass.0(step, device);
            set.store(step > 50 && step == now() + 30, Ordering::Relaxed);
        }));
        assert!(run(&Options { watch: Some(watch), ..timed }, &stop).unwrap().interrupted, "{of}");
        options = taking(&Options { resume: true, ..started }, pace);
        run(&options, &AtomicBool::new(false)).unwrap();
        let ((steps, used), first) = (saved(&options), border());
        assert!((196.0..=200.5).contains(&used), "{of}: {steps} steps in {used} s");
        let share = match of {
            "steps" => first as f64 / steps as f64,
            _ => 0.2 * first as f64 / (0.2 * first as f64 + 0.57 * (steps - first) as f64),
        };
        assert!((share - 0.6).abs() < 0.03, "{of}: {share} of {steps} steps");
        let events = history(&options);
        assert_eq!(events.last().unwrap()["phases_end"], json!([first, steps]));
    }
}

/// By the clock on the wall, whatever else the machine does.
#[test]
fn a_run_ends_on_time() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    // No checkpoint before the last: a disk that is busy with others' files makes one slow, and the end leaves room for as slow a one.
    let set = ["checkpoint_every=1_000_000", "model.ffn_size=16", "batch_size=1"];
    let mut options = budgeted(&scratch, "20s", &set);
    let since = std::time::Instant::now();
    // When the last step began, and the longest one: those behind a long one are taken for long, too.
    let seen = Arc::new(std::sync::Mutex::new((0.0f64, 0.0f64)));
    let told = seen.clone();
    options.watch = Some(Watch(Arc::new(move |step, _: &Device| {
        std::thread::sleep(Duration::from_millis(10));
        let (now, mut seen) = (since.elapsed().as_secs_f64(), told.lock().unwrap());
        let longest = if step > 1 { seen.1.max(now - seen.0) } else { 0.0 };
        *seen = (now, longest);
    })));
    run(&options, &AtomicBool::new(false)).unwrap();
    let (used, wall) = (saved(&options).1, since.elapsed().as_secs_f64());
    let longest = seen.lock().unwrap().1;
    let told = format!("{used} s, {wall} s with the last checkpoint; the longest step took {longest} s");
    assert!((19.6 - 2.0 * longest..=20.2 + longest).contains(&used), "{told}");
}

#[test]
fn what_a_budget_is_not_is_refused() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    for (text, expected) in [
        ("24", "it must be a duration, as 24h"),
        ("tomorrow", "it must be a duration"),
        ("-3h", "it must be a duration"),
        ("0s", "more than no time"),
    ] {
        let error = parse_budget(text).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    for (text, seconds) in [("24h", 86_400), ("90m", 5400), ("1h30m", 5400), (" 2d ", 172_800)] {
        assert_eq!(parse_budget(text).unwrap().as_secs(), seconds, "{text}");
    }
    let mut options = budgeted(&scratch, "1h", &[]);
    options.sources.set.push("steps=9".into());
    let error = failure(run(&options, &AtomicBool::new(false)));
    assert!(error.contains("--set: steps follow from --budget"), "{error}");
    // A run that began without one.
    let plain = self::options(&scratch, &[]);
    stopped_before(&plain, 1);
    let error =
        failure(run(&Options { resume: true, ..budgeted(&scratch, "1h", &[]) }, &AtomicBool::new(false)));
    assert!(error.contains("--budget: the run began without one"), "{error}");
}
