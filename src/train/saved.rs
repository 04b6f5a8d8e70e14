//! A run, one of its checkpoints or an imported model, opened to look into what its two networks say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::device::Room;
use crate::interop::checkpoint::{self, CONFIG, State};
use crate::interop::export::run::locate;
use crate::interop::fitting::{Needed, ensure_fits};
use crate::interop::weights::WeightFile;
use crate::model::ModelConfig;
use crate::plan::Executor;

use super::config::{Surroundings, TrainConfig};
use super::key::Value;
use super::settings::Settings;

/// Sequences of a micro-batch of a model that was never trained here, unless someone says otherwise.
const MICRO_BATCH: u64 = 8;

/// A saved model that has both networks.
pub struct Saved {
    /// The run's directory, and that of the checkpoint.
    pub run: PathBuf,
    pub checkpoint: PathBuf,
    pub state: State,
    pub model: ModelConfig,
    weights: WeightFile,
    settings: Settings,
}

impl Saved {
    /// Opens a run (its newest checkpoint, or that of `step`), a checkpoint, or what `import` wrote.
    ///
    /// # Errors
    /// It is none of these, is damaged, or lacks the generator or the discriminator's head.
    pub fn open(path: &Path, step: Option<u64>) -> Result<Self> {
        let shown = path.display();
        let Some((run, newest)) = locate(path)? else {
            bail!(
                "{shown}: neither a run, nor a checkpoint, nor what `inazuma import` wrote{}",
                if path.is_dir() { "" } else { " (there is no such directory)" }
            )
        };
        let checkpoint = match step {
            Some(step) => {
                ensure!(
                    checkpoint::is_run(path),
                    "{shown}: is a checkpoint itself; --step goes with its run"
                );
                let checkpoint = checkpoint::of_step(&run, step);
                ensure!(
                    checkpoint.is_dir(),
                    "{shown}: has no checkpoint of step {step}; name one of those in {}",
                    checkpoint.parent().unwrap_or(&run).display()
                );
                checkpoint
            }
            None => newest,
        };
        let (model, weights) = (checkpoint::model(&run)?, checkpoint::weights(&checkpoint)?);
        let names = weights.names()?;
        for (prefix, what) in [
            ("generator.", "generator: it was imported without one (`inazuma import --generator`)"),
            (
                "discriminator.discriminator_predictions.",
                "head of the discriminator: it was imported without one",
            ),
        ] {
            let there = names.iter().any(|name| name.starts_with(prefix));
            ensure!(there, "{shown}: has no {what}, so there is no pre-training to look at");
        }
        ensure_fits(&weights, &model, Needed::Everything, str::to_owned)?;
        let (path, state) = (run.join(CONFIG), checkpoint::state(&checkpoint)?);
        let settings = TrainConfig::load(&path).with_context(|| path.display().to_string())?;
        Ok(Saved { run, checkpoint, state, model, weights, settings })
    }

    /// The configuration that evaluations have, of a run with phases that of its last, with other values of these keys.
    pub fn config(&self, changes: &[(&str, Value)], room: &Room) -> Result<TrainConfig> {
        let mut settings = match self.settings.phases() {
            0 => self.settings.clone(),
            phases => self.settings.of_phase(phases - 1),
        };
        // An imported model's configuration has sizes alone; the rest are defaults.
        if settings.found("micro_batch").is_none() {
            settings.set_value("micro_batch", Value::Whole(MICRO_BATCH))?;
        }
        let most = self.model.max_positions;
        if settings.size("max_length")? > most {
            settings.set_value("max_length", Value::Whole(most as u64))?;
        }
        for (name, value) in changes {
            settings.set_value(name, value.clone())?;
        }
        TrainConfig::resolve(settings, Surroundings { vocab_size: self.model.vocab_size, room })
    }

    /// Loads the parameters of both networks.
    pub fn load(&self, executor: &mut dyn Executor) -> Result<()> {
        let read = self.weights.load(executor, |parameter| parameter.value, |part| Some(part.to_owned()));
        read.map(drop)
    }
}
