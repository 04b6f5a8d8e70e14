//! `--decay-from`: a run that goes on from a checkpoint of another, in the part of its schedule where the rate stays, and
//! whose rate falls to 0 from there. So one long run may end several times, at several lengths.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::files::JsonLines;
use crate::interop::checkpoint::{self, Origin, ScheduleStage, State, Whole};
use crate::interop::provenance::{Provenance, file_name};
use crate::plan::Executor;

use super::super::config::{Sources, Surroundings, TrainConfig};
use super::super::key::Value;
use super::super::settings::{Change, Settings};
use super::HISTORY;

/// The keys that are this run's own, besides those that a resumed run may change.
const OWN: [&str; 2] = ["steps", "decay_share"];

/// A checkpoint that was opened, and whose rate stays.
pub struct DecayFrom {
    pub checkpoint: Whole,
    run: PathBuf,
    /// As the user named it.
    shown: String,
}

impl DecayFrom {
    /// Opens a checkpoint, or the newest one of a run.
    ///
    /// # Errors
    /// It is damaged, or its rate does not stay: it rises, falls already, or has no such part.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let (run, path) = match checkpoint::is_run(path) {
            true => (path.to_owned(), checkpoint::latest(path)?),
            false => {
                ensure!(checkpoint::is_checkpoint(path), "{shown}: neither a run nor one of its checkpoints");
                (checkpoint::run_of(path)?, path.to_owned())
            }
        };
        // It says which one to name instead of a damaged one.
        checkpoint::weights(&path)?;
        let checkpoint = Whole::open(&path).with_context(|| path.display().to_string())?;
        let step = checkpoint.state.step;
        match checkpoint.state.stage {
            Some(ScheduleStage::Stable) => Ok(DecayFrom { checkpoint, run, shown }),
            Some(ScheduleStage::WarmUp) => {
                bail!(
                    "{shown}: at step {step} the learning rate still rises; name a checkpoint behind the warm-up"
                )
            }
            Some(ScheduleStage::Decay) => {
                bail!(
                    "{shown}: at step {step} the learning rate falls already; name a checkpoint before that"
                )
            }
            None => bail!(
                "{shown}: the learning rate stays in no part of its run's schedule; only a run with schedule=wsd has one to \
                 decay from"
            ),
        }
    }

    /// The configuration of the run that begins: that of the checkpoint's, with another end.
    ///
    /// # Errors
    /// Keys other than those of the schedule's end, which would compute something else, by name.
    pub fn config(&self, sources: &Sources, surroundings: Surroundings<'_>) -> Result<TrainConfig> {
        let path = self.run.join(checkpoint::CONFIG);
        let mut saved = TrainConfig::load(&path).context("--decay-from")?;
        // The rate has risen: of what rose, nothing is left to do.
        saved.set_value("rewarm_steps", Value::Whole(0))?;
        let (mut settings, mut given) = (saved.clone(), Settings::default());
        sources.assign(&mut settings)?;
        sources.assign(&mut given)?;
        let begins = self.checkpoint.state.step;
        let steps = match (given.found("steps"), given.get("decay_share")) {
            (Some(_), Some(_)) => {
                bail!(
                    "steps and decay_share: give one of them; with --decay-from the rate falls from step {begins} on"
                )
            }
            (Some(steps), None) => steps as u64,
            (None, _) => {
                let share = settings.number("decay_share")?;
                ensure!(
                    share < 1.0,
                    "decay_share is 1, and the rate falls only from step {begins} on; give steps instead"
                );
                begins.saturating_add((begins as f64 * share / (1.0 - share)).round().max(1.0) as u64)
            }
        };
        ensure!(steps > begins, "steps is {steps}; the decay of {} begins at step {begins}", self.shown);
        settings.set_value("steps", Value::Whole(steps))?;
        settings.set_value("decay_share", Value::Number((steps - begins) as f64 / steps as f64))?;
        TrainConfig::keep_sizes(&mut settings, &saved)?;
        let config = TrainConfig::resolve(settings, surroundings)?;
        ensure!(
            !config.has_phases(),
            "--decay-from: the run has phases, and with another end they would begin elsewhere"
        );
        let mut changes = config.settings().changes(&saved);
        changes.retain(|change| !OWN.contains(&change.key.name));
        ensure!(
            changes.is_empty(),
            "--decay-from goes on with {} as it is: {}",
            path.display(),
            changes.iter().map(Change::to_string).collect::<Vec<_>>().join("; ")
        );
        Ok(config)
    }

    /// The state that the new run begins with; parameters and moments are loaded.
    pub fn load(&self, executor: &mut dyn Executor, device: String) -> Result<State> {
        self.checkpoint.load(executor)?;
        let state = self.checkpoint.state.clone();
        let run = file_name(&self.run.canonicalize().unwrap_or_else(|_| self.run.clone()));
        let origin = Origin { run, step: state.step };
        Ok(State { began: state.step, decay_from: Some(origin), budget: None, device, ..state })
    }

    /// Keeps in the new run where it came from.
    pub fn pass_on(&self, out: &Path, state: &State) -> Result<()> {
        Provenance::pass_on(Provenance::read(&self.run)?.as_ref(), &self.run, out, state.step)?;
        let mut history = JsonLines::open(&out.join(HISTORY), state.step)?;
        let run = state.decay_from.as_ref().map(|from| &from.run);
        history.append(&json!({"step": state.step, "event": "decay_from", "run": run}))?;
        history.finish()
    }
}
