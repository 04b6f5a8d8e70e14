//! Saving: a checkpoint is written under another name, synced and renamed, and `latest` is replaced last. Whatever
//! interrupts, `latest` names a whole one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{free_space, size, sync_directory, write_atomically};
use crate::interop::weights::{self, Named};
use crate::plan::Executor;

use super::state::{Files, Saved, State};
use super::{
    CHECKPOINTS, Kind, LATEST, MODEL, MOMENTS, OPTIMIZER, STATE, VALUES, aside, directory, name, step_of,
};

/// Which checkpoints stay when another is saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// So many of the newest; 0: all.
    pub newest: usize,
    /// And those whose step is a multiple of this; 0: no others.
    pub every: u64,
}

/// A checkpoint in the memory of the host: the device may go on while it is written.
pub struct Snapshot {
    pub state: State,
    values: Vec<Named>,
    moments: Vec<Named>,
}

impl Snapshot {
    /// Copies everything that the executor holds.
    pub fn of(executor: &mut dyn Executor, state: &State) -> Result<Self> {
        let mut read = |kinds: &[Kind]| -> Result<Vec<Named>> {
            let mut tensors = Vec::new();
            for (prefix, tensor) in kinds {
                tensors.extend(weights::collect(executor, tensor, |part| Some(format!("{prefix}{part}")))?);
            }
            Ok(tensors)
        };
        Ok(Snapshot { values: read(VALUES)?, moments: read(MOMENTS)?, state: state.clone() })
    }

    /// Of a run that has made no step: its parameters are drawn again from its seed.
    pub fn drawn(state: &State) -> Self {
        Snapshot { state: state.clone(), values: Vec::new(), moments: Vec::new() }
    }

    /// Bytes of its files of tensors.
    pub fn bytes(&self) -> u64 {
        bytes(&self.values, &self.moments)
    }

    /// Writes it into a run. `before` is called when it is on the disk and not there yet: what must be on the disk too
    /// where a run goes on from it.
    ///
    /// # Errors
    /// It could not be written; nothing of it stays then, and what was there before does. On a full disk how much it
    /// takes and how much there is.
    pub fn write(&self, run: &Path, before: impl FnOnce() -> Result<()>) -> Result<()> {
        place(run, &self.state, self.bytes(), |directory| {
            let files = write_tensors(directory, &self.values, &self.moments)?;
            before()?;
            Ok(files)
        })
    }
}

/// Saves tensors that no executor holds. `moments` has names with `m.` and `v.` before them, or nothing where the
/// optimiser has not begun.
pub fn save_tensors(run: &Path, state: &State, values: &[Named], moments: &[Named]) -> Result<()> {
    place(run, state, bytes(values, moments), |directory| write_tensors(directory, values, moments))
}

fn bytes(values: &[Named], moments: &[Named]) -> u64 {
    [values, moments].into_iter().filter_map(|tensors| weights::size(tensors).ok()).sum()
}

fn write_tensors(directory: &Path, values: &[Named], moments: &[Named]) -> Result<Files> {
    let mut files = Files::new();
    for (name, tensors) in [(MODEL, values), (OPTIMIZER, moments)] {
        if !tensors.is_empty() {
            files.insert(name.to_owned(), weights::write(&directory.join(name), tensors, None)?);
        }
    }
    Ok(files)
}

/// Makes a checkpoint of what `write` writes into a folder and `state`; `latest` then names it.
fn place(run: &Path, state: &State, bytes: u64, write: impl FnOnce(&Path) -> Result<Files>) -> Result<()> {
    let temporary = temporary(run, state.step);
    let placed = fill(run, &temporary, state, write).and_then(|()| put(run, &temporary, state.step));
    placed.map_err(|error| {
        let _ = fs::remove_dir_all(&temporary);
        match free_space(run) {
            Some(free) if is_full(&error) => error.context(format!(
                "the checkpoint of step {} takes {}, and {} has {} free",
                state.step,
                size(bytes),
                run.display(),
                size(free)
            )),
            _ => error.context(format!("the checkpoint of step {} cannot be saved", state.step)),
        }
    })
}

/// Where a checkpoint is written, and what is being removed: names that nobody takes for a checkpoint.
fn temporary(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(format!(".{}.tmp", name(step)))
}

fn fill(
    run: &Path,
    temporary: &Path,
    state: &State,
    write: impl FnOnce(&Path) -> Result<Files>,
) -> Result<()> {
    let shown = temporary.display();
    if temporary.exists() {
        fs::remove_dir_all(temporary).with_context(|| format!("cannot remove {shown}"))?;
    }
    fs::create_dir_all(temporary).with_context(|| format!("cannot create {shown}"))?;
    sync_directory(Some(run));
    let files = write(temporary)?;
    write_atomically(&temporary.join(STATE), &Saved::to_json(state, &files)?)
}

/// Gives a written checkpoint its name.
fn put(run: &Path, temporary: &Path, step: u64) -> Result<()> {
    let target = directory(run, step);
    if target.exists() {
        // Left by a run that was stopped before `latest` named it.
        remove(run, step)?;
    }
    fs::rename(temporary, &target)
        .with_context(|| format!("cannot rename {} to {}", temporary.display(), target.display()))?;
    sync_directory(target.parent());
    point_at(run, step)
}

/// Lets `latest` name the checkpoint of this step.
pub fn point_at(run: &Path, step: u64) -> Result<()> {
    write_atomically(&run.join(LATEST), format!("{CHECKPOINTS}/{}\n", name(step)).as_bytes())
}

/// Whether a write failed for want of room.
fn is_full(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(|e| e.kind());
    kinds.into_iter().any(|kind| {
        matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    })
}

/// Removes a checkpoint; one that is half removed is none.
fn remove(run: &Path, step: u64) -> Result<()> {
    let path = directory(run, step);
    let going = run.join(CHECKPOINTS).join(format!(".{}.old.tmp", name(step)));
    let _ = fs::remove_dir_all(&going);
    let removed = fs::rename(&path, &going).and_then(|()| fs::remove_dir_all(&going));
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Removes the checkpoints up to `step` that need not stay, what was set aside and has been made again, and leavings of
/// interrupted writing. What cannot be removed is said and left: training is worth more than room.
pub fn remove_old(run: &Path, step: u64, keep: Keep) {
    let parent = run.join(CHECKPOINTS);
    let names = match fs::read_dir(&parent) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()),
        Err(error) => {
            note!("note: {} cannot be listed: {error}; older checkpoints stay", parent.display());
            return;
        }
    };
    let mut steps = Vec::new();
    for name in names {
        if let Some(number) = step_of(&name) {
            steps.push(number);
        } else if is_temporary(&name) || aside(&name).is_some_and(|aside| aside <= step) {
            let _ = fs::remove_dir_all(parent.join(name));
        }
    }
    if keep.newest == 0 {
        return;
    }
    steps.retain(|&other| other <= step);
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let stays = |step: u64| keep.every > 0 && step > 0 && step.is_multiple_of(keep.every);
    for &old in steps.iter().skip(keep.newest).filter(|&&old| !stays(old)) {
        if let Err(error) = remove(run, old) {
            note!("note: {error:#}");
        }
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".step-") && name.ends_with(".tmp")
}
