//! A run's two networks as two directories: `discriminator` (`ElectraForPreTraining`), `generator`
//! (`ElectraForMaskedLM`). The embeddings that they share stand in both; a delta of the discriminator's is added up.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::files::parse_toml;
use crate::interop::checkpoint::{self, CONFIG, State, StoreIdentity, TOKENIZER};
use crate::interop::huggingface;
use crate::interop::provenance::Provenance;
use crate::interop::weights::WeightFile;
use crate::model::sharing::TABLES;
use crate::model::{EmbeddingSharing, ModelConfig};
use crate::tokenizer::{SpecialIds, Tokenizer};

use super::card::{Card, code, table};
use super::{Contents, NewDirectory, Options};

/// A network of a run.
struct Network {
    name: &'static str,
    class: &'static str,
    pipeline_tag: &'static str,
    about: &'static str,
}

const NETWORKS: [Network; 2] = [
    Network {
        name: "discriminator",
        class: "ElectraForPreTraining",
        pipeline_tag: "feature-extraction",
        about: "An ELECTRA discriminator for Japanese: the encoder to fine-tune. It says of each token of a text \
                whether another was there before.",
    },
    Network {
        name: "generator",
        class: "ElectraForMaskedLM",
        pipeline_tag: "fill-mask",
        about: "An ELECTRA generator for Japanese: it guesses masked tokens. It was trained to make the discriminator \
                that stands beside it work, which is the better encoder. In a text, \"[MASK]\" is text; to have it read \
                as the symbol, load the tokenizer with `split_special_tokens=False`.",
    },
];

/// A run or one of its checkpoints, as it is exported.
struct Run {
    /// The run's directory.
    path: PathBuf,
    model: ModelConfig,
    weights: WeightFile,
    state: State,
    /// Nothing where texts came as ready-made ids.
    tokenizer: Option<Tokenizer>,
    special: SpecialIds,
    dropout: f64,
    /// Of an imported model, and of a run that began with another model.
    provenance: Option<Provenance>,
}

/// The directory of the run and that of the checkpoint which `path` means; nothing where it is neither.
pub fn locate(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if checkpoint::is_run(path) {
        return Ok(Some((path.to_owned(), checkpoint::latest(path)?)));
    }
    if !checkpoint::is_checkpoint(path) {
        return Ok(None);
    }
    let run = checkpoint::run_of(path)?;
    Ok(Some((run, path.to_owned())))
}

/// Writes the directories of `run`, whose checkpoint is `checkpoint`, under `out`; returns their names.
pub fn export(run: &Path, checkpoint: &Path, out: &Path, options: &Options) -> Result<Vec<&'static str>> {
    let run = Run::open(run, checkpoint)?;
    let names = run.weights.names()?;
    let directory = NewDirectory::create(out)?;
    let mut written = Vec::new();
    for network in NETWORKS {
        // An imported model may lack its generator.
        if names.iter().any(|name| name.starts_with(&format!("{}.electra.encoder.", network.name))) {
            run.write(&network, &directory.folder(network.name)?, options)?;
            written.push(network.name);
        }
    }
    directory.finish()?;
    Ok(written)
}

impl Run {
    fn open(run: &Path, checkpoint: &Path) -> Result<Self> {
        let state = checkpoint::state(checkpoint)?;
        let (tokenizer, special) = match checkpoint::vocabulary(run)? {
            Some(ready_made) => (None, ready_made.special),
            None => {
                let tokenizer = Tokenizer::open(&run.join(TOKENIZER), state.lower)?;
                let special = tokenizer.special_ids()?;
                (Some(tokenizer), special)
            }
        };
        let path = run.join(CONFIG);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: toml::Table = parse_toml(&text).with_context(|| path.display().to_string())?;
        // An imported model's configuration has sizes alone.
        let dropout = config.get("dropout").and_then(toml::Value::as_float).unwrap_or(0.1);
        let (model, weights) = checkpoint::plain(run, checkpoint)?;
        Ok(Run {
            path: run.to_owned(),
            model,
            weights,
            state,
            tokenizer,
            special,
            dropout,
            provenance: Provenance::read(run)?,
        })
    }

    fn write(&self, network: &Network, directory: &Path, options: &Options) -> Result<()> {
        let own = format!("{}.", network.name);
        let shares = self.model.embedding_sharing == EmbeddingSharing::Shared;
        let rename = |name: &str| match network.name {
            "generator" if shares && name.starts_with(TABLES) => {
                name.strip_prefix("discriminator.").map(str::to_owned)
            }
            _ => name.strip_prefix(&own).map(str::to_owned),
        };
        let model = match network.name {
            "generator" => generator(&self.model),
            _ => self.model.clone(),
        };
        let head = format!("{own}{}_predictions.", network.name);
        let complete = self.weights.names()?.iter().any(|name| name.starts_with(&head));
        // An imported model may lack its head; its encoder is loaded all the same.
        let class = if complete { network.class } else { "ElectraModel" };
        let contents = Contents {
            config: huggingface::config(&model, class, self.special.pad, self.dropout),
            weights: &self.weights,
            rename: &rename,
            tokenizer: self.tokenizer.as_ref(),
            max_length: model.max_positions,
            card: self.card(network, &model, options)?,
        };
        contents.write(directory, options)
    }

    fn card(&self, network: &Network, model: &ModelConfig, options: &Options) -> Result<Card> {
        let State { step, tokens, tokenizer, store, .. } = &self.state;
        let mut naming = options.naming.clone();
        naming.name = format!("{} {}", naming.name, network.name);
        let base_model = self.provenance.as_ref().and_then(Provenance::base_model);
        naming.base_model = naming.base_model.or_else(|| base_model.map(str::to_owned));
        let mut sections = vec![("Sizes", sizes(model))];
        sections.extend(self.provenance.as_ref().map(|from| ("Made from", made_from(from))));
        // A model of others, as it was imported, does not know what it was trained on.
        let known = *store != StoreIdentity::default();
        sections.push(("Training data", data(known.then_some(store), tokenizer)));
        let mut trained = vec![("steps".to_owned(), step.to_string())];
        trained.extend(known.then(|| ("tokens, without padding".to_owned(), tokens.to_string())));
        let trained = table(["what", "how much"], trained);
        sections.push(("Training", format!("{trained}{}", curve(&self.records("metrics.jsonl")))));
        if let Some(last) = self.records("eval.jsonl").last() {
            sections.push(("Held-out text", evaluation(last)));
        }
        sections.push(("The command", self.command()?));
        Ok(Card {
            naming,
            pipeline_tag: Some(network.pipeline_tag),
            about: network.about.to_owned(),
            sections,
            results: None,
        })
    }

    /// The commands that make it again, but for where things lie.
    fn command(&self) -> Result<String> {
        let mut lines = Vec::new();
        let mut init = String::new();
        if let Some(from) = &self.provenance {
            let imported = from.init_step().is_none() || from.format() != "run";
            if imported {
                let generator = from.generator_source().map(|name| format!(" --generator {name}"));
                let (source, generator) = (from.source(), generator.unwrap_or_default());
                lines.push(format!("inazuma import {source}{generator} --out IMPORTED"));
            }
            let Some(step) = from.init_step() else { return Ok(code("sh", &lines.join("\n"))) };
            let name = if imported { "IMPORTED" } else { from.source() };
            init = format!(" --init {name} --init-step {step}");
        }
        let file = self.path.join(CONFIG);
        let config = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        lines.push(match &self.state.decay_from {
            None => format!("inazuma pretrain --store STORE --config config.toml{init} --out RUN"),
            Some(from) => {
                let steps = config.lines().find_map(|line| line.strip_prefix("steps = ")).unwrap_or_default();
                format!(
                    "inazuma pretrain --store STORE --decay-from {}/checkpoints/step-{:08} --set steps={steps} --out RUN",
                    from.run, from.step
                )
            }
        });
        Ok(format!("{}\n`config.toml`:\n\n{}", code("sh", &lines.join("\n")), code("toml", &config)))
    }

    /// The lines of a file of JSON lines up to the checkpoint's step, without those that are damaged.
    fn records(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path.join(name)).unwrap_or_default();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let upto = |record: &Value| record["step"].as_u64().is_some_and(|step| step <= self.state.step);
        records.filter(upto).collect()
    }
}

/// The generator's sizes as those of a model of its own.
fn generator(model: &ModelConfig) -> ModelConfig {
    ModelConfig {
        hidden_size: model.generator_hidden_size,
        layers: model.generator_layers,
        heads: model.generator_heads,
        ffn_size: model.generator_ffn_size,
        ..model.clone()
    }
}

/// Of a card: the sizes of an encoder.
pub fn sizes(model: &ModelConfig) -> String {
    let rows = [
        ("layers", model.layers),
        ("hidden size", model.hidden_size),
        ("attention heads", model.heads),
        ("feed-forward size", model.ffn_size),
        ("embedding size", model.embedding_size),
        ("pieces of the vocabulary", model.vocab_size),
        ("positions", model.max_positions),
    ];
    table(["what", "size"], rows.map(|(name, size)| (name.to_owned(), size.to_string())))
}

fn made_from(from: &Provenance) -> String {
    let rows = [
        ("model", Some(from.source().to_owned())),
        ("its generator", from.generator_source().map(str::to_owned)),
        ("format", Some(from.format().to_owned())),
        ("the schedule began at step", from.init_step().map(|step| step.to_string())),
    ];
    table(["what", "value"], rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))))
}

/// The store may be unknown.
fn data(store: Option<&StoreIdentity>, tokenizer: &str) -> String {
    let rows = [
        ("documents", store.map(|store| store.documents.to_string())),
        ("lines", store.map(|store| store.lines.to_string())),
        ("tokens", store.map(|store| store.tokens.to_string())),
        (
            "CRC-32 of the store's header, which has the checksums of the rest",
            store.map(|store| store.crc.clone()),
        ),
        ("SHA-256 of the tokenizer", Some(tokenizer.to_owned())),
    ];
    table(["what", "value"], rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))))
}

/// At most ten lines of the losses on the way, evenly spread.
fn curve(records: &[Value]) -> String {
    const LINES: usize = 10;
    let Some(last) = records.len().checked_sub(1) else { return String::new() };
    let lines = LINES.min(records.len());
    let mut text = String::from(
        "\n| step | loss | masked-LM loss | discriminator's loss | AUC |\n|---|---|---|---|---|\n",
    );
    for line in 0..lines {
        let record = &records[if lines > 1 { line * last / (lines - 1) } else { last }];
        let number = |key: &str| record[key].as_f64().map_or("".into(), |x| format!("{x:.4}"));
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            record["step"],
            number("loss"),
            number("mlm_loss"),
            number("disc_loss"),
            number("disc_auc")
        ));
    }
    text
}

fn evaluation(record: &Value) -> String {
    let fields = record.as_object().into_iter().flatten();
    let shown = fields.map(|(key, value)| {
        let value =
            value.as_f64().filter(|_| !value.is_u64()).map_or(value.to_string(), |x| format!("{x:.4}"));
        (format!("`{key}`"), value)
    });
    table(["what", "value"], shown)
}

/// The name of a directory that is exported to, for its card.
pub fn name_of(out: &Path) -> String {
    let absolute = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    absolute.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
