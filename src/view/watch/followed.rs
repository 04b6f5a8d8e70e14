//! A run as it is followed: what was read of it last, and what became of its directory meanwhile.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::device::Room;
use crate::files::size;
use crate::note::duration;
use crate::train::config::{Surroundings, TrainConfig};

use super::super::recorded::{Kind, Record, Recorded};
use super::lock::Locks;

/// Lines of metrics whose rates say how long the rest will take.
const RECENT: usize = 5;

/// A run that is looked at.
pub struct Followed {
    pub recorded: Recorded,
    pub shown: bool,
    /// Why the directory could not be read the last time.
    pub trouble: Option<String>,
    /// When its configuration was written that `recorded` has.
    config_of: Option<SystemTime>,
    /// Bytes of the largest plan of its configuration.
    pub memory: Option<u64>,
    /// Since its last line was written.
    pub age: Option<Duration>,
    /// The newest checkpoint, and the steps at which something was wrong.
    pub checkpoint: Option<String>,
    pub incidents: Vec<String>,
    locks: Locks,
    /// Whether a process trains in the directory; nothing where that cannot be told.
    held: Option<bool>,
    /// Of a fine-tuning: the epoch after which it ends.
    last_epoch: Option<f64>,
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Bytes that a step of the run takes, as its plans say; nothing where there is no such configuration.
fn memory(recorded: &Recorded) -> Option<u64> {
    let settings = TrainConfig::load(&recorded.path.join("config.toml")).ok()?;
    let vocab_size = settings.whole("model.vocab_size").ok()? as usize;
    let surroundings = Surroundings { vocab_size, room: &Room::unlimited() };
    let config = TrainConfig::resolve(settings, surroundings).ok()?;
    let legs = config.legs().ok()?;
    let bytes = legs.iter().filter_map(|leg| leg.config.plan().ok().map(|plan| plan.plan.bytes()));
    bytes.max()
}

/// The epoch after which a fine-tuning ends, by the model that it has kept so far: the last one, or where the dev score has
/// not risen for as long as the user has patience.
fn last_epoch(path: &Path) -> Option<f64> {
    let training: Value = serde_json::from_slice(&std::fs::read(path.join("training.json")).ok()?).ok()?;
    let command = training.get("command").and_then(Value::as_str).unwrap_or_default();
    let option = |name: &str| -> Option<f64> {
        let mut words = command.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    };
    let best = training.get("best_epoch").and_then(Value::as_f64).unwrap_or(0.0);
    let patient = option("--patience").map_or(f64::INFINITY, |patience| best + patience);
    // What does not say how many were planned has at least that one.
    Some(option("--epochs").unwrap_or(best).min(patient))
}

impl Followed {
    pub fn new(recorded: Recorded) -> Self {
        let (memory, config_of) = (memory(&recorded), modified(&recorded.path.join("config.toml")));
        let mut followed = Followed {
            locks: Locks::of(&recorded.path),
            held: None,
            last_epoch: None,
            recorded,
            shown: true,
            trouble: None,
            config_of,
            memory,
            age: None,
            checkpoint: None,
            incidents: Vec::new(),
        };
        followed.look_around();
        followed
    }

    /// Reads what is new. A directory that is gone, or that is damaged, is shown as it was.
    pub fn refresh(&mut self) {
        let path = self.recorded.path.clone();
        if !path.is_dir() {
            self.trouble = Some("its directory is gone".into());
            return;
        }
        let config_of = modified(&path.join("config.toml"));
        let refreshed = if config_of == self.config_of {
            self.recorded.refresh().map(|_| ())
        } else {
            // Resumed with other keys, or another run in its place.
            Recorded::open(&path).map(|recorded| {
                self.memory = memory(&recorded);
                self.recorded = recorded;
                self.config_of = config_of;
            })
        };
        self.trouble = refreshed.err().map(|error| format!("{error:#}").replace('\n', " "));
        self.look_around();
    }

    fn look_around(&mut self) {
        let path = &self.recorded.path;
        self.age = modified(&path.join("metrics.jsonl")).and_then(|time| time.elapsed().ok());
        let latest = std::fs::read_to_string(path.join("latest")).ok();
        self.checkpoint = latest.and_then(|text| Some(text.trim().rsplit('/').next()?.to_owned()));
        let incidents = std::fs::read_dir(path.join("incidents")).into_iter().flatten().flatten();
        self.incidents = incidents.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        self.incidents.retain(|name| name.ends_with(".json"));
        self.incidents.sort();
        self.held = self.locks.are_held();
        self.last_epoch = if self.recorded.kind == Kind::FineTuning { last_epoch(path) } else { None };
    }

    /// Updates made, as far as lines say.
    pub fn step(&self) -> u64 {
        self.recorded.metrics().last().map_or(0, |record| record.step)
    }

    /// Updates that the run is to make.
    pub fn steps(&self) -> Option<u64> {
        let steps = self.recorded.config.get("steps").and_then(toml::Value::as_integer);
        steps.and_then(|steps| u64::try_from(steps).ok())
    }

    /// Seconds that the rest will take at the rate of the last lines.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.steps()?.saturating_sub(self.step());
        let metrics = self.recorded.metrics();
        let recent = &metrics[metrics.len().saturating_sub(RECENT + 1)..];
        let (mut steps, mut seconds) = (0, 0.0);
        for pair in recent.windows(2) {
            let rate = pair[1].number("tokens_per_second").filter(|&rate| rate > 0.0)?;
            seconds += (pair[1].number("tokens")? - pair[0].number("tokens")?).max(0.0) / rate;
            steps += pair[1].step.saturating_sub(pair[0].step);
        }
        (steps > 0).then(|| left as f64 * seconds / steps as f64)
    }

    /// Whether it has come to its end.
    fn is_done(&self) -> bool {
        let epoch = self.recorded.metrics().last().and_then(|record| record.number("epoch"));
        match self.recorded.kind {
            Kind::Pretraining => self.steps() == Some(self.step()),
            Kind::FineTuning => epoch.zip(self.last_epoch).is_some_and(|(epoch, last)| epoch >= last),
        }
    }

    /// The run in a line: what matters most comes first, as the end may be cut off.
    pub fn state(&self) -> String {
        let last = self.recorded.metrics().last();
        let mut parts = Vec::new();
        parts.extend(self.trouble.clone());
        parts.push(match (self.steps(), self.recorded.kind) {
            (Some(steps), _) => format!("step {}/{steps}", self.step()),
            (None, Kind::FineTuning) => match last.and_then(|record| record.number("epoch")) {
                Some(epoch) => format!("epoch {epoch:.0}, step {}", self.step()),
                None => "no epoch yet".into(),
            },
            (None, Kind::Pretraining) => format!("step {}", self.step()),
        });
        match self.seconds_left() {
            _ if self.is_done() => parts.push("done".into()),
            _ if self.held == Some(false) => parts.push("stopped".into()),
            Some(seconds) => parts.push(format!("{} left", duration(seconds))),
            None => {}
        }
        if let Some(rate) = last.and_then(|record| record.number("tokens_per_second")) {
            parts.push(format!("{rate:.0} tokens/s"));
        }
        parts.extend(self.memory.map(size));
        parts.extend(self.age.map(|age| format!("written {} ago", duration(age.as_secs_f64()))));
        parts.extend(self.checkpoint.clone().map(|name| format!("checkpoint {name}")));
        parts.join("  ")
    }

    /// The last things that happened, the newest last.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<(u64, String)> = Vec::new();
        let of = |what: &str, record: &Record, names: &[&str]| {
            let number = |name: &&str| Some(format!("{name} {}", short(record.number(name)?)));
            let numbers: Vec<String> = names.iter().filter_map(number).collect();
            (record.step, format!("step {}{what}: {}", record.step, numbers.join("  ")))
        };
        let metrics =
            ["loss", "mlm_loss", "disc_loss", "disc_auc", "lr", "grad_norm", "f1", "exact_match", "accuracy"];
        for record in self.recorded.metrics().iter().rev().take(2) {
            lines.push(of("", record, &metrics));
        }
        for record in self.recorded.evaluations().iter().rev().take(1) {
            lines.push(of(", held-out text", record, &metrics[..4]));
        }
        for record in self.recorded.history().iter().rev().take(2) {
            let text = |name: &str| match record.values.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            let rest = record.values.keys().filter(|name| !matches!(name.as_str(), "step" | "event"));
            let rest: Vec<String> = rest.map(|name| format!("{name} {}", text(name))).collect();
            lines
                .push((record.step, format!("step {}: {}: {}", record.step, text("event"), rest.join(", "))));
        }
        for name in self.incidents.iter().rev().take(2) {
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            let step = digits.parse().unwrap_or(0);
            lines.push((step, format!("step {step}: its numbers were no good: incidents/{name}")));
        }
        lines.sort_by_key(|(step, _)| *step);
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// A number in few characters.
pub fn short(x: f64) -> String {
    with_digits(x, 0)
}

/// As [`short`], with so many more digits.
pub fn with_digits(x: f64, more: usize) -> String {
    match x.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e6).contains(&size) => format!("{x:.0$e}", 2 + more),
        size if size >= 1000.0 => format!("{x:.more$}"),
        size if size >= 10.0 => format!("{x:.0$}", 2 + more),
        _ => format!("{x:.0$}", 4 + more),
    }
}
