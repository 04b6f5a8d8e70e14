//! Event files as TensorBoard reads them: scalars of each line of `metrics.jsonl` and `eval.jsonl`, under the same names.
//!
//! Those of training stand in a folder, those of held-out text in a folder within it, so that TensorBoard draws them as two
//! runs in one picture. A run that goes on begins a new file, whose first event says from which step on what the earlier
//! ones hold is no longer true (`SessionLog::START`): readers drop it, as a resumed run drops lines of `metrics.jsonl`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use prost::Message;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::files::Appended;
use crate::files::records::framed;

/// The folder in a run's.
pub const FOLDER: &str = "tensorboard";
/// Within it, what is of held-out text.
pub const HELD_OUT: &str = "held-out";
/// What readers know such files by.
const PREFIX: &str = "events.out.tfevents.";
/// What the first event of a file says: steps that come back are told by `START`, not guessed.
const VERSION: &str = "brain.Event:2";
/// A program begins, or goes on, at the event's step.
const START: i32 = 1;

/// `tensorflow.Event` as far as we write it (tensorflow/core/util/event.proto).
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    pub session: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` of a single number.
#[derive(Clone, PartialEq, Message)]
pub struct Scalar {
    #[prost(string, tag = "1")]
    pub tag: String,
    /// Optional only in that 0 is written too: which kind of value it is, is told by the field being there.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The group of pictures that a quantity stands in.
fn group(name: &str) -> &'static str {
    match name {
        "loss" | "mlm_loss" | "disc_loss" | "unigram_entropy" | "base_rate_entropy" => "loss",
        "train_accuracy" => "quality",
        _ if name.starts_with("mlm_") || name.starts_with("sampled_") || name.starts_with("disc_") => {
            "quality"
        }
        "lr" | "grad_norm" | "loss_scale" | "skipped_steps" | "tokens" | "sequences" => "training",
        "mfu" => "speed",
        _ if name.ends_with("_per_second") => "speed",
        // Of a task, on the dev set.
        _ => "score",
    }
}

/// The numbers of a line, but for those that count the lines.
fn scalars(values: &Map<String, Value>) -> Vec<Scalar> {
    let numbers = values.iter().filter(|(name, _)| !matches!(name.as_str(), "step" | "steps" | "epoch"));
    let numbers = numbers.filter_map(|(name, value)| Some((name, value.as_f64()? as f32)));
    let scalar = |(name, value): (&String, f32)| Scalar {
        tag: format!("{}/{name}", group(name)),
        simple_value: Some(value),
    };
    numbers.map(scalar).collect()
}

/// Writes the events of one process. What a full disk has no room for is kept until it has, and no reason to stop.
pub struct Events {
    file: Appended,
    /// Events of steps up to this one stand in earlier files, or never were.
    done: u64,
}

impl Events {
    /// Begins a file in the folder: events follow of steps behind `done`, and in files before only those up to it are
    /// still true.
    pub fn begin(folder: &Path, done: u64) -> Self {
        Self::begin_at(folder, done, now())
    }

    /// As [`Events::begin`], at another time.
    pub fn begin_at(folder: &Path, done: u64, time: f64) -> Self {
        let mut events = Events { file: Appended::new(&next_file(folder, time), "events", 0), done };
        events.write(Event { wall_time: time, file_version: Some(VERSION.into()), ..Event::default() });
        let session = Some(SessionLog { status: START });
        events.write(Event { wall_time: time, step: done as i64 + 1, session, ..Event::default() });
        events
    }

    /// Writes the numbers of a line that is written now.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn append(&mut self, step: u64, record: &impl Serialize) -> Result<()> {
        if let Value::Object(values) = serde_json::to_value(record)? {
            self.append_at(step, &values, now());
        }
        Ok(())
    }

    /// Writes the numbers of a line that was written at this time.
    pub fn append_at(&mut self, step: u64, values: &Map<String, Value>, time: f64) {
        if step > self.done {
            let summary = Some(Summary { value: scalars(values) });
            self.write(Event { wall_time: time, step: step as i64, summary, ..Event::default() });
        }
    }

    fn write(&mut self, event: Event) {
        self.file.append(&framed(&event.encode_to_vec()));
    }

    /// Tries a last time to write what waits.
    ///
    /// # Errors
    /// How many events are lost.
    pub fn finish(&mut self) -> Result<()> {
        self.file.finish()
    }
}

impl Drop for Events {
    /// A run whose metrics are whole has not failed for want of their copies.
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            note!("warning: {error:#}");
        }
    }
}

/// The event files of a folder, in the order in which readers take them.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_events =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_events).collect();
    found.sort();
    found
}

/// A name behind those that are there: readers take files in the order of their names, which begin with seconds.
fn next_file(folder: &Path, time: f64) -> PathBuf {
    let seconds = |path: &PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
    };
    let last = files(folder).iter().filter_map(seconds).max();
    let seconds = last.map_or(0, |last| last + 1).max(time.max(0.0) as u64);
    folder.join(format!("{PREFIX}{seconds:010}.inazuma.{}", std::process::id()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::files::records::{masked_crc, next_record};

    /// What a reader has after all files: an event is purged by a later `START` at or before its step.
    pub(crate) fn read(folder: &Path) -> Vec<(i64, String, f32)> {
        let mut kept: Vec<(i64, String, f32)> = Vec::new();
        for path in files(folder) {
            let bytes = fs::read(path).unwrap();
            let mut rest = &bytes[..];
            let mut number = 0;
            while let Some(body) = next_record(&mut rest, masked_crc).unwrap() {
                let event = Event::decode(&body[..]).unwrap();
                assert_eq!(event.file_version.as_deref(), (number == 0).then_some(VERSION));
                assert!(event.wall_time > 1e9);
                if event.session.is_some_and(|session| session.status == START) {
                    kept.retain(|(step, ..)| *step < event.step);
                }
                for scalar in event.summary.unwrap_or_default().value {
                    kept.push((event.step, scalar.tag, scalar.simple_value.unwrap()));
                }
                number += 1;
            }
        }
        kept
    }

    #[test]
    fn a_run_that_goes_on_has_each_step_once() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("run/tensorboard");
        let mut events = Events::begin(&folder, 0);
        for step in [10, 20, 30] {
            events.append(step, &json!({"step": step, "loss": step, "mfu": null, "lr": 0})).unwrap();
        }
        drop(events);
        let mut events = Events::begin(&folder, 20);
        events.append(20, &json!({"step": 20, "loss": 7})).unwrap();
        events.append(30, &json!({"step": 30, "loss": 31, "tokens_per_second": 2.5, "f1": 0.5})).unwrap();
        drop(events);
        let of = |step, tag: &str, value| (step, tag.to_owned(), value);
        let expected = [
            of(10, "loss/loss", 10.0),
            of(10, "training/lr", 0.0),
            of(20, "loss/loss", 20.0),
            of(20, "training/lr", 0.0),
            of(30, "loss/loss", 31.0),
            of(30, "speed/tokens_per_second", 2.5),
            of(30, "score/f1", 0.5),
        ];
        assert_eq!(read(&folder), expected);
        assert_eq!(files(&folder).len(), 2);
        // A bit that is wrong is found.
        let path = &files(&folder)[1];
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        fs::write(path, &bytes).unwrap();
        let mut rest = &bytes[..];
        let damaged =
            std::iter::from_fn(|| next_record(&mut rest, masked_crc).transpose()).find_map(Result::err);
        assert!(damaged.unwrap().to_string().contains("checksum"));
    }

    /// A folder that cannot be made is said, and no failure; when it can, everything comes.
    #[test]
    fn what_cannot_be_written_waits() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("tensorboard");
        fs::write(&folder, "in the way").unwrap();
        let mut events = Events::begin(&folder, 0);
        events.append(1, &json!({"loss": 1})).unwrap();
        assert!(events.finish().unwrap_err().to_string().contains("lacks its last 3 events"));
        fs::remove_file(&folder).unwrap();
        events.append(2, &json!({"loss": 2})).unwrap();
        events.finish().unwrap();
        assert_eq!(read(&folder).len(), 2);
    }
}
