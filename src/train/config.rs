//! What a run does: presets, TOML, `--hparams` and `--set`, in this order of precedence (SPEC.md §2, CLI.md).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::batch::masking;
use crate::model::{Mode, ModelConfig, OptimizerOptions, StepOptions, config as sizes};
use crate::tensor::Precision;

use super::hparams;
use super::metrics::LossWeights;
use super::settings::{Settings, Value, nearest};

/// The preset of a run that names none.
pub const DEFAULT_PRESET: &str = "small";

/// What all presets share unless they say otherwise: the system being replaced.
const SMALL: &str = "
steps = 1_000_000
batch_size = 64
max_length = 512
learning_rate = 5e-4
warmup_steps = 10_000
lr_decay_power = 1.0
weight_decay = 0.01
clip_norm = 1.0
adam_beta1 = 0.9
adam_beta2 = 0.999
adam_epsilon = 1e-6
mask_probability = 0.15
generator_weight = 1.0
discriminator_weight = 50.0
temperature = 1.0
dropout = 0.1
attention_dropout = 0.1
seed = 1
log_every = 100
checkpoint_every = 1000
keep = 3
eval_every = 0
eval_sequences = 1024
precision = 'f32'
[model]
embedding_size = 128
hidden_size = 256
layers = 12
heads = 4
ffn_size = 1024
max_positions = 512
generator_fraction = 0.25
generator_layers = 12
";

/// Each preset as its difference to `small`.
const PRESETS: &[(&str, &str)] = &[
    (
        "tiny",
        "steps = 300\nbatch_size = 16\nmax_length = 128\nlearning_rate = 5e-4\nwarmup_steps = 20\n\
         log_every = 10\ncheckpoint_every = 100\n\
         [model]\nembedding_size = 64\nhidden_size = 128\nlayers = 4\nheads = 4\nffn_size = 512\n\
         max_positions = 128\ngenerator_fraction = 0.25\ngenerator_layers = 4\n",
    ),
    ("small", ""),
    ("small-128", "max_length = 128\nbatch_size = 128\n"),
    ("small-plus-plus", "[model]\ngenerator_fraction = 1.0\n"),
    (
        "base",
        "steps = 766_000\nbatch_size = 256\nlearning_rate = 2e-4\n\
         [model]\nembedding_size = 768\nhidden_size = 768\nheads = 12\nffn_size = 3072\n\
         generator_fraction = 0.3333333333333333\n",
    ),
    (
        "large",
        "steps = 400_000\nbatch_size = 2048\nlearning_rate = 2e-4\nmask_probability = 0.25\n\
         [model]\nembedding_size = 1024\nhidden_size = 1024\nlayers = 24\nheads = 16\nffn_size = 4096\n\
         generator_fraction = 0.25\ngenerator_layers = 24\n",
    ),
];

/// Names of the presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// Where a run's configuration comes from; each member overrides those before it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub preset: Option<String>,
    pub file: Option<PathBuf>,
    /// JSON with the reference implementation's key names, or the path of a `.json` file of it.
    pub hparams: Option<String>,
    /// `key=value` each.
    pub set: Vec<String>,
}

impl Sources {
    /// All settings, not yet resolved, and notes for the user about what has no effect here.
    pub fn settings(&self) -> Result<(Settings, Vec<String>)> {
        let mut settings = preset(self.preset.as_deref().unwrap_or(DEFAULT_PRESET))?;
        if let Some(path) = &self.file {
            settings.set_file(path)?;
        }
        let notes = match &self.hparams {
            Some(text) => hparams::apply(&mut settings, text).context("--hparams")?,
            None => Vec::new(),
        };
        self.assign(&mut settings)?;
        Ok((settings, notes))
    }

    /// Applies `--set` alone.
    pub fn assign(&self, settings: &mut Settings) -> Result<()> {
        // What the fraction decides can be given beside it, in any order.
        let (fraction, others): (Vec<_>, Vec<_>) =
            self.set.iter().partition(|text| text.starts_with("model.generator_fraction"));
        for assignment in fraction.into_iter().chain(others) {
            settings.set_text(assignment).context("--set")?;
        }
        Ok(())
    }
}

/// The settings of a preset.
pub fn preset(name: &str) -> Result<Settings> {
    let Some((_, difference)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = preset_names().collect();
        bail!(
            "there is no preset {name}; did you mean {}? There are {}",
            nearest(name, preset_names()),
            names.join(", ")
        )
    };
    let mut settings = Settings::default();
    settings.set_toml(SMALL)?;
    settings.set_toml(difference)?;
    Ok(settings)
}

/// What resolving needs to know from outside.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Pieces of the store's tokenizer.
    pub vocab_size: usize,
    /// Whether a GPU runs the plan; decides `micro_batch` where it is not given.
    pub gpu: bool,
}

/// A resolved configuration: nothing is left to derive, everything is checked.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub model: ModelConfig,
    pub steps: u64,
    /// Sequences per step, and per micro-batch.
    pub batch_size: usize,
    pub micro_batch: usize,
    pub max_length: usize,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub lr_decay_power: f64,
    pub mask_probability: f64,
    pub seed: u64,
    pub log_every: u64,
    pub checkpoint_every: u64,
    /// Checkpoints that stay; 0 for all.
    pub keep: usize,
    /// Steps between evaluations on the held-out store; 0 for only at the end.
    pub eval_every: u64,
    pub eval_sequences: usize,
    pub options: StepOptions,
    settings: Settings,
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
        let mask_probability = settings.number("mask_probability")?;
        ensure!(
            masking::slots(mask_probability, max_length) > 0,
            "mask_probability is {mask_probability}: at max_length {max_length} nothing would be masked"
        );
        let options = step_options(&settings)?;
        Ok(TrainConfig {
            model,
            steps: settings.whole("steps")?,
            batch_size,
            micro_batch,
            max_length,
            learning_rate: settings.number("learning_rate")?,
            warmup_steps: settings.whole("warmup_steps")?,
            lr_decay_power: settings.number("lr_decay_power")?,
            mask_probability,
            seed: settings.whole("seed")?,
            log_every: settings.whole("log_every")?,
            checkpoint_every: settings.whole("checkpoint_every")?,
            keep: settings.size("keep")?,
            eval_every: settings.whole("eval_every")?,
            eval_sequences: settings.size("eval_sequences")?,
            options,
            settings,
        })
    }

    /// Reads the `config.toml` of a run, which is resolved already.
    pub fn load(path: &Path) -> Result<Settings> {
        let mut settings = Settings::default();
        settings.set_file(path)?;
        Ok(settings)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn loss_weights(&self) -> LossWeights {
        LossWeights {
            generator: f64::from(self.options.generator_weight),
            discriminator: f64::from(self.options.discriminator_weight),
        }
    }

    /// The most masked slots a sequence has.
    pub fn slots(&self) -> usize {
        masking::slots(self.mask_probability, self.max_length)
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
        let fraction = settings.number("model.generator_fraction")?;
        let size = sizes::generator_hidden_size(hidden, fraction);
        ensure!(size > 0, "model.generator_fraction is {fraction}: the generator would have no width");
        derive(settings, "model.generator_hidden_size", size)?;
    }
    settings.remove("model.generator_fraction");
    let generator = settings.size("model.generator_hidden_size")?;
    derive(settings, "model.generator_heads", sizes::generator_heads(generator))?;
    derive(settings, "model.generator_ffn_size", sizes::generator_ffn_size(generator))?;
    let size = |name: &str| settings.size(&format!("model.{name}"));
    let model = ModelConfig {
        vocab_size: size("vocab_size")?,
        embedding_size: size("embedding_size")?,
        hidden_size: size("hidden_size")?,
        layers: size("layers")?,
        heads: size("heads")?,
        ffn_size: size("ffn_size")?,
        max_positions: size("max_positions")?,
        generator_hidden_size: size("generator_hidden_size")?,
        generator_layers: size("generator_layers")?,
        generator_heads: size("generator_heads")?,
        generator_ffn_size: size("generator_ffn_size")?,
    };
    model.validate()?;
    Ok(model)
}

fn step_options(settings: &Settings) -> Result<StepOptions> {
    let number = |name: &str| settings.number(name).map(|x| x as f32);
    Ok(StepOptions {
        mode: Mode::Train,
        dropout: settings.number("dropout")?,
        attention_dropout: settings.number("attention_dropout")?,
        generator_weight: number("generator_weight")?,
        discriminator_weight: number("discriminator_weight")?,
        temperature: number("temperature")?,
        precision: match settings.word("precision")? {
            "f16" => Precision::F16,
            _ => Precision::F32,
        },
        optimizer: OptimizerOptions {
            clip_norm: number("clip_norm")?,
            adam_beta1: number("adam_beta1")?,
            adam_beta2: number("adam_beta2")?,
            adam_epsilon: number("adam_epsilon")?,
            weight_decay: number("weight_decay")?,
        },
    })
}

#[cfg(test)]
mod tests;
