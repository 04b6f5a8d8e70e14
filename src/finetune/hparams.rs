//! `finetune --hparams`: the reference implementation's names (google-research/electra, `configure_finetuning.py`), turned
//! into options of ours.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value as Json};

use crate::train::keys::{nearest, unknown};
use crate::train::reference::{self, Given, Program};

/// Options of ours by the reference's names, where the values mean the same.
const SAME: &[(&str, &str)] = &[
    ("learning_rate", "--learning-rate"),
    ("weight_decay_rate", "--weight-decay"),
    ("layerwise_lr_decay", "--layerwise-lr-decay"),
    ("num_train_epochs", "--epochs"),
    ("warmup_proportion", "--warmup"),
    ("max_seq_length", "--max-length"),
    ("train_batch_size", "--batch-size"),
    ("max_query_length", "--max-query-length"),
    ("doc_stride", "--doc-stride"),
    ("n_best_size", "--n-best"),
    ("max_answer_length", "--max-answer-length"),
    ("num_trials", "--trials"),
];

/// Keys with the one value that Inazuma can do.
const FIXED: &[(&str, &str)] = &[
    ("do_train", "true"),
    ("answerable_uses_start_logits", "true"),
    ("answerable_weight", "0.5"),
    ("beam_size", "20"),
];

/// Keys about TensorFlow, TPUs, places of files and what follows from the model: accepted, without effect.
const NO_EFFECT: &[&str] = &[
    "answerable_classifier",
    "data_dir",
    "debug",
    "do_eval",
    "do_lower_case",
    "double_unordered",
    "embedding_size",
    "eval_batch_size",
    "gcp_project",
    "init_checkpoint",
    "iterations_per_loop",
    "keep_all_models",
    "log_examples",
    "model_dir",
    "model_hparam_overrides",
    "model_name",
    "model_size",
    "n_writes_test",
    "num_tpu_cores",
    "predict_batch_size",
    "preprocessed_data_dir",
    "qa_eval_file",
    "qa_na_file",
    "qa_na_threshold",
    "qa_preds_file",
    "raw_data_dir",
    "results_pkl",
    "results_txt",
    "save_checkpoints_steps",
    "test_predictions",
    "tpu_job_name",
    "tpu_name",
    "tpu_zone",
    "use_tfrecords_if_existing",
    "use_tpu",
    "vocab_file",
    "vocab_size",
    "write_test_outputs",
];

/// Keys with rules of their own below.
const SPECIAL: &[&str] = &["task_names", "joint_prediction"];

fn known() -> impl Iterator<Item = &'static str> {
    let same = SAME.iter().map(|(name, _)| *name);
    let fixed = FIXED.iter().map(|(name, _)| *name);
    same.chain(fixed).chain(NO_EFFECT.iter().copied()).chain(SPECIAL.iter().copied())
}

/// Options with their values, and notes on keys without effect.
#[derive(Debug, Default, PartialEq)]
pub struct Translated {
    pub options: Vec<(&'static str, String)>,
    pub notes: Vec<String>,
}

/// Turns hyper-parameters for `task` (ours) into options.
///
/// Errors: unknown keys, values that Inazuma has nothing for, by the reference's name.
pub fn translate(text: &str, task: &str) -> Result<Translated> {
    let Given { hparams, command_line, notes } = reference::read(text, Program::Finetuning)?;
    for name in hparams.keys() {
        if !known().any(|known| known == name) {
            bail!(unknown(name, nearest(name, known())));
        }
    }
    for (name, only) in FIXED {
        if let Some(value) = hparams.get(*name).map(Json::to_string) {
            ensure!(value == *only, "{name} is {value}; only {only} is supported");
        }
    }
    let mut translated = Translated { options: Vec::new(), notes };
    for (theirs, ours) in SAME {
        match hparams.get(*theirs) {
            None | Some(Json::Null) => {}
            Some(Json::Number(number)) => translated.options.push((ours, plain(number))),
            Some(other) => bail!("{theirs} is {other}; it must be a number"),
        }
    }
    head(&hparams, command_line, task, &mut translated)?;
    check_task(&hparams, task)?;
    let large = hparams.get("model_size").is_some_and(|size| size == "large");
    if large {
        // The reference's defaults of this size.
        for (theirs, ours, value) in [
            ("learning_rate", "--learning-rate", "5e-5"),
            ("layerwise_lr_decay", "--layerwise-lr-decay", "0.9"),
        ] {
            if !hparams.contains_key(theirs) {
                translated.options.push((ours, value.to_owned()));
            }
        }
    }
    let unused =
        NO_EFFECT.iter().filter(|name| hparams.contains_key(**name) && !(large && **name == "model_size"));
    translated.notes.extend(unused.map(|name| format!("{name} has no meaning here and is left alone")));
    Ok(translated)
}

/// A number as our options read it: `3.0` epochs are 3.
fn plain(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        _ => number.to_string(),
    }
}

/// The head of question answering: the reference's is the joint one unless it says otherwise.
fn head(
    hparams: &Map<String, Json>,
    command_line: bool,
    task: &str,
    translated: &mut Translated,
) -> Result<()> {
    if task != "squad" {
        return Ok(());
    }
    let joint = match hparams.get("joint_prediction") {
        None if command_line => true,
        None => return Ok(()),
        Some(Json::Bool(joint)) => *joint,
        Some(other) => bail!("joint_prediction is {other}; it must be true or false"),
    };
    translated.options.push(("--head", if joint { "joint" } else { "plain" }.to_owned()));
    Ok(())
}

/// Refuses several tasks at once, and one that is not what the command was asked for.
fn check_task(hparams: &Map<String, Json>, task: &str) -> Result<()> {
    let Some(names) = hparams.get("task_names") else { return Ok(()) };
    let names = names.as_array().with_context(|| format!("task_names is {names}; it must be a list"))?;
    let [name] = &names[..] else {
        bail!("task_names has {} tasks; Inazuma trains one at a time", names.len())
    };
    let name = name.as_str().context("task_names must hold a name")?;
    let ours = match name {
        "chunk" | "ner" | "pos" => "tag",
        "sts" => "regress",
        name if name.contains("squad") || name.contains("qa") => "squad",
        _ => "classify",
    };
    ensure!(ours == task, "task_names is {name}, which is `finetune {ours}`, not `finetune {task}`");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_names_become_options() {
        let text = r#"python3 run_finetuning.py --data-dir $DATA_DIR --model-name electra_small
            --hparams '{"model_size": "small", "task_names": ["squad"], "num_train_epochs": 30.0, "learning_rate": 3e-5,
                        "max_answer_length": 512, "vocab_size": 32000}'"#;
        let translated = translate(text, "squad").unwrap();
        let expected = [
            ("--learning-rate", "0.00003"),
            ("--epochs", "30"),
            ("--max-answer-length", "512"),
            ("--head", "joint"),
        ];
        let options: Vec<(&str, &str)> = translated.options.iter().map(|(a, b)| (*a, b.as_str())).collect();
        assert_eq!(options, expected);
        assert_eq!(translated.notes.len(), 4, "{:?}", translated.notes);
        let plain = translate(r#"{"joint_prediction": false, "task_names": ["squadv1"]}"#, "squad").unwrap();
        assert_eq!(plain.options, [("--head", "plain".to_owned())]);
        let large = translate(r#"{"model_size": "large", "task_names": ["sts"]}"#, "regress").unwrap();
        assert_eq!(large.options.len(), 2);
    }

    #[test]
    fn the_table_has_every_key() {
        let table = include_str!("../../docs/import.md").split("### `run_finetuning.py`").nth(1).unwrap();
        for name in known() {
            assert!(table.contains(&format!("`{name}`")), "docs/import.md does not say what {name} is");
        }
        for (_, option) in SAME {
            assert!(table.contains(&format!("`{option}`")), "{option}");
        }
    }

    #[test]
    fn what_there_is_nothing_for_is_refused_by_name() {
        for (text, task, words) in [
            (
                r#"{"learing_rate": 1}"#,
                "squad",
                "unknown key learing_rate; the nearest known one is learning_rate",
            ),
            (r#"{"beam_size": 5}"#, "squad", "beam_size is 5; only 20"),
            (r#"{"task_names": ["mnli", "cola"]}"#, "classify", "one at a time"),
            (r#"{"task_names": ["squad"]}"#, "classify", "`finetune squad`, not `finetune classify`"),
            (r#"{"learning_rate": "x"}"#, "squad", "must be a number"),
        ] {
            let error = format!("{:#}", translate(text, task).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
