//! What a run does: presets, TOML, `--hparams` and `--set`, in this order of precedence (docs/spec.md §2, docs/cli.md).

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::batch::masking;
use crate::device::Room;
use crate::files::size;
use crate::interop::checkpoint::Keep;
use crate::model::{ModelConfig, PretrainPlan, Trained, config as sizes};
use crate::plan::Plan;
use crate::ranks::Split;

use super::following::Rule;
use super::hparams;
use super::key::Value;
use super::keys::{GENERATOR_FRACTION, MODEL_PREFIX, RunValues, keys};
use super::metrics::LossWeights;
use super::presets::{DEFAULT_PRESET, preset};
use super::reference::{self, Program};
use super::settings::Settings;
use super::sizing::{Asked, Sizes};

mod by_step;
mod legs;
mod on_ranks;
mod plans;

pub use crate::note::WrongUsage;
pub use legs::{Leg, Phase, change_from, describe_phases, leg_of, shares_of_phases};

/// Where a run's configuration comes from; each member overrides those before it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub preset: Option<String>,
    pub file: Option<PathBuf>,
    /// JSON with the reference implementation's key names, the path of a `.json` file of it, or a command line.
    pub hparams: Option<String>,
    /// `key=value` each.
    pub set: Vec<String>,
    /// The phase that is measured or explained, from 1; it decides nothing of a run.
    pub phase: Option<usize>,
}

/// A key of the model and its value.
pub type Size = (String, Value);

impl Sources {
    /// All settings, not yet resolved, and notes for the user about what has no effect here.
    pub fn settings(&self) -> Result<(Settings, Vec<String>)> {
        self.settings_with(&[])
    }

    /// Those of a run that begins, with a model of these sizes if there are some: they hold unless a preset is named or
    /// they are set. Learning rate and warm-up that nobody gave follow from what was.
    pub fn settings_for(&self, sizes: &[Size]) -> Result<(Settings, Vec<String>)> {
        let (mut settings, mut notes) = self.settings_with(sizes)?;
        if let Some(rule) = self.rule(sizes)? {
            notes.extend(rule.apply(&mut settings)?);
        }
        Ok((settings, notes))
    }

    /// By which learning rate and warm-up follow: not of the reference's hyper-parameters, nor of a model's own sizes.
    pub fn rule(&self, sizes: &[Size]) -> Result<Option<Rule>> {
        if self.hparams.is_some() || self.preset.is_none() && !sizes.is_empty() {
            return Ok(None);
        }
        let preset = preset(self.preset.as_deref().unwrap_or(DEFAULT_PRESET))?;
        Rule::of(&preset, &self.given()?).map(Some)
    }

    /// What `--config` and `--set` say.
    pub fn given(&self) -> Result<Settings> {
        let mut given = Settings::default();
        if let Some(path) = &self.file {
            given.set_file(path)?;
        }
        self.assign(&mut given)?;
        Ok(given)
    }

    /// The settings of [`Sources::settings_for`], in which nothing has followed yet.
    pub fn settings_with(&self, sizes: &[Size]) -> Result<(Settings, Vec<String>)> {
        let read = |text: &String| reference::read(text, Program::Pretraining).context("--hparams");
        let given = self.hparams.as_ref().map(read).transpose()?;
        // A command line of the reference means its defaults, which are those of the paper.
        let default =
            if given.as_ref().is_some_and(|given| given.command_line) { "small-128" } else { DEFAULT_PRESET };
        let name = self.preset.as_deref().unwrap_or(default);
        let mut settings = preset(name).context(WrongUsage("--preset"))?;
        let sizes = if self.preset.is_none() { sizes } else { &[] };
        for (name, size) in sizes.iter().filter(|(name, _)| name != "model.vocab_size") {
            settings.set_value(name, size.clone())?;
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

    /// The keys of a configuration file, as a run would write them.
    pub fn rewritten(text: &str) -> Result<String> {
        let mut settings = Settings::default();
        settings.set_toml(text)?;
        Ok(settings.to_toml())
    }

    /// The phase that is asked for, or the first: what is measured where a run has several.
    pub fn asked(&self, config: &TrainConfig) -> Result<TrainConfig> {
        let legs = config.legs()?;
        let number = self.phase.unwrap_or(1);
        let leg = legs.into_iter().find(|leg| leg.config.phase.number + 1 == number);
        let leg = leg.with_context(|| format!("there is no phase {number}"));
        Ok(leg.context(WrongUsage("--phase"))?.config)
    }

    /// Applies `--set` alone.
    pub fn assign(&self, settings: &mut Settings) -> Result<()> {
        settings.set_texts(self.set.iter().map(String::as_str)).context(WrongUsage("--set"))
    }
}

/// What resolving needs to know from outside.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Pieces of the store's tokenizer.
    pub vocab_size: usize,
    /// Of the device that runs the plan: decides what is `auto`.
    pub room: &'a Room,
}

/// A resolved configuration: nothing is left to derive, everything is checked. It dereferences to the values of its
/// keys, `config.steps`: those of the whole run, or as they hold in a leg ([`TrainConfig::legs`]).
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub model: ModelConfig,
    /// Which phase of the run it is of.
    pub phase: Phase,
    /// By its steps: from `generator_freeze_at` on the generator is fixed.
    pub trained: Trained,
    /// Which sequences of its batches are this process's; it is no part of the run.
    pub split: Split,
    values: RunValues,
    settings: Settings,
}

impl Deref for TrainConfig {
    type Target = RunValues;

    fn deref(&self) -> &RunValues {
        &self.values
    }
}

/// Bytes of vocabulary logits at once in runs from before `vocabulary_chunk`.
const FORMER_LOGITS: u64 = 32 << 20;

impl TrainConfig {
    /// Derives what is absent and checks everything; errors name the key.
    pub fn resolve(mut settings: Settings, surroundings: Surroundings<'_>) -> Result<Self> {
        let Surroundings { vocab_size, room } = surroundings;
        if let Some(Value::Whole(given)) = settings.get("model.vocab_size") {
            ensure!(
                *given == vocab_size as u64,
                "model.vocab_size is {given}, but the store's tokenizer has {vocab_size} pieces; leave it out"
            );
        }
        settings.set_value("model.vocab_size", Value::Whole(vocab_size as u64))?;
        let model = resolve_model(&mut settings)?;
        if settings.phases() > 0 {
            return Self::resolve_phases(settings, model, room);
        }
        Self::sized(settings, &model, room)
    }

    /// Finds the sizes of the micro-batches of a run without phases, or of one phase.
    fn sized(mut settings: Settings, model: &ModelConfig, room: &Room) -> Result<Self> {
        let max_length = settings.size("max_length")?;
        ensure!(
            max_length <= model.max_positions,
            "max_length is {max_length}; it must be at most model.max_positions, which is {}",
            model.max_positions
        );
        resolve_mask_share(&mut settings)?;
        let mut slots = 0;
        for name in ["mask_probability", "mask_probability_end"] {
            let probability = settings.number(name)?;
            let most = masking::slots(probability, max_length);
            ensure!(most > 0, "{name} is {probability}: at max_length {max_length} nothing would be masked");
            slots = slots.max(most);
        }
        let asked = Asked {
            batch_size: settings.size("batch_size")?,
            max_length,
            slots,
            vocabulary: model.vocab_size,
            micro_batch: settings.found("micro_batch"),
            vocabulary_chunk: settings.found("vocabulary_chunk"),
        };
        let with = |sizes| TrainConfig::with(&settings, model, sizes);
        let sizes = asked.resolve(room, |sizes| Ok(with(sizes)?.plan()?.plan))?;
        with(sizes)
    }

    /// The configuration with these sizes of a micro-batch.
    fn with(settings: &Settings, model: &ModelConfig, sizes: Sizes) -> Result<Self> {
        let mut settings = settings.clone();
        resolve_mask_share(&mut settings)?;
        let Sizes { micro_batch, vocabulary_chunk } = sizes;
        for (name, size) in [("micro_batch", micro_batch), ("vocabulary_chunk", vocabulary_chunk)] {
            settings.set_value(name, Value::Whole(size as u64))?;
        }
        let values = RunValues::read(|name| settings.get(name))?;
        Ok(TrainConfig {
            model: model.clone(),
            phase: Phase::default(),
            trained: Trained::Both,
            split: Split::default(),
            values,
            settings,
        })
    }

    /// Fails where the device has no room for a step of any leg (and, where it `evaluates`, an evaluation beside it),
    /// before anything is allocated, naming sizes for which it would.
    pub fn check(&self, room: &Room, evaluates: bool) -> Result<()> {
        let legs = self.legs()?;
        let last = legs.last().map(|leg| leg.config.phase);
        let evaluated = self.evaluated()?;
        for Leg { config, .. } in &legs {
            // What is evaluated has the sizes of the last phase, and is made smaller with it.
            let evaluation = |own: &TrainConfig| {
                let of = if Some(config.phase) == last { own } else { &evaluated };
                evaluates.then(|| of.evaluation_plan()).transpose()
            };
            let checked = config.check_leg(room, evaluation);
            if self.has_phases() {
                checked.with_context(|| format!("phase {}", config.phase.number + 1))?;
            } else {
                checked?;
            }
        }
        Ok(())
    }

    /// Fails where the device has no room for a step of one leg and for the evaluation that lives beside it, if any.
    fn check_leg(
        &self,
        room: &Room,
        evaluation: impl Fn(&TrainConfig) -> Result<Option<PretrainPlan>>,
    ) -> Result<()> {
        let asked = Asked {
            batch_size: self.batch_size,
            max_length: self.max_length,
            slots: self.slots(),
            vocabulary: self.model.vocab_size,
            micro_batch: None,
            vocabulary_chunk: None,
        };
        let plans = |sizes| -> Result<Vec<Plan>> {
            let Self { values, settings, .. } = TrainConfig::with(&self.settings, &self.model, sizes)?;
            let config = TrainConfig { values, settings, ..self.clone() };
            let mut plans = vec![config.plan()?.plan];
            plans.extend(evaluation(&config)?.map(|evaluation| evaluation.plan));
            Ok(plans)
        };
        asked.check(self.sizes(), room, plans)
    }

    /// What holds where nobody says otherwise.
    pub fn defaults() -> Result<Settings> {
        Settings::defaults()
    }

    /// Reads the `config.toml` of a run, which is resolved already. Keys that there were not yet when the run began have
    /// their defaults, or what was done then.
    pub fn load(path: &Path) -> Result<Settings> {
        let mut settings = Settings::defaults()?;
        settings.remove(GENERATOR_FRACTION);
        settings.set_file(path)?;
        if settings.found("vocabulary_chunk").is_none() {
            let rows = FORMER_LOGITS / 4 / settings.whole("model.vocab_size")?.max(1);
            settings.set_value("vocabulary_chunk", Value::Whole(rows.max(1)))?;
        }
        resolve_mask_share(&mut settings)?;
        Ok(settings)
    }

    /// Takes sizes that are `auto` in `settings` from the run that they go on with.
    pub fn keep_sizes(settings: &mut Settings, saved: &Settings) -> Result<()> {
        for name in ["micro_batch", "vocabulary_chunk"] {
            for phase in 0..settings.phases() {
                let asked = settings.get_in(phase, name).or_else(|| settings.get(name));
                if let (Some(Value::Word(_)), Some(value)) = (asked, saved.get_in(phase, name)) {
                    settings.set_in(phase, name, value.clone())?;
                }
            }
            if let (Some(Value::Word(_)), Some(value)) = (settings.get(name), saved.get(name)) {
                settings.set_value(name, value.clone())?;
            }
        }
        Ok(())
    }

    /// The same with other values of keys that no plan depends on, such as those of the schedule.
    pub fn changed(&self, settings: Settings) -> Result<Self> {
        let values = RunValues::read(|name| settings.get(name))?;
        Ok(TrainConfig { values, settings, ..self.clone() })
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

    /// Which checkpoints stay.
    pub fn keep(&self) -> Keep {
        Keep { newest: self.keep, every: self.keep_every }
    }

    /// The most masked slots a sequence has, at any step.
    pub fn slots(&self) -> usize {
        masking::slots(self.mask_probability.max(self.mask_probability_end), self.max_length)
    }

    /// What is said of a run's plan before it begins.
    pub fn room_taken(&self, plan: &Plan, room: &Room) -> String {
        let of = match room.memory() {
            Some(memory) => format!("; {} are free of {}", size(memory.free), size(memory.total)),
            None => String::new(),
        };
        format!(
            "micro-batches of {} of {} sequences{}, logits of {} masked tokens at a time: {}{of}",
            self.sequences_at_once(),
            self.split.own(self.batch_size).len(),
            if self.split.ranks() > 1 { " that are this rank's" } else { "" },
            self.vocabulary_chunk.min(self.sequences_at_once() * self.slots()),
            size(plan.bytes())
        )
    }

    fn sizes(&self) -> Sizes {
        Sizes { micro_batch: self.micro_batch, vocabulary_chunk: self.vocabulary_chunk }
    }
}

/// The share of masked tokens stays what it is unless it is said where it goes.
fn resolve_mask_share(settings: &mut Settings) -> Result<()> {
    if settings.get("mask_probability_end").is_none() {
        let probability = settings.number("mask_probability")?;
        settings.set_value("mask_probability_end", Value::Number(probability))?;
    }
    Ok(())
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
