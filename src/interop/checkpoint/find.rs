//! Which checkpoint a run goes on from: the one that `latest` names, or where that is damaged the newest that is whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::load::{Whole, saved};
use super::save::point_at;
use super::state::State;
use super::{CHECKPOINTS, LATEST, directory, name, step_of};

/// A checkpoint that is not whole.
pub struct Damaged {
    pub path: PathBuf,
    pub step: u64,
    /// In one line.
    pub why: String,
}

/// A checkpoint to go on from, and what was found beside it. Nothing is changed before [`Found::settle`].
pub struct Found {
    pub checkpoint: Whole,
    /// Newer ones that are not whole.
    pub damaged: Vec<Damaged>,
    /// The step that `latest` names, and what is wrong with it, if it is.
    latest: (Option<u64>, Option<String>),
    run: PathBuf,
}

/// Finds where a run goes on: at the checkpoint that `latest` names, else at the newest that is whole. Nothing where
/// there is neither `latest` nor any checkpoint.
///
/// # Errors
/// There are some, and none is whole: what is wrong with the newest.
pub fn newest(run: &Path) -> Result<Option<Found>> {
    let shown = run.join(CHECKPOINTS);
    let shown = shown.display();
    let (named, latest) = pointer(run);
    let steps = listed(run)?;
    if steps.is_empty() {
        if run.join(LATEST).exists() {
            let wrong = latest.unwrap_or_default();
            bail!(
                "{wrong}, and there is no other checkpoint in {shown}: put one back there, or begin again in another directory"
            )
        }
        return Ok(None);
    }
    let mut damaged = Vec::new();
    for step in order(steps, named) {
        let path = directory(run, step);
        match Whole::open(&path) {
            Ok(checkpoint) => {
                return Ok(Some(Found { checkpoint, damaged, latest: (named, latest), run: run.to_owned() }));
            }
            Err(error) => damaged.push(Damaged { path, step, why: format!("{error:#}") }),
        }
    }
    let why = damaged.first().map_or("", |damaged| &damaged.why);
    let first = damaged.first().map_or(String::new(), |damaged| name(damaged.step));
    bail!(
        "none of the {} checkpoints in {shown} is whole ({first}: {why}): put one back from a copy, or begin again in another directory",
        damaged.len()
    )
}

/// The step that `latest` names, if it names one; or what is wrong with it.
pub fn pointer(run: &Path) -> (Option<u64>, Option<String>) {
    let path = run.join(LATEST);
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return (None, Some(format!("{shown} is not there")));
        }
        Err(error) => return (None, Some(format!("{shown} cannot be read: {error}"))),
    };
    let named = text.trim();
    let step = named.rsplit('/').next().and_then(step_of);
    match step {
        Some(step) if directory(run, step).is_dir() => (Some(step), None),
        _ => (step, Some(format!("{shown} names `{named}`, which is not there"))),
    }
}

/// Steps of the checkpoints of a run, in no order.
pub fn listed(run: &Path) -> Result<Vec<u64>> {
    let parent = run.join(CHECKPOINTS);
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", parent.display())),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| step_of(&name.to_string_lossy())).collect())
}

/// The one that is named, then older ones, then newer ones; of each kind the newest first. A newer one than `latest`
/// names was left by a run that stopped between the two, or `latest` was turned back by hand.
fn order(mut steps: Vec<u64>, named: Option<u64>) -> Vec<u64> {
    let named = named.unwrap_or(u64::MAX);
    steps.sort_by_key(|&step| (step > named, std::cmp::Reverse(step)));
    steps
}

/// The newest whole checkpoint of a run but for this one.
pub fn another(run: &Path, but: &Path) -> Option<PathBuf> {
    let but = but.file_name().and_then(|name| step_of(&name.to_string_lossy()));
    let steps = order(listed(run).ok()?, but).into_iter().filter(|&step| Some(step) != but);
    steps.map(|step| directory(run, step)).find(|path| Whole::open(path).is_ok())
}

/// Makes the newest checkpoint whose state is as asked the one that the run goes on from; its step. Nothing, and nothing
/// changed, where there is none. The newer ones are set aside when the run goes on ([`Found::settle`]).
pub fn turn_back(run: &Path, asked: impl Fn(&State) -> bool) -> Result<Option<u64>> {
    // The state is small; the tensors of a checkpoint are read only where it suits.
    let suits = |path: &Path| saved(path).is_ok_and(|saved| asked(&saved.state)) && Whole::open(path).is_ok();
    let steps = order(listed(run)?, None);
    let Some(step) = steps.into_iter().find(|&step| suits(&directory(run, step))) else { return Ok(None) };
    point_at(run, step)?;
    Ok(Some(step))
}

impl Found {
    /// The checkpoint of this step, where another process has found that it is the one to go on from.
    pub fn of_step(run: &Path, step: u64) -> Result<Self> {
        let path = directory(run, step);
        let checkpoint = Whole::open(&path).with_context(|| path.display().to_string())?;
        Ok(Found { checkpoint, damaged: Vec::new(), latest: (Some(step), None), run: run.to_owned() })
    }

    /// What is to be said of it: a line for `latest` and for each that is damaged.
    pub fn notes(&self) -> Vec<String> {
        let step = self.checkpoint.state.step;
        let mut notes = Vec::new();
        if let Some(wrong) = &self.latest.1 {
            notes.push(format!("note: {wrong}; {} is the newest that is whole", name(step)));
        }
        for Damaged { path, why, .. } in &self.damaged {
            notes.push(format!("note: {} is damaged: {why}", path.display()));
        }
        let steps = self.damaged.iter().map(|damaged| damaged.step).chain(self.latest.0);
        let lost = steps.max().map_or(0, |newest| newest.saturating_sub(step));
        if lost > 0 {
            let steps = if lost == 1 { "1 step is".to_owned() } else { format!("{lost} steps are") };
            notes.push(format!("note: going on from step {step}; {steps} trained again"));
        }
        notes
    }

    /// Makes it the checkpoint that the run goes on from: `latest` names it, and what lies behind it is set aside, as
    /// `step-N.damaged` or `step-N.later`, until the run has come as far again.
    pub fn settle(&self) -> Result<()> {
        let step = self.checkpoint.state.step;
        let newer = listed(&self.run)?.into_iter().filter(|&other| other > step);
        let damaged = self.damaged.iter().map(|damaged| damaged.step);
        let aside: std::collections::BTreeSet<u64> = newer.chain(damaged).collect();
        for other in aside {
            let is_damaged = self.damaged.iter().any(|damaged| damaged.step == other);
            let path = directory(&self.run, other);
            let to = path.with_extension(if is_damaged { "damaged" } else { "later" });
            let _ = fs::remove_dir_all(&to);
            fs::rename(&path, &to)
                .with_context(|| format!("cannot rename {} to {}", path.display(), to.display()))?;
        }
        if pointer(&self.run) != (Some(step), None) {
            point_at(&self.run, step)?;
        }
        Ok(())
    }
}
