use super::*;
use crate::batch::masking::Share;

/// Phases of 16, 24 and 32 tokens.
const THREE: [&str; 8] = [
    "steps=100",
    "warmup_steps=0",
    "phase.1.share=0.5",
    "phase.1.max_length=16",
    "phase.2.share=0.3",
    "phase.2.max_length=24",
    "phase.2.learning_rate=1e-3",
    "phase.3.max_length=32",
];

fn ends(config: &TrainConfig) -> Vec<u64> {
    config.legs().unwrap().iter().map(|leg| leg.steps.end).collect()
}

/// The line from the first share to the last is that of the whole run; a phase with a share of its own keeps to it.
#[test]
fn the_masked_share_is_that_of_the_run_or_of_the_phase() {
    let shares = ["mask_probability=0.3", "mask_probability_end=0.2", "phase.2.mask_probability=0.25"];
    let config = resolved(&set(&[&THREE[..], &shares].concat()));
    let expected = [(0.3, 0.2), (0.25, 0.25), (0.3, 0.2)];
    let of = |config: &TrainConfig| {
        let legs = config.legs().unwrap();
        let ends = |share: Share| (share.at(0), share.at(100));
        legs.iter().map(|leg| ends(leg.config.mask_share())).collect::<Vec<_>>()
    };
    assert_eq!(of(&config), expected);
    // So they are in what a run keeps.
    let mut settings = Settings::default();
    settings.set_toml(&config.settings().to_toml()).unwrap();
    assert_eq!(of(&resolve(settings).unwrap()), expected);
    assert_eq!(of(&resolved(&set(&THREE))), [(0.15, 0.15); 3]);
}

#[test]
fn phases_take_their_shares_and_values() {
    let config = resolved(&set(&THREE));
    let legs = config.legs().unwrap();
    assert_eq!(ends(&config), [50, 80, 100]);
    let of = |value: fn(&TrainConfig) -> usize| legs.iter().map(|leg| value(&leg.config)).collect::<Vec<_>>();
    assert_eq!(of(|config| config.max_length), [16, 24, 32]);
    assert_eq!(of(|config| config.slots()), [2, 3, 4]);
    assert_eq!(of(|config| config.steps as usize), [100; 3]);
    assert_eq!(of(|config| config.phase.first as usize), [0, 50, 80]);
    let rates: Vec<f64> = legs.iter().map(|leg| leg.config.learning_rate).collect();
    assert_eq!(rates, [5e-4, 1e-3, 5e-4]);
    // A processor takes 2,048 tokens at a time.
    assert_eq!(of(|config| config.micro_batch), [64, 64, 64]);
    let longer = [&THREE[..], &["phase.3.max_length=512", "phase.3.batch_size=32"]].concat();
    let legs = resolved(&set(&longer)).legs().unwrap();
    let sizes: Vec<_> = legs.iter().map(|leg| (leg.config.batch_size, leg.config.micro_batch)).collect();
    assert_eq!(sizes, [(64, 64), (64, 64), (32, 4)]);

    // Of the tokens: 16, 24 and 32 a sequence.
    let tokens = resolved(&set(&[&THREE[..], &["share_of=tokens", "steps=1000"]].concat()));
    let each = tokens.legs().unwrap().iter().map(Leg::positions).collect::<Vec<_>>();
    let all: f64 = each.iter().sum();
    for (positions, share) in each.iter().zip([0.5, 0.3, 0.2]) {
        assert!((positions / all - share).abs() < 2e-3, "{each:?}");
    }
    let lines = describe_phases(&legs);
    assert_eq!(lines.len(), 3);
    assert!(
        lines[1].starts_with("phase 2 of 3: steps 51 to 80, 64 sequences of 24 tokens each"),
        "{lines:?}"
    );
}

/// As tables, as `--set`, and as a run writes them, over whatever preset.
#[test]
fn phases_read_back_the_same() {
    let config = resolved(&set(&THREE));
    let text = config.settings().to_toml();
    assert!(
        text.contains("\n[[phase]]\nshare = 0.5\nbatch_size")
            || text.contains("[[phase]]\nshare = 0.5\nmicro_batch"),
        "{text}"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, &text).unwrap();
    for preset in ["base", "tiny-phases"] {
        let sources = Sources { preset: Some(preset.into()), file: Some(path.clone()), ..Sources::default() };
        assert_eq!(resolved(&sources).settings(), config.settings());
    }
    let saved = TrainConfig::load(&path).unwrap();
    assert!(config.settings().changes(&saved).is_empty());
    assert_eq!(resolve(saved.clone()).unwrap().settings(), config.settings());

    // What another run has otherwise is named, and sizes that were found stay.
    let mut other = saved.clone();
    other.set_texts(["phase.2.learning_rate=2e-3", "phase.1.micro_batch=auto"]).unwrap();
    let changes =
        |other: &Settings| -> Vec<String> { other.changes(&saved).iter().map(ToString::to_string).collect() };
    TrainConfig::keep_sizes(&mut other, &saved).unwrap();
    assert_eq!(changes(&other), ["phase.2.learning_rate is 0.002, in the run 0.001"]);
    other.set_toml("phase = []").unwrap();
    assert!(changes(&other).contains(&"phase.3.max_length is absent, in the run 32".to_owned()));
    assert_eq!(resolve(other).unwrap().legs().unwrap().len(), 1);
}

#[test]
fn bad_phases_are_named() {
    let long = "phase.2.max_length=1024";
    for (given, expected) in [
        (
            &["phase.1.max_lenght=3"][..],
            "unknown key phase.1.max_lenght; the nearest known one is phase.1.max_length",
        ),
        (&["phase.1.steps=3"], "unknown key phase.1.steps; docs/configuration.md has all there are"),
        (&["phase.0.share=0.5"], "phase.0.share: phases are numbered, 1 to 64, as in phase.1.max_length"),
        (&["phase.max_length=5"], "phase.max_length: phases are numbered"),
        (&["phase.2.max_length=3"], "phase 2: max_length is 3; it must be a whole number, 5 to 65535"),
        (&["phase.1.share=1.5"], "phase 1: share is 1.5; it must be a number above 0, at most 1"),
        (&["phase.2.max_length=64"], "phase.1.share is missing: only the last phase takes the rest"),
        (&["phase.1.share=0.4"], "phase.1.share is 0.4000: the phases before it leave 1.0000"),
        (
            &["phase.1.share=1", "phase.2.share=0.5"],
            "phase.2.share is 0.5000: the phases before it leave 0.0000",
        ),
        (
            &["phase.1.share=0.5", "phase.2.share=0.6"],
            "phase.2.share is 0.6000: the phases before it leave 0.5000",
        ),
        (
            &["steps=10", "phase.1.share=0.01", "phase.2.max_length=64"],
            "phase.1.share: of 10 steps phase 1 would have none",
        ),
        (
            &["phase.1.share=0.5", long],
            "phase 2: max_length is 1024; it must be at most model.max_positions, which is 512",
        ),
        (&["phase.1.mask_probability=0.001", "phase.1.max_length=8"], "phase 1: mask_probability is 0.001"),
        (
            &["share_of=time", "phase.1.share=1"],
            "share_of is time: how many steps that is is known only with --budget",
        ),
        (&["share_of=hours"], "share_of is hours; it must be steps or tokens or time"),
    ] {
        let error = failure(&set(given));
        assert!(error.contains(expected) && !error.contains('\n'), "{given:?}: {error}");
    }
    let mut settings = Settings::default();
    for (text, expected) in [
        ("phase = 3", "each under a line [[phase]]"),
        ("[phase]\nshare = 1.0", "each under a line [[phase]]"),
        ("[[phase]]\nlayers = 3", "unknown key phase.1.layers"),
        ("[[phase]]\nshare = \"much\"", "phase 1: share is \"much\""),
    ] {
        let error = format!("{:#}", settings.set_toml(text).unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// A later phase that the device has no room for is refused with the first.
#[test]
fn every_phase_must_fit() {
    let long = [
        "micro_batch=16",
        "model.layers=2",
        "batch_size=16",
        "phase.1.share=0.9",
        "phase.1.max_length=32",
        "phase.2.max_length=512",
    ];
    let config = resolved(&set(&long));
    let bytes = |leg: usize| config.legs().unwrap()[leg].config.plan().unwrap().plan.bytes();
    let room = Room::processor().limited((bytes(0) + bytes(1)) / 2);
    let error = format!("{:#}", config.check(&room, false).unwrap_err());
    assert!(error.starts_with("phase 2: micro_batch=16: ") && error.contains("would fit"), "{error}");
    // Where the sizes are found, they do.
    let found =
        resolve_for(&room, set(&[&long[1..], &["phase.1.micro_batch=auto"]].concat()).settings().unwrap().0);
    found.unwrap().check(&room, false).unwrap();
    // An evaluation has the sizes of the last phase, in the first too.
    let room = Room::processor().limited(bytes(1) + (1 << 20));
    config.check(&room, false).unwrap();
    let error = format!("{:#}", config.check(&room, true).unwrap_err());
    assert!(error.starts_with("phase "), "{error}");
}

#[test]
fn legs_are_cut_where_something_changes() {
    let mut legs = resolved(&set(&THREE)).legs().unwrap();
    let lower = |config: &mut TrainConfig| config.values.learning_rate = 1.0;
    change_from(&mut legs, 60, lower);
    let all = |legs: &[Leg]| -> Vec<(u64, u64, f64)> {
        legs.iter().map(|leg| (leg.steps.start, leg.steps.end, leg.config.learning_rate)).collect()
    };
    assert_eq!(all(&legs), [(0, 50, 5e-4), (50, 60, 1e-3), (60, 80, 1.0), (80, 100, 1.0)]);
    assert_eq!(legs[2].config.phase, Phase { number: 1, first: 50 });
    assert_eq!([0, 49, 50, 59, 60, 99, 100].map(|step| leg_of(&legs, step)), [0, 0, 1, 1, 2, 3, 3]);
    for at in [80, 100, 200] {
        change_from(&mut legs, at, |config| config.values.learning_rate = 2.0);
        assert_eq!(legs.len(), 4, "{at}");
    }
    assert_eq!(all(&legs)[2..], [(60, 80, 1.0), (80, 100, 2.0)]);
}

#[test]
fn presets_with_phases_keep_the_tokens_of_a_step() {
    for (name, lengths) in [("small-phases", &[128, 512][..]), ("tiny-phases", &[32, 64, 128])] {
        let config = resolve(preset(name).unwrap()).unwrap();
        let base = resolve(preset(name.trim_end_matches("-phases")).unwrap()).unwrap();
        let legs = config.legs().unwrap();
        assert_eq!(legs.iter().map(|leg| leg.config.max_length).collect::<Vec<_>>(), lengths);
        assert!(legs.iter().all(|leg| leg.config.positions_per_step() == base.positions_per_step()));
        assert_eq!((config.steps, config.model.max_positions), (base.steps, base.max_length));
        assert_eq!(config.evaluated().unwrap().max_length, base.max_length);
    }
    assert_eq!(ends(&resolve(preset("small-phases").unwrap()).unwrap()), [900_000, 1_000_000]);
}
