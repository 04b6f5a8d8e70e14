//! Several ranks, here as threads: what they train is what one process trains, but for the order of sums.

use super::super::super::config::Surroundings;
use super::super::super::examples::Batcher;
use super::super::super::feeding::Feeding;
use super::*;
use crate::interop::weights::WeightFile;
use crate::plan::Phase;
use crate::ranks::threads;

mod refused;

/// Runs on so many ranks; what each made of it. `of` gives each its own options.
fn on_ranks(count: usize, options: &Options, of: impl Fn(Options) -> Options + Sync) -> Vec<Result<Report>> {
    threads::run(count, |ranks| {
        let ended = run(&of(Options { ranks: ranks.clone(), ..options.clone() }), &AtomicBool::new(false));
        if ended.as_ref().is_err_and(|error| !error.is::<crate::ranks::Together>()) {
            ranks.abort();
        }
        ended
    })
}

fn all_well(count: usize, options: &Options) -> Vec<Report> {
    on_ranks(count, options, |options| options).into_iter().map(Result::unwrap).collect()
}

/// Options of a run in a directory of its own.
fn run_in(scratch: &Scratch, name: &str, set: &[&str]) -> Options {
    let common = ["batch_size=7", "micro_batch=2", "log_every=1", "checkpoint_every=3"];
    let mut all: Vec<&str> = set.to_vec();
    let named = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    all.extend(common.iter().filter(|text| !set.iter().any(|other| named(other) == named(text))));
    Options { out: scratch.path(name), ..options(scratch, &all) }
}

fn metrics(options: &Options) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(options.out.join(METRICS)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The largest difference of the losses and rates of any step, relative to the first.
fn furthest(a: &Options, b: &Options) -> f64 {
    let (a, b) = (metrics(a), metrics(b));
    assert_eq!(a.len(), b.len());
    let mut furthest = 0.0;
    for (a, b) in a.iter().zip(&b) {
        for key in ["step", "tokens", "lr"] {
            assert_eq!(a[key], b[key], "{key}");
        }
        for key in ["loss", "mlm_loss", "disc_loss", "grad_norm"] {
            let [a, b] = [a, b].map(|line| line[key].as_f64().unwrap());
            furthest = f64::max(furthest, ((a - b) / a).abs());
        }
    }
    furthest
}

/// Files of the last checkpoint and all lines, but for what the clock decides.
fn bytes(options: &Options) -> Vec<Vec<u8>> {
    let checkpoint = checkpoint::latest(&options.out).unwrap();
    let mut files: Vec<Vec<u8>> = ["model.safetensors", "optimizer.safetensors", "state.json"]
        .map(|name| fs::read(checkpoint.join(name)).unwrap())
        .into();
    for mut line in metrics(options) {
        for key in ["tokens_per_second", "positions_per_second", "mfu", "model_flops_per_second"] {
            line.as_object_mut().unwrap().remove(key);
        }
        files.push(line.to_string().into_bytes());
    }
    files
}

/// The largest difference between two models' parameters, relative to the largest of each.
fn model_difference(a: &Options, b: &Options, file: &str) -> f64 {
    let open =
        |options: &Options| WeightFile::open(&checkpoint::latest(&options.out).unwrap().join(file)).unwrap();
    let (a, b) = (open(a), open(b));
    let mut furthest = 0.0f64;
    // Gradients of key biases are 0 but for rounding.
    for name in a.names().unwrap().into_iter().filter(|name| !name.ends_with("key.bias")) {
        let values = |file: &WeightFile| -> Vec<f32> {
            bytemuck::pod_collect_to_vec(file.tensor(&name).unwrap().data())
        };
        let [a, b] = [values(&a), values(&b)];
        let size = a.iter().fold(1e-12f32, |size, x| size.max(x.abs()));
        let off = a.iter().zip(&b).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
        furthest = furthest.max(f64::from(off / size));
    }
    furthest
}

/// What the run's last model would sample in a batch.
fn sampled(options: &Options) -> Vec<u32> {
    let stores = Stores::open(&options.stores).unwrap();
    let settings = TrainConfig::load(&options.out.join(checkpoint::CONFIG)).unwrap();
    let device = Device::new(&DeviceChoice::Cpu, 1).unwrap();
    let surroundings = Surroundings { vocab_size: stores.first().vocab_size(), room: device.room() };
    let config = TrainConfig::resolve(settings, surroundings).unwrap();
    let (mut executor, feeding) = Feeding::open(&device, config.plan().unwrap()).unwrap();
    checkpoint::newest(&options.out).unwrap().unwrap().checkpoint.load(executor.as_mut()).unwrap();
    let mut batcher = Batcher::new(&stores, &config).unwrap();
    let mut ids = Vec::new();
    for step in 0..10 {
        let batch = batcher.step(step).unwrap();
        for micro in &batch.micro {
            let ops = executor.plan().phase(Phase::Micro);
            executor.run(ops, &batch.values(Some(micro), 0.0), &feeding.uploads(micro)).unwrap();
            ids.extend_from_slice(&executor.read_uint(feeding.sampled()).unwrap()[..micro.masked()]);
        }
    }
    ids
}

#[test]
fn ranks_train_as_one_process_does() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let one = |steps: &str| {
        let options = run_in(&scratch, &format!("one-{steps}"), &[&format!("steps={steps}")]);
        run(&options, &AtomicBool::new(false)).unwrap();
        options
    };
    let (first, hundred) = (one("1"), one("100"));
    for count in [2, 3] {
        let several = |steps: &str, name: &str| {
            let options = run_in(&scratch, &format!("{count}-{name}"), &[&format!("steps={steps}")]);
            let reports = all_well(count, &options);
            assert!(reports.iter().all(|report| report.step.to_string() == steps));
            // (N − 1)/N of the gradients and as much of the parameters, 4 bytes each, and a few for norm and metrics.
            let parameters =
                fs::metadata(checkpoint::latest(&options.out).unwrap().join("model.safetensors"));
            let parameters = parameters.unwrap().len() as f64;
            let sum: f64 = reports.iter().map(|report| report.sent_bytes_per_step.unwrap() as f64).sum();
            let formula = 2.0 * (count - 1) as f64 * parameters;
            assert!(
                (sum - formula).abs() < 0.1 * formula + 4e4 * (count * (count - 1)) as f64,
                "{sum} {formula}"
            );
            options
        };
        let step = several("1", "first");
        assert!(furthest(&first, &step) < 1e-6, "{count} ranks: {:e}", furthest(&first, &step));
        let moments = model_difference(&first, &step, "optimizer.safetensors");
        assert!(moments < 1e-5, "{count} ranks: moments {moments:e}");
        let all = several("100", "hundred");
        assert!(furthest(&hundred, &all) < 1e-4, "{count} ranks: {:e}", furthest(&hundred, &all));
        let evaluated = |options: &Options| -> serde_json::Value {
            let text = fs::read_to_string(options.out.join("eval.jsonl")).unwrap();
            serde_json::from_str(text.lines().last().unwrap()).unwrap()
        };
        let [a, b] = [&hundred, &all].map(|run| evaluated(run)["mlm_loss"].as_f64().unwrap());
        assert!(((a - b) / a).abs() < 1e-4);
        // The draws are the same; what is drawn differs where two pieces are nearly as likely.
        let [a, b] = [&hundred, &all].map(sampled);
        let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        eprintln!("{count} ranks, after 100 steps: {differ} of {} sampled ids differ", a.len());
        assert!(a.len() > 50 && differ <= a.len() / 50, "{differ} of {}", a.len());
        // The same ranks make the same bytes.
        if count == 2 {
            assert!(bytes(&all) == bytes(&several("100", "again")));
        }
    }
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let steps = ["steps=9"];
    let (one, two) = (run_in(&scratch, "one", &steps), run_in(&scratch, "two", &steps));
    run(&one, &AtomicBool::new(false)).unwrap();
    all_well(2, &two);
    // Interrupted, and gone on with as many: the same bytes. One rank is asked, all stop.
    let cut = run_in(&scratch, "cut", &steps);
    let stopped = threads::run(2, |ranks| {
        let stop = Arc::new(AtomicBool::new(false));
        let set = (ranks.rank() == 1).then(|| stop.clone());
        let watch = Watch(Arc::new(move |next, _| {
            set.iter().for_each(|set| set.store(next == 4, Ordering::Relaxed));
        }));
        run(&Options { ranks, watch: Some(watch), ..cut.clone() }, &stop).unwrap()
    });
    assert!(stopped.iter().all(|report| report.interrupted && report.step == 5), "{stopped:?}");
    let resumed = Options { resume: true, sources: Sources::default(), ..cut.clone() };
    all_well(2, &resumed);
    assert!(bytes(&cut) == bytes(&two));

    // Two, then three, then one: the bounds of one run hold.
    let other = run_in(&scratch, "other", &steps);
    let until = |options: &Options, count: usize, step: u64| {
        threads::run(count, |ranks| {
            let stop = Arc::new(AtomicBool::new(false));
            let set = stop.clone();
            let watch = Watch(Arc::new(move |next, _| set.store(next == step, Ordering::Relaxed)));
            run(&Options { ranks, watch: Some(watch), ..options.clone() }, &stop).unwrap()
        })
    };
    until(&other, 2, 2);
    let resumed = Options { resume: true, sources: Sources::default(), ..other.clone() };
    until(&resumed, 3, 5);
    run(&resumed, &AtomicBool::new(false)).unwrap();
    assert!(furthest(&one, &other) < 1e-5, "{:e}", furthest(&one, &other));
    assert!(model_difference(&one, &other, "model.safetensors") < 1e-3);
}

#[test]
fn phases_a_fixed_generator_and_half_floats_on_the_way() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let config = scratch.path("phases.toml");
    fs::write(
        &config,
        "[[phase]]\nshare = 0.5\nmax_length = 16\nbatch_size = 8\n\n[[phase]]\nmax_length = 32\nbatch_size = 4\n",
    )
    .unwrap();
    let with = |name: &str, reduce: Travel| {
        let mut options = run_in(&scratch, name, &["steps=8", "generator_freeze_at=6"]);
        options.sources.file = Some(config.clone());
        options.sources.set.retain(|text| !text.starts_with("batch_size"));
        Options { reduce, ..options }
    };
    let one = with("one", Travel::F32);
    run(&one, &AtomicBool::new(false)).unwrap();
    let two = with("two", Travel::F32);
    all_well(2, &two);
    assert!(furthest(&one, &two) < 1e-5, "{:e}", furthest(&one, &two));
    // What is fixed keeps its moments, whoever has them.
    let moments = model_difference(&one, &two, "optimizer.safetensors");
    assert!(moments < 1e-3, "{moments:e}");
    let half = with("half", Travel::F16);
    all_well(2, &half);
    let off = furthest(&one, &half);
    assert!(off < 1e-2 && off > furthest(&one, &two), "{off:e}");
}

#[test]
fn shares_are_kept() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let one = run_in(&scratch, "one", &["steps=6", "micro_batch=7"]);
    run(&one, &AtomicBool::new(false)).unwrap();
    let shared = Options {
        share: Some(Shares::Given(vec![5, 2])),
        ..run_in(&scratch, "shared", &["steps=6", "micro_batch=7"])
    };
    all_well(2, &shared);
    let state = |options: &Options| checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
    assert_eq!(state(&shared).shares, [5, 2]);
    assert!(furthest(&one, &shared) < 1e-5);
    // Resumed without a word they are what they were; measured ones too.
    let cut = Options {
        share: Some(Shares::Given(vec![5, 2])),
        ..run_in(&scratch, "cut", &["steps=6", "micro_batch=7"])
    };
    stopped_together(&cut, 2, 3);
    let resumed = Options { resume: true, share: None, sources: Sources::default(), ..cut.clone() };
    all_well(2, &resumed);
    assert!(bytes(&cut) == bytes(&shared));
    let measured = Options {
        share: Some(Shares::Measured),
        ..run_in(&scratch, "measured", &["steps=6", "micro_batch=7"])
    };
    all_well(2, &measured);
    assert!(furthest(&one, &measured) < 1e-5);
    let found = state(&measured).shares;
    assert!(found == [1, 1] || found.len() == 2 && found.contains(&1000), "{found:?}");
    // The same command again, with --resume: they are not measured again.
    let longer = Sources { set: vec!["steps=8".into()], ..Sources::default() };
    let on = Options { resume: true, allow_change: true, sources: longer, ..measured.clone() };
    all_well(2, &on);
    assert_eq!(state(&measured).shares, found);

    for (share, says) in [(vec![1], "1 shares, but there are 2 ranks"), (vec![1, 1, 1], "3 shares")] {
        let options = Options { share: Some(Shares::Given(share)), ..run_in(&scratch, "wrong", &[]) };
        for ended in on_ranks(2, &options, |options| options) {
            assert!(failure(ended).contains(says));
        }
    }
}

/// Looked at op by op, and written down as a trace, steps are what they are.
#[test]
fn a_profile_changes_nothing() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let [plain, profiled] = ["plain", "profiled"].map(|name| run_in(&scratch, name, &["steps=12"]));
    let trace = scratch.path("trace.json");
    let profiled = Options { profile: true, ..profiled };
    all_well(2, &plain);
    for ended in on_ranks(2, &profiled, |options| {
        let profile_trace = options.ranks.is_first().then(|| trace.clone());
        Options { profile_trace, ..options }
    }) {
        ended.unwrap();
    }
    assert!(bytes(&profiled) == bytes(&plain));
    assert!(profiled.out.join(PROFILE).is_file() && trace.is_file());
}

/// Stops all ranks before a step.
fn stopped_together(options: &Options, count: usize, step: u64) {
    threads::run(count, |ranks| {
        let stop = Arc::new(AtomicBool::new(false));
        let set = stop.clone();
        let watch = Watch(Arc::new(move |next, _| set.store(next == step, Ordering::Relaxed)));
        run(&Options { ranks, watch: Some(watch), ..options.clone() }, &stop).unwrap()
    });
}

#[test]
fn ranks_go_back_together() {
    let scratch = Scratch::new();
    random_store(&scratch, 60, 1);
    let set = ["steps=30", "on_divergence=rollback", "checkpoint_every=6", "batch_size=3"];
    let mut one = run_in(&scratch, "one", &set);
    let factor = divergence::factor_in_reach(&one);
    one.sources.set.push(format!("norm_factor={factor}"));
    let two = Options { out: scratch.path("two"), ..one.clone() };
    let alone = run(&one, &AtomicBool::new(false));
    let said = |ended: &Result<Report>| ended.as_ref().err().map(|error| format!("{error:#}"));
    let together: Vec<_> = on_ranks(2, &two, |options| options).iter().map(said).collect();
    assert!(together.iter().all(|ended| *ended == said(&alone)), "{:?}, {together:?}", said(&alone));
    let history = |options: &Options| fs::read_to_string(options.out.join(HISTORY)).unwrap();
    assert!(history(&two).contains("rollback"));
    assert_eq!(history(&two), history(&one));
    // Norms by tensor are of the summed gradients.
    let [mine, theirs] = [&one, &two].map(|options| incidents(options).into_iter().next().unwrap());
    for (name, norms) in mine["norms"].as_object().unwrap() {
        let gradient = |norms: &serde_json::Value| norms["gradient"].as_f64().unwrap();
        let (a, b) = (gradient(norms), gradient(&theirs["norms"][name]));
        assert!((a - b).abs() <= 1e-3 * a || a < 1e-5, "{name}: {a} {b}");
    }
}

/// They go on as one process does with the same checkpoint.
#[test]
fn ranks_begin_with_another_run_and_end_one() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let first = run_in(&scratch, "first", &["steps=6", "schedule=wsd", "decay_share=0.5"]);
    run(&first, &AtomicBool::new(false)).unwrap();
    let begin =
        |name: &str| Options { init: Some(first.out.clone()), ..run_in(&scratch, name, &["steps=5"]) };
    let end = |name: &str| Options {
        out: scratch.path(name),
        sources: Sources { set: vec!["steps=6".into()], ..Sources::default() },
        decay_from: Some(first.out.join("checkpoints/step-00000003")),
        ..first.clone()
    };
    for (one, two) in [(begin("one"), begin("two")), (end("one-ended"), end("two-ended"))] {
        run(&one, &AtomicBool::new(false)).unwrap();
        all_well(2, &two);
        assert!(furthest(&one, &two) < 1e-5, "{:e}", furthest(&one, &two));
        assert!(model_difference(&one, &two, "model.safetensors") < 1e-3);
    }
    // A rank that would begin with another one's parameters.
    let odd = on_ranks(2, &begin("odd"), |mut options| {
        if options.ranks.rank() == 1 {
            options.init = Some(first.out.join("checkpoints/step-00000003"));
        }
        options
    });
    for ended in odd {
        let line = failure(ended);
        assert!(line.starts_with("rank 1: --init is ") && line.contains("step-00000003, and "), "{line}");
    }
}

/// What is fixed does not travel.
#[test]
fn a_fixed_generator_stays_at_home() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let sent = |name: &str, set: &[&str]| -> f64 {
        let options = Options { eval_store: None, ..run_in(&scratch, name, &[set, &["steps=6"]].concat()) };
        all_well(2, &options).iter().map(|report| report.sent_bytes_per_step.unwrap() as f64).sum()
    };
    let (whole, fixed) = (sent("whole", &[]), sent("fixed", &["generator_freeze_at=1"]));
    let parameters =
        WeightFile::open(&scratch.path("whole/checkpoints/step-00000006/model.safetensors")).unwrap();
    let bytes = |name: &String| parameters.tensor(name).unwrap().data().len() as f64;
    let generators = |name: &&String| name.starts_with("generator.") && !name.contains("embeddings");
    let names = parameters.names().unwrap();
    let own: f64 = names.iter().filter(generators).map(bytes).sum();
    // Gradients and parameters, in five steps of six. Tables that both networks read go on being trained.
    let expected = 2.0 * own * 5.0 / 6.0;
    assert!(whole - fixed > 0.9 * expected && expected > 0.0, "{whole} {fixed} {expected}");
}

/// One that is asked to end ends all, after the batches that they are at.
#[test]
fn an_evaluation_of_ranks_ends_when_one_is_asked_to() {
    use super::super::super::evaluate::Evaluator;
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let begun = run_in(&scratch, "run", &["steps=1"]);
    run(&begun, &AtomicBool::new(false)).unwrap();
    let settings = TrainConfig::load(&begun.out.join(checkpoint::CONFIG)).unwrap();
    let stores = Stores::open(&begun.stores).unwrap();
    let ended = threads::run(2, |ranks| {
        let stop = AtomicBool::new(ranks.rank() == 1);
        let device = Device::of_rank(&DeviceChoice::Cpu, 1, &ranks, Travel::default()).unwrap();
        let surroundings = Surroundings { vocab_size: stores.first().vocab_size(), room: device.room() };
        let config = TrainConfig::resolve(settings.clone(), surroundings).unwrap();
        let path = begun.eval_store.as_ref().unwrap();
        let mut evaluator = Evaluator::new(path, stores.first(), &config, &device).unwrap();
        evaluator.measure(1, &stop).unwrap().is_none()
    });
    assert_eq!(ended, [true, true]);
}
