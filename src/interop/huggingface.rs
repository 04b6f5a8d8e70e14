//! Directories of Hugging Face's transformers: `config.json` and `model.safetensors` (docs/spec.md §6).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::model::{EmbeddingSharing, ModelConfig, config as sizes};

pub const CONFIG: &str = "config.json";
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub const WEIGHTS: &str = "model.safetensors";
/// What older directories have instead.
pub const TORCH_WEIGHTS: &str = "pytorch_model.bin";

/// The network whose names Hugging Face writes without a prefix, in a discriminator's directory.
const PREFIX: &str = "discriminator.";

/// The name of a part in a discriminator's or a fine-tuned model's directory.
pub fn name(part: &str) -> String {
    part.strip_prefix(PREFIX).unwrap_or(part).to_owned()
}

/// Reads the sizes of an ELECTRA discriminator (or of a model fine-tuned from one). The generator's, which the
/// file does not know, are those of a quarter of the width.
///
/// Errors: another kind of model, or options that Inazuma does not compute (another activation, relative
/// positions), by name.
pub fn read_config(directory: &Path) -> Result<ModelConfig> {
    let path = directory.join(CONFIG);
    let shown = path.display();
    let config = read_json(&path)?;
    let word =
        |key: &str, default: &str| config.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
    let kind = word("model_type", "none");
    ensure!(kind == "electra", "{shown}: model_type is {kind}, not electra");
    let activation = word("hidden_act", "gelu");
    ensure!(activation == "gelu", "{shown}: hidden_act is {activation}; only gelu is supported");
    let positions = word("position_embedding_type", "absolute");
    ensure!(
        positions == "absolute",
        "{shown}: position_embedding_type is {positions}; only absolute is supported"
    );
    let types = config.get("type_vocab_size").and_then(Value::as_u64).unwrap_or(2);
    ensure!(types == 2, "{shown}: type_vocab_size is {types}; the model has 2 segment types");
    let size = |key: &str| -> Result<usize> {
        let value = config.get(key).and_then(Value::as_u64);
        let value = value.with_context(|| format!("{shown}: {key} is missing or not a whole number"))?;
        Ok(value as usize)
    };
    let hidden_size = size("hidden_size")?;
    let generator = sizes::generator_hidden_size(hidden_size, 0.25).max(1);
    let model = ModelConfig {
        vocab_size: size("vocab_size")?,
        embedding_size: size("embedding_size")?,
        hidden_size,
        layers: size("num_hidden_layers")?,
        heads: size("num_attention_heads")?,
        ffn_size: size("intermediate_size")?,
        max_positions: size("max_position_embeddings")?,
        generator_hidden_size: generator,
        generator_layers: size("num_hidden_layers")?,
        generator_heads: sizes::generator_heads(generator),
        generator_ffn_size: sizes::generator_ffn_size(generator),
        embedding_sharing: EmbeddingSharing::Shared,
    };
    model.validate().with_context(|| format!("{shown}"))?;
    Ok(model)
}

/// The id that a directory's configuration pads with, where it says one.
pub fn padding(directory: &Path) -> Result<Option<u64>> {
    Ok(read_json(&directory.join(CONFIG))?.get("pad_token_id").and_then(Value::as_u64))
}

/// Whether texts are lower-cased before a directory's tokenizer, where it says so.
pub fn lower(directory: &Path) -> Result<Option<bool>> {
    let path = directory.join(TOKENIZER_CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    Ok(read_json(&path)?.get("do_lower_case").and_then(Value::as_bool))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: not JSON", path.display()))
}

/// The `config.json` of the discriminator's encoder under one of Hugging Face's classes.
///
/// `pad` is the vocabulary's `[PAD]`: the default, 0, would freeze `<unk>`. transformers 5 takes each key's own type
/// alone: a float, a string or a null where it wants a whole number is an error.
pub fn config(model: &ModelConfig, architecture: &str, pad: u32, dropout: f64) -> Value {
    json!({
        "architectures": [architecture],
        "model_type": "electra",
        "vocab_size": model.vocab_size,
        "embedding_size": model.embedding_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn_size,
        "max_position_embeddings": model.max_positions,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout": dropout,
        "summary_type": "first",
        "summary_use_proj": true,
        "summary_activation": "gelu",
        "summary_last_dropout": dropout,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "dtype": "float32",
        "tie_word_embeddings": true,
        "pad_token_id": pad,
        "bos_token_id": null,
        "eos_token_id": null,
    })
}
