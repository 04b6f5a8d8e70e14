use super::*;
use crate::model::StepOptions;

/// On a device with this room.
fn resolve_for(room: &Room, settings: Settings) -> Result<TrainConfig> {
    TrainConfig::resolve(settings, Surroundings { vocab_size: 32_000, room })
}

/// On a processor of any memory.
fn resolve(settings: Settings) -> Result<TrainConfig> {
    resolve_for(&Room::unlimited(), settings)
}

fn resolved(sources: &Sources) -> TrainConfig {
    resolve(sources.settings().unwrap().0).unwrap()
}

fn failure(sources: &Sources) -> String {
    let error = match sources.settings() {
        Ok((settings, _)) => resolve(settings).unwrap_err(),
        Err(error) => error,
    };
    format!("{error:#}")
}

fn set(assignments: &[&str]) -> Sources {
    Sources { set: assignments.iter().map(|text| text.to_string()).collect(), ..Sources::default() }
}

fn hparams(text: &str) -> Sources {
    Sources { hparams: Some(text.to_owned()), ..Sources::default() }
}

#[test]
fn presets_are_those_of_the_specification() {
    let config = |name: &str| resolve(preset(name).unwrap()).unwrap();
    let small = config("small");
    assert_eq!((small.steps, small.batch_size, small.max_length), (1_000_000, 64, 512));
    assert_eq!((small.model.generator_hidden_size, small.model.generator_heads), (64, 1));
    assert_eq!((small.micro_batch, small.slots(), small.warmup_steps), (4, 79, 10_000));
    let paper = config("small-128");
    assert_eq!((paper.max_length, paper.batch_size, paper.steps), (128, 128, 1_000_000));
    let plus = config("small-plus-plus");
    assert_eq!((plus.model.generator_hidden_size, plus.model.generator_heads), (256, 4));
    assert_eq!(plus.model.generator_ffn_size, 1024);
    let base = config("base");
    let generator = (base.model.generator_hidden_size, base.model.generator_heads);
    assert_eq!((generator, base.model.generator_ffn_size), ((256, 4), 1024));
    assert_eq!((base.model.embedding_size, base.learning_rate, base.steps), (768, 2e-4, 766_000));
    let large = config("large");
    assert_eq!((large.model.layers, large.model.generator_layers, large.slots()), (24, 24, 130));
    assert_eq!((large.model.generator_hidden_size, large.batch_size), (256, 2048));
    let tiny = config("tiny");
    assert_eq!((tiny.model.layers, tiny.model.hidden_size, tiny.model.generator_hidden_size), (4, 128, 32));
    assert_eq!((tiny.steps, tiny.batch_size, tiny.warmup_steps, tiny.max_length), (300, 16, 20, 128));
    let error = preset("smal").unwrap_err().to_string();
    assert!(error.contains("did you mean small? there are tiny, small,"), "{error}");
    let error = preset("nosuch").unwrap_err().to_string();
    assert!(error.starts_with("there is no preset nosuch; there are tiny, small,"), "{error}");
}

#[test]
fn later_sources_win() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "steps = 7\nbatch_size = 7\nseed = 7\n[model]\nlayers = 7\n").unwrap();
    let sources = Sources {
        preset: Some("tiny".into()),
        file: Some(path),
        hparams: Some(r#"{"num_train_steps": 8, "train_batch_size": 8}"#.into()),
        set: vec!["steps=9".into()],
        ..Sources::default()
    };
    let config = resolved(&sources);
    assert_eq!((config.steps, config.batch_size, config.seed), (9, 8, 7));
    assert_eq!((config.model.layers, config.model.hidden_size), (7, 128));
}

/// Those of a run that begins with these sources, as rate, warm-up and whether something is said of them.
fn begun(sources: &Sources, sizes: &[Size]) -> (f64, u64, bool) {
    let (settings, notes) = sources.settings_for(sizes).unwrap();
    let config = resolve(settings).unwrap();
    // What is resolved follows no more.
    let text = config.settings().to_toml();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, &text).unwrap();
    let again = Sources { file: Some(path), ..Sources::default() }.settings_for(&[]).unwrap();
    assert!(again.1.is_empty() && resolve(again.0).unwrap().settings() == config.settings());
    (config.learning_rate, config.warmup_steps, notes.iter().any(|note| note.contains("follow")))
}

#[test]
fn rate_and_warm_up_follow_where_they_were_left_alone() {
    assert_eq!(begun(&Sources::default(), &[]), (5e-4, 10_000, false));
    assert_eq!(begun(&set(&["steps=1000", "batch_size=32"]), &[]), (3.5e-4, 100, true));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "steps = 1000\nbatch_size = 16\n").unwrap();
    let file = Sources { file: Some(path.clone()), ..set(&["batch_size=32"]) };
    assert_eq!(begun(&file, &[]), (3.5e-4, 100, true));
    std::fs::write(&path, "steps = 1000\nlearning_rate = 1e-3\n").unwrap();
    assert_eq!(begun(&file, &[]), (1e-3, 100, true));
    // Not of the reference's hyper-parameters, nor of another model's sizes; a preset that is named has its own.
    assert_eq!(
        begun(&Sources { hparams: Some("{}".into()), ..set(&["steps=1000"]) }, &[]),
        (5e-4, 10_000, false)
    );
    let hparams = hparams(r#"{"num_train_steps": 1000, "train_batch_size": 8}"#);
    assert_eq!(begun(&hparams, &[]), (5e-4, 10_000, false));
    let sizes = [("model.layers".to_owned(), Value::Whole(3))];
    assert_eq!(begun(&set(&["steps=1000"]), &sizes), (5e-4, 10_000, false));
    let named = Sources { preset: Some("tiny".into()), ..set(&["steps=1000"]) };
    assert_eq!(begun(&named, &sizes), (5e-4, 100, true));
}

#[test]
fn micro_batches_are_even_and_fit() {
    for (batch_size, max_length, expected) in [(64, 512, 4), (16, 128, 16), (20, 128, 10), (3, 4096, 1)] {
        let given = [("batch_size", batch_size), ("max_length", max_length), ("model.max_positions", 4096)];
        let given = given.map(|(key, value)| format!("{key}={value}"));
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        assert_eq!(resolved(&set(&given)).micro_batch, expected, "{batch_size} × {max_length}");
    }
    assert_eq!(resolved(&set(&["micro_batch=100", "batch_size=6"])).micro_batch, 6);
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (given, nearest) in [
        ("learning_rat=1", "learning_rate"),
        ("hidden_size=256", "model.hidden_size"),
        ("model.hiden_size=1", "model.hidden_size"),
        ("warmup=1", "warmup_steps"),
    ] {
        let error = failure(&set(&[given]));
        assert!(error.ends_with(&format!("the nearest known one is {nearest}")), "{error}");
    }
    let error = failure(&set(&["foo=1"]));
    assert!(error.ends_with("unknown key foo; docs/configuration.md has all there are"), "{error}");
    let error = failure(&hparams(r#"{"max_seq_lenght": 1}"#));
    assert!(error.ends_with("the nearest known one is max_seq_length"), "{error}");
    let mut settings = preset("tiny").unwrap();
    assert!(settings.set_toml("[optimizer]\nbeta = 1").is_err());
}

#[test]
fn bad_values_say_what_is_allowed() {
    for (given, expected) in [
        ("steps=0", "steps is 0; it must be a whole number, 1 or more"),
        ("steps=many", "steps is many; it must be"),
        ("steps=1.5", "steps is 1.5; it must be"),
        ("dropout=1", "dropout is 1; it must be a number from 0 to below 1"),
        ("learning_rate=nan", "learning_rate is nan; it must be a number above 0"),
        ("precision=f64", "precision is f64; it must be f32 or f16"),
        ("steps", "\"steps\" is not of the form key=value"),
        ("model.heads=3", "model.heads is 3; it must divide"),
        ("max_length=600", "max_length is 600; it must be at most model.max_positions, which is 512"),
        ("model.vocab_size=5", "the store's tokenizer has 32000 pieces"),
    ] {
        let error = failure(&set(&[given]));
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    assert_eq!(resolved(&set(&["steps=1e6", "batch_size=1_0"])).steps, 1_000_000);
}

#[test]
fn a_resolved_configuration_reads_back_the_same() {
    let config = resolved(&set(&["learning_rate=3.3e-5", "seed=9223372036854775807"]));
    let text = config.settings().to_toml();
    let mut settings = Settings::default();
    settings.set_toml(&text).unwrap();
    assert_eq!(&settings, config.settings());
    // Fed back as a file over any preset, every key wins.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, &text).unwrap();
    let again = resolved(&Sources { preset: Some("base".into()), file: Some(path), ..Sources::default() });
    assert_eq!(again.settings(), config.settings());
    assert_eq!(again.model, config.model);
}

#[test]
fn a_run_from_before_a_key_has_its_default() {
    let config = resolved(&Sources::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let text = config.settings().to_toml();
    let lines = [
        "precision = \"f32\"\n",
        "vocabulary_chunk = 256\n",
        "mask_probability_end = 0.15\n",
        "masking = \"token\"\n",
    ];
    let former = lines.iter().fold(text.clone(), |text, line| text.replace(line, ""));
    assert_eq!(text.lines().count(), former.lines().count() + lines.len());
    std::fs::write(&path, former).unwrap();
    let saved = TrainConfig::load(&path).unwrap();
    // 32 MiB of logits.
    assert_eq!(saved.whole("vocabulary_chunk").unwrap(), 262);
    let set = set(&["vocabulary_chunk=262"]);
    let config = resolved(&set);
    assert_eq!(&saved, config.settings());
    assert_eq!(resolve(saved).unwrap().settings(), config.settings());
}

#[test]
fn a_fraction_replaces_sizes_given_before_it() {
    let mut settings = preset("small").unwrap();
    settings.set_texts(["model.generator_hidden_size=128"]).unwrap();
    let config = resolve(settings.clone()).unwrap();
    assert_eq!((config.model.generator_hidden_size, config.model.generator_heads), (128, 2));
    settings.set_texts(["model.generator_fraction=0.5"]).unwrap();
    settings.set_texts(["model.generator_heads=4"]).unwrap();
    let config = resolve(settings).unwrap();
    assert_eq!((config.model.generator_hidden_size, config.model.generator_heads), (128, 4));
}

#[test]
fn the_references_names_work() {
    let config = resolved(&hparams(
        r#"{"model_size": "base", "max_seq_length": 128, "gen_weight": 2, "disc_weight": 25.5,
            "generator_hidden_size": 0.33333, "generator_layers": 0.5, "mask_prob": 0.25, "debug": false,
            "max_predictions_per_seq": 32, "untied_generator": true, "use_tpu": true}"#,
    ));
    assert_eq!((config.model.hidden_size, config.model.heads, config.model.ffn_size), (768, 12, 3072));
    assert_eq!((config.model.embedding_size, config.model.generator_hidden_size), (768, 256));
    assert_eq!((config.model.generator_layers, config.max_length, config.slots()), (6, 128, 32));
    assert_eq!(config.discriminator_weight, 25.5);
    let sources = hparams(r#"{"use_tpu": true}"#);
    assert_eq!(sources.settings().unwrap().1.len(), 1);

    let overrides = r#"{"model_hparam_overrides": {"hidden_size": 128, "num_hidden_layers": 3}}"#;
    let config = resolved(&hparams(overrides));
    assert_eq!((config.model.hidden_size, config.model.heads, config.model.ffn_size), (128, 2, 512));
    assert_eq!((config.model.generator_hidden_size, config.model.generator_layers), (32, 3));

    for (text, expected) in [
        (r#"{"electra_objective": false}"#, "only true is supported"),
        (r#"{"model_size": "huge"}"#, "must be \"small\", \"base\" or \"large\""),
        (r#"{"mask_prob": 2}"#, "mask_prob: mask_probability is 2"),
        (r#"{"model_hparam_overrides": {"hidden_act": "relu"}}"#, "only \"gelu\" is supported"),
        (r#"{"max_predictions_per_seq": 20}"#, "is 79"),
        ("[1]", "not a JSON object"),
    ] {
        let error = failure(&hparams(text));
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
}

/// Command lines as the reference's documentation and the system being replaced have them.
#[test]
fn command_lines_of_the_reference_work() {
    let config = resolved(&hparams(
        "python3 run_pretraining.py --data-dir $DATA_DIR --model-name electra_small_owt --hparams '{\"vocab_size\": 32000}'",
    ));
    assert_eq!((config.max_length, config.batch_size, config.steps), (128, 128, 1_000_000));
    assert_eq!((config.model.hidden_size, config.model.embedding_size), (256, 128));
    let config = resolved(&hparams(
        r#"python3 run_pretraining.py --data-dir data --model-name base
           --hparams '{"model_size": "base", "max_seq_length": 512, "train_batch_size": 256, "learning_rate": 2e-4}'"#,
    ));
    assert_eq!((config.max_length, config.batch_size, config.learning_rate), (512, 256, 2e-4));
    // The reference's own default; only its documentation says 1/3.
    assert_eq!((config.model.embedding_size, config.model.generator_hidden_size), (768, 192));
    let preset =
        Sources { preset: Some("tiny".into()), ..hparams("run_pretraining.py --data-dir d --model-name m") };
    assert_eq!(resolved(&preset).max_length, 128);
    assert_eq!(preset.settings().unwrap().1.len(), 2);
    let error = failure(&hparams("python3 run_finetuning.py --data-dir d --model-name m"));
    assert!(error.contains("give it to `inazuma finetune`"), "{error}");
}

/// The defaults of the keys and those of a plan's options are both the reference's.
#[test]
fn defaults_are_those_of_a_plan() {
    let options = resolved(&Sources::default()).step_options();
    // 32 MiB of logits on a processor; of 79 slots a sequence there are 4 sequences.
    let chunk = StepOptions { vocabulary_chunk: Some(256), ..StepOptions::default() };
    assert_eq!(format!("{options:?}"), format!("{chunk:?}"));
}

mod phases;
