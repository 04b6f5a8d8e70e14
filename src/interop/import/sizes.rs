//! The sizes of a model that is imported: from a configuration where there is one, else from its tensors.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::interop::huggingface;
use crate::model::{EmbeddingSharing, ModelConfig, config as sizes};

use super::origin::{Kind, Origin};

const WORDS: &str = "discriminator.electra.embeddings.word_embeddings.weight";
const POSITIONS: &str = "discriminator.electra.embeddings.position_embeddings.weight";

/// What the user says of heads, which no tensor shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heads {
    pub discriminator: Option<usize>,
    pub generator: Option<usize>,
}

/// Sizes of one network.
struct Network {
    hidden: usize,
    layers: usize,
    ffn: usize,
}

/// Of Hugging Face directories.
pub fn of_directories(
    origin: &Origin,
    discriminator: &Path,
    generator: Option<&Path>,
    heads: Heads,
    notes: &mut Vec<String>,
) -> Result<ModelConfig> {
    let mut model = huggingface::read_config(discriminator)?;
    model.heads = heads.discriminator.unwrap_or(model.heads);
    if let Some(directory) = generator {
        if directory.join(huggingface::CONFIG).is_file() {
            let own = huggingface::read_config(directory)?;
            for (key, own, other) in [
                ("vocab_size", own.vocab_size, model.vocab_size),
                ("embedding_size", own.embedding_size, model.embedding_size),
                ("max_position_embeddings", own.max_positions, model.max_positions),
            ] {
                let shown = directory.display();
                ensure!(
                    own == other,
                    "{shown}: {key} is {own}, the discriminator's is {other}; they share their embeddings"
                );
            }
            model.generator_hidden_size = own.hidden_size;
            model.generator_layers = own.layers;
            model.generator_ffn_size = own.ffn_size;
            model.generator_heads = heads.generator.unwrap_or(own.heads);
        } else {
            let network = network(origin, "generator")
                .with_context(|| format!("{}: has no generator's encoder", directory.display()))?;
            set_generator(&mut model, &network, heads, notes);
        }
    }
    model.validate()?;
    Ok(model)
}

/// Of a checkpoint without any configuration.
pub fn of_tensors(origin: &Origin, heads: Heads, notes: &mut Vec<String>) -> Result<ModelConfig> {
    let shown = origin.path().display();
    let table = |part: &str| match origin.shape(part, Kind::Value).as_deref() {
        Some(&[rows, columns]) => Ok((rows, columns)),
        _ => Err(anyhow::anyhow!("{shown}: there is no table {part}; is it a checkpoint of ELECTRA?")),
    };
    let (vocab_size, embedding_size) = table(WORDS)?;
    let (max_positions, _) = table(POSITIONS)?;
    let own = network(origin, "discriminator");
    let own = own.with_context(|| format!("{shown}: has no encoder; is it a checkpoint of ELECTRA?"))?;
    let quarter = sizes::generator_hidden_size(own.hidden, 0.25).max(1);
    let mut model = ModelConfig {
        vocab_size,
        embedding_size,
        hidden_size: own.hidden,
        layers: own.layers,
        heads: heads.discriminator.unwrap_or_else(|| guessed(own.hidden, "heads", "--heads", notes)),
        ffn_size: own.ffn,
        max_positions,
        generator_hidden_size: quarter,
        generator_layers: own.layers,
        generator_heads: sizes::generator_heads(quarter),
        generator_ffn_size: sizes::generator_ffn_size(quarter),
        embedding_sharing: EmbeddingSharing::Shared,
    };
    if let Some(network) = network(origin, "generator") {
        set_generator(&mut model, &network, heads, notes);
    }
    model.validate().with_context(|| shown.to_string())?;
    Ok(model)
}

fn set_generator(model: &mut ModelConfig, network: &Network, heads: Heads, notes: &mut Vec<String>) {
    model.generator_hidden_size = network.hidden;
    model.generator_layers = network.layers;
    model.generator_ffn_size = network.ffn;
    let guess = || guessed(network.hidden, "generator's heads", "--generator-heads", notes);
    model.generator_heads = heads.generator.unwrap_or_else(guess);
}

/// Heads of 64, as the released models have them.
fn guessed(hidden: usize, what: &str, option: &str, notes: &mut Vec<String>) -> usize {
    let heads = sizes::generator_heads(hidden);
    notes.push(format!("{what}: {heads}, guessed at 64 wide; nothing in the source says it ({option} does)"));
    heads
}

/// What the tensors of a network's encoder say, if there are any.
fn network(origin: &Origin, network: &str) -> Option<Network> {
    let length = |layer: usize, name: &str| {
        let part = format!("{network}.electra.encoder.layer.{layer}.{name}");
        match origin.shape(&part, Kind::Value).as_deref() {
            Some(&[length]) => Some(length),
            _ => None,
        }
    };
    let layers = (0..).take_while(|&layer| length(layer, "attention.self.query.bias").is_some()).count();
    Some(Network {
        hidden: length(0, "attention.self.query.bias")?,
        layers,
        ffn: length(0, "intermediate.dense.bias")?,
    })
}
