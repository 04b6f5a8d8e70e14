//! A checkpoint of which nothing is used before its checksums were compared.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::Metadata;

use crate::interop::sums::{Damage, FileSum};
use crate::interop::weights::WeightFile;
use crate::model::parameters;
use crate::plan::Executor;

use super::state::{Saved, State};
use super::{Kind, MODEL, MOMENTS, OPTIMIZER, STATE, VALUES, step_of};

/// A checkpoint whose files are what was written.
pub struct Whole {
    pub path: PathBuf,
    pub state: State,
    /// None where parameters are those that the seed draws.
    weights: Option<WeightFile>,
    moments: Option<WeightFile>,
    /// It was written before there were checksums.
    unverified: bool,
}

impl Whole {
    /// Opens a checkpoint and verifies all of it.
    ///
    /// # Errors
    /// What is wrong with it, in one line that begins with a file's name.
    pub fn open(path: &Path) -> Result<Self> {
        let Saved { state, files } = saved(path)?;
        if let Some(step) = path.file_name().and_then(|name| step_of(&name.to_string_lossy())) {
            ensure!(step == state.step, "{STATE}: is of step {}", state.step);
        }
        let file = |name: &str| -> Result<Option<WeightFile>> {
            let file = path.join(name);
            match &files {
                Some(files) => match files.get(name) {
                    Some(sum) => verified(&file, sum).map(Some).with_context(|| name.to_owned()),
                    None => Ok(None),
                },
                None => WeightFile::open(&file).map(Some),
            }
        };
        Ok(Whole {
            weights: file(MODEL)?,
            moments: if files.is_some() || path.join(OPTIMIZER).exists() { file(OPTIMIZER)? } else { None },
            unverified: files.is_none(),
            path: path.to_owned(),
            state,
        })
    }

    /// Loads parameters and moments into the executor.
    pub fn load(&self, executor: &mut dyn Executor) -> Result<()> {
        let Some(weights) = &self.weights else { return parameters::initialise(executor, self.state.seed) };
        if self.unverified {
            warn(&self.path);
        }
        load_all(weights, executor, VALUES)?;
        let Some(moments) = &self.moments else {
            bail!("{}: has no {OPTIMIZER}; resume from another checkpoint", self.path.display())
        };
        load_all(moments, executor, MOMENTS)
    }
}

/// Says that nobody can tell whether a checkpoint is damaged.
pub fn warn(checkpoint: &Path) {
    note!(
        "note: {} was written by a version that made no checksums; whether it is damaged is unknown",
        checkpoint.display()
    );
}

fn load_all(file: &WeightFile, executor: &mut dyn Executor, kinds: &[Kind]) -> Result<()> {
    let mut known = BTreeSet::new();
    for (prefix, tensor) in kinds {
        known.extend(file.load(executor, tensor, |part| Some(format!("{prefix}{part}")))?);
    }
    if let Some(name) = file.names()?.into_iter().find(|name| !known.contains(name)) {
        bail!("{}: tensor {name} is not of this model; was the configuration changed?", file.path().display())
    }
    Ok(())
}

/// Checksum of `state.json`, which has those of the other files.
pub fn checksum(checkpoint: &Path) -> Result<u32> {
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(crc32fast::hash(&text))
}

/// Reads and verifies `state.json`.
pub fn saved(checkpoint: &Path) -> Result<Saved> {
    let text = fs::read(checkpoint.join(STATE)).with_context(|| format!("{STATE}: cannot be read"))?;
    Saved::from_json(&text).context(STATE)
}

/// Opens a file of tensors after comparing it with its checksums.
pub fn verified(path: &Path, sum: &FileSum) -> Result<WeightFile> {
    match sum.verify(path) {
        Ok(()) => WeightFile::open(path),
        Err(Damage::Changed(range)) => {
            let tensors = tensors_in(path, &range).map_or(String::new(), |names| format!(" ({names})"));
            bail!("{}{tensors}", Damage::Changed(range))
        }
        Err(damage) => bail!("{damage}"),
    }
}

/// The tensors that lie in these bytes of a file, where its header can still be read.
fn tensors_in(path: &Path, range: &Range<u64>) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    file.take(length.min(100 << 20)).read_to_end(&mut header).ok()?;
    let header: Metadata = serde_json::from_slice(&header).ok()?;
    let first = 8 + length;
    let mut inside: Vec<(usize, String)> = header
        .tensors()
        .into_iter()
        .filter(|(_, info)| {
            let (begin, end) = info.data_offsets;
            first + (begin as u64) < range.end && range.start < first + end as u64
        })
        .map(|(name, info)| (info.data_offsets.0, name))
        .collect();
    inside.sort();
    let names = || inside.iter().map(|(_, name)| name.as_str());
    match inside.len() {
        0 => None,
        1 => Some(format!("in tensor {}", names().next()?)),
        count => Some(format!("in {count} tensors, {} to {}", names().next()?, names().next_back()?)),
    }
}
