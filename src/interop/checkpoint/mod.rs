//! Checkpoints: `checkpoints/step-NNNNNNNN/` with `model.safetensors`, `optimizer.safetensors` and
//! `state.json`, and the file `latest` that names the newest.
//!
//! A checkpoint is written under another name, synced and renamed; `latest` is replaced last. So whatever
//! interrupts, `latest` names a whole checkpoint. `state.json` has the checksums of all files, and its own: nothing of a
//! checkpoint is used before they were compared. Equal runs write equal bytes: no times, no paths.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::files::{parse_toml, write_atomically};
use crate::model::ModelConfig;
use crate::plan::Parameter;
use crate::tensor::TensorId;
use crate::tokenizer::ReadyMade;

mod find;
mod load;
mod read;
mod save;
mod state;

pub use find::{Damaged, Found, newest, turn_back};
pub use load::{Whole, checksum};
pub use read::{moments, plain, state, weights};
pub use save::{Keep, Snapshot, remove_old, save_tensors};
pub use state::{
    BudgetState, Detection, LossScalingState, Origin, Rollback, ScheduleStage, State, StoreIdentity,
};

/// What a run was made with, beside its checkpoints.
pub const CONFIG: &str = "config.toml";
pub const TOKENIZER: &str = "tokenizer.model";
/// Instead of the tokenizer, where texts came as ready-made ids.
pub const VOCABULARY: &str = "vocabulary.json";
/// Where an imported model came from.
pub const IMPORT: &str = "import.json";
const LATEST: &str = "latest";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// The tensors of one kind, with the prefix of their names in the file.
type Kind = (&'static str, fn(&Parameter) -> TensorId);

const VALUES: &[Kind] = &[("", |parameter| parameter.value)];
const MOMENTS: &[Kind] =
    &[("m.", |parameter| parameter.first_moment), ("v.", |parameter| parameter.second_moment)];

fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Where a run has the checkpoint of this step, if it has it.
pub fn of_step(run: &Path, step: u64) -> PathBuf {
    directory(run, step)
}

/// The checkpoint of this step in a run directory.
fn directory(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(name(step))
}

/// The step whose checkpoint has this name.
fn step_of(found: &str) -> Option<u64> {
    let step = found.strip_prefix("step-")?.parse().ok()?;
    (name(step) == found).then_some(step)
}

/// The step of a checkpoint that was set aside.
fn aside(found: &str) -> Option<u64> {
    let stem = found.strip_suffix(".damaged").or_else(|| found.strip_suffix(".later"))?;
    step_of(stem)
}

/// The checkpoint that `latest` names: what a run's directory stands for where a model is read from it.
///
/// # Errors
/// There is none, or not that one; then which to name instead.
pub fn latest(run: &Path) -> Result<PathBuf> {
    match find::pointer(run) {
        (Some(step), None) => Ok(directory(run, step)),
        (_, wrong) => {
            let wrong = wrong.unwrap_or_default();
            match find::another(run, run) {
                Some(path) => bail!("{wrong}; {} is whole: name that", path.display()),
                None => {
                    bail!("{wrong}, and there is no whole checkpoint in {}", run.join(CHECKPOINTS).display())
                }
            }
        }
    }
}

/// Whether a directory is a run that has saved a checkpoint, and whether it is a checkpoint itself.
pub fn is_run(directory: &Path) -> bool {
    directory.join(LATEST).is_file() || find::listed(directory).is_ok_and(|steps| !steps.is_empty())
}

pub fn is_checkpoint(directory: &Path) -> bool {
    directory.join(STATE).is_file()
}

/// The sizes of a run's model, from its `config.toml`, in which nothing is left to derive.
pub fn model(run: &Path) -> Result<ModelConfig> {
    #[derive(Deserialize)]
    struct Saved {
        model: ModelConfig,
    }
    let path = run.join(CONFIG);
    let shown = path.display();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
    let saved: Saved = parse_toml(&text).with_context(|| shown.to_string())?;
    saved.model.validate().with_context(|| shown.to_string())?;
    Ok(saved.model)
}

/// Writes the sizes of a model as the `config.toml` of a run; the keys that it lacks have their defaults.
pub fn write_model(run: &Path, model: &ModelConfig) -> Result<()> {
    let sizes = toml::to_string(model).context("the sizes of the model")?;
    write_atomically(&run.join(CONFIG), format!("[model]\n{sizes}").as_bytes())
}

/// The vocabulary of a run whose texts came as ready-made ids; nothing where it has a tokenizer.
pub fn vocabulary(run: &Path) -> Result<Option<ReadyMade>> {
    let path = run.join(VOCABULARY);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ReadyMade::from_json(&bytes).map(Some).with_context(|| path.display().to_string())
}

/// Writes what a run or an imported model keeps of its vocabulary.
pub fn write_vocabulary(run: &Path, ready_made: bool, bytes: &[u8]) -> Result<()> {
    write_atomically(&run.join(if ready_made { VOCABULARY } else { TOKENIZER }), bytes)
}

/// The folder of the run that a checkpoint lies in: RUN/checkpoints/step-N.
pub fn run_of(checkpoint: &Path) -> Result<PathBuf> {
    let run = checkpoint.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    run.filter(|run| run.join(CONFIG).is_file()).with_context(|| {
        format!(
            "{}: lies in no run (there is no `{CONFIG}` two folders above it); name the run's directory, or put the \
             checkpoint back into RUN/{CHECKPOINTS}",
            checkpoint.display()
        )
    })
}

#[cfg(test)]
mod tests;
