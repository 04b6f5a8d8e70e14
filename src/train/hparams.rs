//! `--hparams`: the reference implementation's key names (google-research/electra, `configure_pretraining.py`,
//! `util/training_utils.py`), turned into ours.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value as Json};

use crate::batch::masking;

use super::key::{Reference, Value};
use super::keys::{keys, nearest, unknown};
use super::presets::preset;
use super::reference::Given;
use super::settings::Settings;

/// Our keys by their names in the reference's hyper-parameters.
fn same() -> impl Iterator<Item = (&'static str, &'static str)> {
    keys().filter_map(|key| match key.reference {
        Reference::Top(name) | Reference::Both(name) => Some((name, key.name)),
        Reference::Nowhere | Reference::Override(_) => None,
    })
}

/// The same for those of `model_hparam_overrides`.
fn overridden() -> impl Iterator<Item = (&'static str, &'static str)> {
    keys().filter_map(|key| match key.reference {
        Reference::Override(name) | Reference::Both(name) => Some((name, key.name)),
        Reference::Nowhere | Reference::Top(_) => None,
    })
}

/// Keys with the one value that Inazuma can do.
const FIXED: &[(&str, bool)] = &[
    ("do_train", true),
    ("electra_objective", true),
    ("electric_objective", false),
    ("two_tower_generator", false),
    ("uniform_generator", false),
    ("untied_generator_embeddings", false),
    ("untied_generator", true),
    ("disallow_correct", false),
];

/// Keys about TensorFlow, TPUs and places of files: accepted, without effect.
const NO_EFFECT: &[&str] = &[
    "do_eval",
    "do_lower_case",
    "eval_batch_size",
    "gcp_project",
    "iterations_per_loop",
    "model_dir",
    "model_name",
    "data_dir",
    "num_eval_steps",
    "num_tpu_cores",
    "pretrain_tfrecords",
    "results_pkl",
    "results_txt",
    "tpu_job_name",
    "tpu_name",
    "tpu_zone",
    "use_tpu",
    "vocab_file",
];

/// Keys with rules of their own below.
const SPECIAL: &[&str] =
    &["model_size", "model_hparam_overrides", "generator_layers", "max_predictions_per_seq", "debug"];

/// What `model_size` may be: presets of ours.
const MODEL_SIZES: [&str; 3] = ["small", "base", "large"];

fn known() -> impl Iterator<Item = &'static str> {
    let renamed = same().map(|(name, _)| name);
    let fixed = FIXED.iter().map(|(name, _)| *name);
    renamed.chain(fixed).chain(NO_EFFECT.iter().copied()).chain(SPECIAL.iter().copied())
}

/// Applies hyper-parameters; returns notes on keys and options without effect.
pub fn apply(settings: &mut Settings, given: Given) -> Result<Vec<String>> {
    let Given { hparams, notes, .. } = given;
    for name in hparams.keys() {
        if !known().any(|known| known == name) {
            bail!(unknown(name, nearest(name, known())));
        }
    }
    for (name, wanted) in FIXED {
        match hparams.get(*name) {
            Some(value) if value != *wanted => bail!("{name} is {value}; only {wanted} is supported"),
            _ => {}
        }
    }
    if hparams.get("debug") == Some(&Json::Bool(true)) {
        settings.set_value("batch_size", Value::Whole(8))?;
        settings.set_value("steps", Value::Whole(20))?;
    }
    model(settings, &hparams)?;
    for (theirs, ours) in same() {
        set(settings, &hparams, theirs, ours)?;
    }
    if let Some(value) = hparams.get("generator_layers") {
        let Some(fraction) = value.as_f64().filter(|x| *x > 0.0) else {
            bail!("generator_layers is {value}; it must be a fraction of the discriminator's layers")
        };
        let layers = (settings.whole("model.layers")? as f64 * fraction).round_ties_even();
        settings.set_value("model.generator_layers", Value::Number(layers)).context("generator_layers")?;
    }
    if let Some(value) = hparams.get("max_predictions_per_seq") {
        let slots = masking::slots(settings.number("mask_probability")?, settings.size("max_length")?);
        ensure!(
            value.as_u64() == Some(slots as u64),
            "max_predictions_per_seq is {value}; it follows from mask_prob and max_seq_length and is {slots}"
        );
    }
    let unused = NO_EFFECT.iter().filter(|name| hparams.contains_key(**name));
    let notes =
        notes.into_iter().chain(unused.map(|name| format!("{name} has no meaning here and is left alone")));
    Ok(notes.map(|note| format!("--hparams: {note}")).collect())
}

/// `model_size` and `model_hparam_overrides`: heads and feed-forward width follow the hidden size unless given.
fn model(settings: &mut Settings, hparams: &Map<String, Json>) -> Result<()> {
    let empty = Map::new();
    let overrides = match hparams.get("model_hparam_overrides") {
        None | Some(Json::Null) => &empty,
        Some(Json::Object(overrides)) => overrides,
        Some(other) => bail!("model_hparam_overrides is {other}; it must be an object"),
    };
    let mut hidden = None;
    if let Some(size) = hparams.get("model_size") {
        let Some(size) = size.as_str().filter(|size| MODEL_SIZES.contains(size)) else {
            bail!("model_size is {size}; it must be \"small\", \"base\" or \"large\"")
        };
        let sizes = preset(size)?;
        for name in ["model.hidden_size", "model.layers", "model.embedding_size"] {
            settings.set_value(name, Value::Whole(sizes.whole(name)?))?;
        }
        hidden = Some(sizes.whole("model.hidden_size")?);
    }
    if let Some(width) = overrides.get("hidden_size").and_then(Json::as_u64) {
        hidden = Some(width);
    }
    if let Some(width) = hidden {
        settings.set_value("model.heads", Value::Whole((width / 64).max(1)))?;
        settings.set_value("model.ffn_size", Value::Whole(4 * width))?;
    }
    for (name, value) in overrides {
        let fixed = match name.as_str() {
            "hidden_act" => Some((value == "gelu", "\"gelu\"")),
            "type_vocab_size" => Some((value == 2, "2")),
            "initializer_range" => Some((value == 0.02, "0.02")),
            _ => None,
        };
        match fixed {
            Some((true, _)) => continue,
            Some((false, only)) => {
                bail!("model_hparam_overrides: {name} is {value}; only {only} is supported")
            }
            None => {}
        }
        let Some((theirs, ours)) = overridden().find(|(theirs, _)| theirs == name) else {
            let nearest = nearest(name, overridden().map(|(theirs, _)| theirs));
            bail!("model_hparam_overrides: {}", unknown(name, nearest))
        };
        set(settings, overrides, theirs, ours).context("model_hparam_overrides")?;
    }
    // The generator has as many layers as the discriminator unless a fraction says otherwise, and a width
    // that was given as a number before would no longer fit.
    if hidden.is_some() || overrides.contains_key("num_hidden_layers") {
        let layers = settings.whole("model.layers")?;
        settings.set_value("model.generator_layers", Value::Whole(layers))?;
    }
    Ok(())
}

/// Our key from their value; errors speak of their key.
fn set(settings: &mut Settings, hparams: &Map<String, Json>, theirs: &str, ours: &str) -> Result<()> {
    let value = match hparams.get(theirs) {
        // The reference's None: the default.
        None | Some(Json::Null) => return Ok(()),
        Some(Json::Number(number)) => match number.as_u64() {
            Some(n) => Value::Whole(n),
            None => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Some(Json::String(word)) => Value::Word(word.clone()),
        Some(other) => bail!("{theirs} is {other}; it must be a number"),
    };
    settings.set_value(ours, value).with_context(|| theirs.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_key() {
        let page = include_str!("../../docs/import.md");
        let table = page.split("### `run_pretraining.py`").nth(1).unwrap();
        let table = table.split("### `run_finetuning.py`").next().unwrap();
        for name in known().chain(overridden().map(|(theirs, _)| theirs)) {
            assert!(table.contains(&format!("`{name}`")), "docs/import.md does not say what {name} is");
        }
    }
}
