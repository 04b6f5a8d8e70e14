//! A checkpoint as who wants its model reads it: what is damaged is refused, and which one to name instead is said.

use std::path::Path;

use anyhow::{Context, Result};

use crate::interop::sums::FileSum;
use crate::interop::weights::WeightFile;
use crate::model::sharing::{DELTAS, GENERATORS_TABLES, TABLES};
use crate::model::{EmbeddingSharing, ModelConfig};

use super::find::another;
use super::load::{saved, verified, warn};
use super::state::State;
use super::{MODEL, OPTIMIZER};

/// Reads `state.json` of a checkpoint.
pub fn state(checkpoint: &Path) -> Result<State> {
    Ok(saved(checkpoint).with_context(|| damaged(checkpoint))?.state)
}

/// The parameters of a checkpoint as a file.
pub fn weights(checkpoint: &Path) -> Result<WeightFile> {
    let files = saved(checkpoint).with_context(|| damaged(checkpoint))?.files;
    if files.is_none() {
        warn(checkpoint);
    }
    let file = file(checkpoint, MODEL, files.as_ref().map(|files| files.get(MODEL)))?;
    file.with_context(|| {
        format!("{}: nothing has been trained yet; the run has saved no step", checkpoint.display())
    })
}

/// The model of a checkpoint as plain ELECTRA: what the discriminator adds to the generator's tables is added up, and what
/// is left is a model whose networks have embeddings of their own, or share them.
pub fn plain(run: &Path, checkpoint: &Path) -> Result<(ModelConfig, WeightFile)> {
    let (model, mut weights) = (super::model(run)?, weights(checkpoint)?);
    if model.embedding_sharing != EmbeddingSharing::Disentangled {
        return Ok((model, weights));
    }
    for delta in weights.names()? {
        if let Some(table) = delta.strip_prefix(DELTAS) {
            weights.fold(&format!("{GENERATORS_TABLES}{table}"), &delta, &format!("{TABLES}{table}"))?;
        }
    }
    Ok((ModelConfig { embedding_sharing: EmbeddingSharing::None, ..model }, weights))
}

/// The moments of a checkpoint as a file, where it has them.
pub fn moments(checkpoint: &Path) -> Result<Option<WeightFile>> {
    let files = saved(checkpoint).with_context(|| damaged(checkpoint))?.files;
    if files.is_none() && !checkpoint.join(OPTIMIZER).is_file() {
        return Ok(None);
    }
    file(checkpoint, OPTIMIZER, files.as_ref().map(|files| files.get(OPTIMIZER)))
}

/// Opens a file that has this sum; nothing known of it: as it is.
fn file(checkpoint: &Path, name: &str, sum: Option<Option<&FileSum>>) -> Result<Option<WeightFile>> {
    let path = checkpoint.join(name);
    match sum {
        None => WeightFile::open(&path).map(Some),
        Some(None) => Ok(None),
        Some(Some(sum)) => {
            let file = verified(&path, sum).with_context(|| name.to_owned());
            file.map(Some).with_context(|| damaged(checkpoint))
        }
    }
}

/// What is said of a damaged checkpoint to who asked for it, with the one to use instead.
fn damaged(checkpoint: &Path) -> String {
    let shown = checkpoint.display();
    let run = checkpoint.parent().and_then(Path::parent);
    match run.and_then(|run| another(run, checkpoint)) {
        Some(path) => format!("{shown} is damaged ({} is whole: name that)", path.display()),
        None => format!("{shown} is damaged"),
    }
}
