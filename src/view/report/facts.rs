//! What a run's directory says besides its curves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::device::Room;
use crate::interop::checkpoint::{self, CONFIG, State};
use crate::plan::explain::Summary;
use crate::train::annotated::{Annotated, Entry};
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::examples::full_extents;
use crate::train::run::{INCIDENTS, PROFILE, RUN};
use crate::view::recorded::{Kind, Recorded};

/// A key of the configuration.
pub struct Setting {
    pub name: String,
    pub value: String,
    pub help: &'static str,
    /// Whether the preset has another value.
    pub changed: bool,
}

/// All that is known.
#[derive(Default)]
pub struct Facts {
    pub settings: Vec<Setting>,
    /// That the settings are compared with, as `inazuma config` finds it.
    pub preset: Option<String>,
    /// Memory of the plan that takes most.
    pub memory: Option<Summary>,
    /// Of the newest checkpoint.
    pub state: Option<State>,
    /// `run.json`, or what a fine-tuned model has of its training.
    pub made: Map<String, Value>,
    /// What a fine-tuned model is for.
    pub task: Map<String, Value>,
    pub profile: Option<Value>,
    /// The newest first.
    pub incidents: Vec<Value>,
    pub history: Vec<Value>,
}

/// How many incidents, and events of the history, a page shows.
const SHOWN: usize = 10;

impl Facts {
    /// # Errors
    /// A file is there that cannot be read.
    pub fn of(run: &Recorded) -> Result<Self> {
        let path = &run.path;
        let object = |name: &str| Ok::<_, anyhow::Error>(json(&path.join(name))?.unwrap_or_default());
        if run.kind == Kind::FineTuning {
            let [made, task] = [object("training.json")?, object("inazuma.json")?].map(members);
            return Ok(Facts { made, task, ..Facts::default() });
        }
        let settings = TrainConfig::load(&path.join(CONFIG))?;
        let (annotated, _) = Annotated::of(Some(path), &Sources::default())?;
        let vocab_size = settings.whole("model.vocab_size")? as usize;
        // Its sizes are known, so no device is asked. Of a run whose budget is still open there is no plan yet.
        let surroundings = Surroundings { vocab_size, room: &Room::unlimited() };
        let config = TrainConfig::resolve(settings, surroundings);
        let memory = config.and_then(|config| largest(&config)).ok().flatten();
        let state = checkpoint::latest(path).and_then(|newest| checkpoint::state(&newest)).ok();
        Ok(Facts {
            settings: annotated.keys.iter().filter_map(setting).collect(),
            preset: annotated.preset,
            memory,
            state,
            made: members(object(RUN)?),
            task: Map::new(),
            profile: json(&path.join(PROFILE))?,
            incidents: incidents(&path.join(INCIDENTS))?,
            history: history(&path.join("history.jsonl")),
        })
    }
}

/// Memory of the plan that takes most.
fn largest(config: &TrainConfig) -> Result<Option<Summary>> {
    let mut largest: Option<Summary> = None;
    for leg in config.legs()? {
        let summary = leg.config.plan()?.plan.summary(&full_extents(&leg.config));
        if largest.as_ref().is_none_or(|most| most.bytes < summary.bytes) {
            largest = Some(summary);
        }
    }
    Ok(largest)
}

/// Nothing of a key that is not set.
fn setting(entry: &Entry) -> Option<Setting> {
    let value = match entry.value.as_ref()? {
        Value::String(word) => word.clone(),
        number => number.to_string(),
    };
    Some(Setting { name: entry.name.clone(), value, help: entry.help, changed: entry.changed })
}

fn members(value: Value) -> Map<String, Value> {
    if let Value::Object(members) = value { members } else { Map::new() }
}

/// A file of JSON; nothing where there is none.
fn json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn incidents(folder: &Path) -> Result<Vec<Value>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    let newest = paths.iter().rev().take(SHOWN);
    newest.filter_map(|path| json(path).transpose()).collect()
}

/// The last events; a line that is being written is none yet.
fn history(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(SHOWN).collect()
}
