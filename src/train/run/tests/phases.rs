use super::super::leg::extend_positions;
use super::*;
use crate::model::parameters;
use crate::plan::Executor;
use crate::train::config::Surroundings;
use crate::train::examples::Batcher;

const PHASES: [&str; 11] = [
    "steps=9",
    "batch_size=3",
    "log_every=2",
    "eval_every=4",
    "eval_sequences=4",
    "phase.1.share=0.44",
    "phase.1.max_length=16",
    "phase.1.batch_size=5",
    "phase.2.share=0.34",
    "phase.2.max_length=24",
    "phase.3.max_length=40",
];

/// Runs, stops just before each of these steps and goes on.
fn stopped_at(options: &Options, steps: &[u64]) -> Options {
    let mut options = options.clone();
    for &step in steps {
        assert_eq!(stopped_before(&options, step).step, step);
        options.resume = true;
        options.sources = Sources::default();
    }
    assert_eq!(run(&options, &AtomicBool::new(false)).unwrap().step, 9);
    options
}

/// Borders lie behind steps 4 (where an evaluation is due too) and 7.
#[test]
fn a_run_with_phases_ends_the_same_however_it_is_cut() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let options = options(&scratch, &PHASES);
    run(&options, &AtomicBool::new(false)).unwrap();
    let (expected, lines) = (whole(&options), metrics(&options.out));
    let evaluations = |options: &Options| fs::read_to_string(options.out.join("eval.jsonl")).unwrap();
    let evaluated = evaluations(&options);
    assert_eq!(evaluated.lines().count(), 3);
    // Both borders were saved, whatever checkpoint_every says.
    for step in [4, 7, 9] {
        assert!(options.out.join(format!("checkpoints/step-{step:08}/state.json")).exists(), "{step}");
    }
    let steps: [&[u64]; 4] = [&[3, 6], &[4, 7], &[5, 8], &[1, 2, 3, 4, 5, 6, 7, 8]];
    for (number, steps) in steps.into_iter().enumerate() {
        let out = scratch.path(&format!("cut-{number}"));
        let cut = stopped_at(&Options { out, ..options.clone() }, steps);
        assert!(whole(&cut) == expected, "{steps:?}");
        assert_eq!(metrics(&cut.out), lines, "{steps:?}");
        assert_eq!(evaluations(&cut), evaluated, "{steps:?}");
    }
    // Killed before a later checkpoint: goes on from the border.
    for step in [9, 7] {
        fs::remove_dir_all(options.out.join(format!("checkpoints/step-{step:08}"))).unwrap();
    }
    let again = Options { resume: true, sources: Sources::default(), ..options.clone() };
    fs::write(again.out.join("latest"), "checkpoints/step-00000004\n").unwrap();
    run(&again, &AtomicBool::new(false)).unwrap();
    assert!(whole(&again) == expected, "from the border");
    assert_eq!(metrics(&again.out), lines);
}

/// Until its first border a run with phases is one without; then examples come in an order of their own.
#[test]
fn the_first_phase_is_a_run_without() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &PHASES);
    options.eval_store = None;
    // It would follow from the batch and the length, which are said otherwise below.
    options.sources.set.push("learning_rate=5e-4".into());
    stopped_before(&options, 4);
    let tensors = |out: &Path| fs::read(out.join("checkpoints/step-00000004/optimizer.safetensors")).unwrap();
    let phased = tensors(&options.out);
    options.sources.set.retain(|text| !text.starts_with("phase") && !text.starts_with("batch_size"));
    options.sources.set.extend(["batch_size=5".into(), "max_length=16".into()]);
    let plain = Options { out: scratch.path("plain"), ..options.clone() };
    stopped_before(&plain, 4);
    assert!(tensors(&plain.out) == phased);
    let state = |out: &Path| fs::read_to_string(out.join("checkpoints/step-00000004/state.json")).unwrap();
    assert!(state(&options.out).contains("\"positions\": 16"), "{}", state(&options.out));
    assert!(!state(&plain.out).contains("positions"), "{}", state(&plain.out));

    let store: Stores = Stores::open(&options.stores).unwrap();
    options.sources.set.extend(["phase.1.share=0.5".into(), "phase.2.max_length=16".into()]);
    let surroundings =
        Surroundings { vocab_size: store.first().vocab_size(), room: &crate::device::Room::unlimited() };
    let config = TrainConfig::resolve(options.sources.settings().unwrap().0, surroundings).unwrap();
    let legs = config.legs().unwrap();
    // With the same draws, so that nothing but the examples differs.
    let firsts = legs.iter().map(|leg| {
        let first = Batcher::new(&store, &leg.config).unwrap().examples(0, [1, 2], 0, 5).unwrap();
        first.micro.iter().flat_map(|micro| micro.input_ids.clone()).collect::<Vec<_>>()
    });
    let firsts: Vec<_> = firsts.collect();
    let mut unphased = legs[1].config.clone();
    unphased.phase = Default::default();
    let mut plain = Batcher::new(&store, &unphased).unwrap();
    let plain = plain.examples(0, [1, 2], 0, 5).unwrap();
    assert_eq!(firsts[0], plain.micro.iter().flat_map(|micro| micro.input_ids.clone()).collect::<Vec<_>>());
    assert_ne!(firsts[0], firsts[1]);
}

/// Where a leg ends and nothing changes, nothing does.
#[test]
fn a_border_changes_no_byte() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let options = options(&scratch, &["steps=7", "log_every=3", "eval_every=2", "eval_sequences=4"]);
    run(&options, &AtomicBool::new(false)).unwrap();
    let cut = Options { out: scratch.path("cut"), borders: vec![2, 3, 6], ..options.clone() };
    run(&cut, &AtomicBool::new(false)).unwrap();
    assert!(whole(&cut) == whole(&options));
    assert_eq!(metrics(&cut.out), metrics(&options.out));
    assert!(
        cut.out.join("checkpoints/step-00000003").exists()
            && cut.out.join("checkpoints/step-00000006").exists()
    );
}

/// A step behind a border that is no good leads back to the border, and on from there.
#[test]
fn a_rollback_behind_a_border_goes_back_to_it() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let set = [&PHASES[..], &["on_divergence=rollback", "phase.2.learning_rate=1e30"]].concat();
    let mut options = options(&scratch, &set);
    options.eval_store = None;
    let error = failure(run(&options, &AtomicBool::new(false)));
    assert!(error.contains("given up after 3 rollbacks to step 4"), "{error}");
    let seen = incidents(&options);
    assert!(seen.iter().all(|incident| incident["step"].as_u64().unwrap() > 4), "{seen:?}");
}

#[test]
fn new_positions_begin_as_asked() {
    let sources = Sources { preset: Some("tiny".into()), ..Sources::default() };
    let config = |how: &str| {
        let mut settings = sources.settings().unwrap().0;
        settings
            .set_texts([format!("extend_positions={how}").as_str(), "max_length=8", "model.layers=1"])
            .unwrap();
        let surroundings = Surroundings { vocab_size: 60, room: &crate::device::Room::unlimited() };
        TrainConfig::resolve(settings, surroundings).unwrap()
    };
    for how in ["repeat", "fresh", "interpolate"] {
        let config = config(how);
        let mut executor = crate::cpu::CpuExecutor::<f32>::new(config.plan().unwrap().plan, 1).unwrap();
        parameters::initialise(&mut executor, config.seed).unwrap();
        let table =
            executor.plan().parameters.iter().find(|parameter| parameter.parts[0].name.contains("position"));
        let table = table.unwrap().clone();
        let all: Vec<f32> = (0..table.rows * table.columns).map(|x| x as f32 + 1.0).collect();
        let tensors = [table.value, table.first_moment, table.second_moment];
        tensors.iter().for_each(|&tensor| executor.write(tensor, &all).unwrap());
        let mut state = State { positions: Some(3), ..State::default() };
        extend_positions(&mut executor, &config, &mut state).unwrap();
        assert_eq!(state.positions, Some(8));
        let drawn = parameters::drawn(&table, config.seed);
        for (number, tensor) in tensors.into_iter().enumerate() {
            let (now, columns) = (executor.read(tensor).unwrap(), table.columns);
            let row = |values: &[f32], index: usize| values[index * columns..(index + 1) * columns].to_vec();
            assert_eq!(now[8 * columns..], all[8 * columns..], "what the leg does not read stays");
            for index in 3..8 {
                match (how, number) {
                    ("repeat", _) => assert_eq!(row(&now, index), row(&all, index % 3)),
                    ("fresh", 0) => assert_eq!(row(&now, index), row(&drawn, index)),
                    ("fresh", _) => assert!(row(&now, index).iter().all(|&x| x == 0.0)),
                    _ => assert!(row(&now, index) < row(&all, 3), "between old rows"),
                }
            }
            let kept = if how == "interpolate" { 1 } else { 3 };
            assert_eq!(now[..kept * columns], all[..kept * columns]);
        }
        // Once.
        let before = executor.read(table.value).unwrap();
        extend_positions(&mut executor, &config, &mut state).unwrap();
        assert_eq!(executor.read(table.value).unwrap(), before);
    }
}
