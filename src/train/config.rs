//! What a run does: presets, TOML, `--hparams` and `--set`, in this order of precedence (docs/spec.md §2, docs/cli.md).

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::batch::masking;
use crate::model::{Mode, ModelConfig, OptimizerOptions, StepOptions, config as sizes};

use super::hparams;
use super::key::Value;
use super::keys::{GENERATOR_FRACTION, MODEL_PREFIX, RunValues, keys};
use super::metrics::LossWeights;
use super::presets::{DEFAULT_PRESET, preset};
use super::reference::{self, Program};
use super::settings::Settings;

/// Where a run's configuration comes from; each member overrides those before it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub preset: Option<String>,
    pub file: Option<PathBuf>,
    /// JSON with the reference implementation's key names, the path of a `.json` file of it, or a command line.
    pub hparams: Option<String>,
    /// `key=value` each.
    pub set: Vec<String>,
}

/// A key of the model's sizes and its value.
pub type Size = (String, u64);

impl Sources {
    /// All settings, not yet resolved, and notes for the user about what has no effect here.
    pub fn settings(&self) -> Result<(Settings, Vec<String>)> {
        self.settings_for(&[])
    }

    /// The same of a run that begins with a model of these sizes: they hold unless a preset is named or they are set.
    pub fn settings_for(&self, sizes: &[Size]) -> Result<(Settings, Vec<String>)> {
        let read = |text: &String| reference::read(text, Program::Pretraining).context("--hparams");
        let given = self.hparams.as_ref().map(read).transpose()?;
        // A command line of the reference means its defaults, which are those of the paper.
        let default =
            if given.as_ref().is_some_and(|given| given.command_line) { "small-128" } else { DEFAULT_PRESET };
        let mut settings = preset(self.preset.as_deref().unwrap_or(default))?;
        let sizes = if self.preset.is_none() { sizes } else { &[] };
        for (name, size) in sizes.iter().filter(|(name, _)| name != "model.vocab_size") {
            settings.set_value(name, Value::Whole(*size))?;
        }
        if let Some(path) = &self.file {
            settings.set_file(path)?;
        }
        let notes = match given {
            Some(given) => hparams::apply(&mut settings, given).context("--hparams")?,
            None => Vec::new(),
        };
        self.assign(&mut settings)?;
        Ok((settings, notes))
    }

    /// Applies `--set` alone.
    pub fn assign(&self, settings: &mut Settings) -> Result<()> {
        settings.set_texts(self.set.iter().map(String::as_str)).context("--set")
    }
}

/// What resolving needs to know from outside.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Pieces of the store's tokenizer.
    pub vocab_size: usize,
    /// Whether a GPU runs the plan; decides `micro_batch` where it is not given.
    pub gpu: bool,
}

/// A resolved configuration: nothing is left to derive, everything is checked. It dereferences to the values of its
/// keys, `config.steps`.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub model: ModelConfig,
    values: RunValues,
    settings: Settings,
}

impl Deref for TrainConfig {
    type Target = RunValues;

    fn deref(&self) -> &RunValues {
        &self.values
    }
}

/// Positions of a micro-batch: enough to fill a GPU; on a processor, what stays near its caches.
const GPU_POSITIONS: usize = 8192;
const CPU_POSITIONS: usize = 2048;

/// Sequences per micro-batch: the fewest micro-batches within the positions, and those of one size.
fn micro_batch(batch_size: usize, max_length: usize, gpu: bool) -> usize {
    let positions = if gpu { GPU_POSITIONS } else { CPU_POSITIONS };
    let most = (positions / max_length).max(1);
    batch_size.div_ceil(batch_size.div_ceil(most))
}

impl TrainConfig {
    /// Derives what is absent and checks everything; errors name the key.
    pub fn resolve(mut settings: Settings, surroundings: Surroundings) -> Result<Self> {
        let vocab_size = surroundings.vocab_size;
        if let Some(Value::Whole(given)) = settings.get("model.vocab_size") {
            ensure!(
                *given == vocab_size as u64,
                "model.vocab_size is {given}, but the store's tokenizer has {vocab_size} pieces; leave it out"
            );
        }
        settings.set_value("model.vocab_size", Value::Whole(vocab_size as u64))?;
        let model = resolve_model(&mut settings)?;
        let (batch_size, max_length) = (settings.size("batch_size")?, settings.size("max_length")?);
        ensure!(
            max_length <= model.max_positions,
            "max_length is {max_length}; it must be at most model.max_positions, which is {}",
            model.max_positions
        );
        if settings.get("micro_batch").is_none() {
            let micro_batch = micro_batch(batch_size, max_length, surroundings.gpu);
            settings.set_value("micro_batch", Value::Whole(micro_batch as u64))?;
        }
        // One larger than the batch means all of it.
        let micro_batch = settings.size("micro_batch")?.min(batch_size);
        settings.set_value("micro_batch", Value::Whole(micro_batch as u64))?;
        let values = RunValues::read(|name| settings.get(name))?;
        ensure!(
            masking::slots(values.mask_probability, max_length) > 0,
            "mask_probability is {}: at max_length {max_length} nothing would be masked",
            values.mask_probability
        );
        Ok(TrainConfig { model, values, settings })
    }

    /// Reads the `config.toml` of a run, which is resolved already. Keys that there were not yet when the run began have
    /// their defaults.
    pub fn load(path: &Path) -> Result<Settings> {
        let mut settings = Settings::defaults()?;
        settings.remove(GENERATOR_FRACTION);
        settings.set_file(path)?;
        Ok(settings)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn loss_weights(&self) -> LossWeights {
        LossWeights {
            generator: f64::from(self.generator_weight),
            discriminator: f64::from(self.discriminator_weight),
        }
    }

    /// The most masked slots a sequence has.
    pub fn slots(&self) -> usize {
        masking::slots(self.mask_probability, self.max_length)
    }

    /// What is fixed when the plan of a step is built.
    pub fn step_options(&self) -> StepOptions {
        StepOptions {
            mode: Mode::Train,
            dropout: self.dropout,
            attention_dropout: self.attention_dropout,
            generator_weight: self.generator_weight,
            discriminator_weight: self.discriminator_weight,
            temperature: self.temperature,
            precision: self.precision,
            optimizer: OptimizerOptions {
                clip_norm: self.clip_norm,
                adam_beta1: self.adam_beta1,
                adam_beta2: self.adam_beta2,
                adam_epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
        }
    }
}

/// Fills in the generator's sizes; the fraction itself does not stay, the sizes say more.
fn resolve_model(settings: &mut Settings) -> Result<ModelConfig> {
    let derive = |settings: &mut Settings, name: &str, value: usize| match settings.get(name) {
        Some(_) => Ok(()),
        None => settings.set_value(name, Value::Whole(value as u64)),
    };
    if settings.get("model.generator_hidden_size").is_none() {
        let hidden = settings.size("model.hidden_size")?;
        let fraction = settings.number(GENERATOR_FRACTION)?;
        let size = sizes::generator_hidden_size(hidden, fraction);
        ensure!(size > 0, "{GENERATOR_FRACTION} is {fraction}: the generator would have no width");
        derive(settings, "model.generator_hidden_size", size)?;
    }
    settings.remove(GENERATOR_FRACTION);
    let generator = settings.size("model.generator_hidden_size")?;
    derive(settings, "model.generator_heads", sizes::generator_heads(generator))?;
    derive(settings, "model.generator_ffn_size", sizes::generator_ffn_size(generator))?;
    // The remaining keys of the model are the fields of its configuration.
    let mut fields = serde_json::Map::new();
    for name in keys().map(|key| key.name).filter(|name| *name != GENERATOR_FRACTION) {
        if let Some(field) = name.strip_prefix(MODEL_PREFIX) {
            let value = settings.get(name).with_context(|| format!("the configuration lacks {name}"))?;
            fields.insert(field.to_owned(), value.into());
        }
    }
    let model: ModelConfig = serde_json::from_value(fields.into())?;
    model.validate()?;
    Ok(model)
}

#[cfg(test)]
mod tests;
