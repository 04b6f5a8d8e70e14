//! A run's directory as it stands: its configuration, and the numbers that it has written, while it goes on too.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::files::parse_toml;

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "eval.jsonl";
const HISTORY: &str = "history.jsonl";
/// What a fine-tuned model's directory has, and a run's has not.
const TRAINING: &str = "training.json";

/// What made a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `pretrain`: a line of `metrics.jsonl` an interval of steps.
    Pretraining,
    /// `finetune`: a line of `metrics.jsonl` an epoch, dev scores included.
    FineTuning,
}

/// What a curve is drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Updates
    Steps,
    /// Real tokens
    Tokens,
    /// Time spent on steps; evaluations, checkpoints and interruptions are not in it
    Hours,
}

/// A line of numbers: those of an interval of steps, of an evaluation or of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub step: u64,
    /// Everything that stands in the line.
    pub values: Map<String, Value>,
}

impl Record {
    /// A quantity; nothing where the line lacks it, or it is no number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name).and_then(Value::as_f64)
    }
}

/// The lines of a file that grows, and that a resumed run may have cut.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    /// Bytes read so far: whole lines.
    read: u64,
    /// The last of them, by which is told that the file is no longer the same.
    last: Vec<u8>,
    records: Vec<Record>,
}

impl Lines {
    fn new(path: PathBuf) -> Self {
        Lines { path, read: 0, last: Vec::new(), records: Vec::new() }
    }

    /// Reads what is new; a last line without its end waits for the next call. Whether anything changed.
    fn refresh(&mut self) -> Result<bool> {
        let cannot = || format!("cannot read {}", self.path.display());
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let changed = !self.records.is_empty();
                *self = Lines::new(std::mem::take(&mut self.path));
                return Ok(changed);
            }
            Err(error) => return Err(error).with_context(cannot),
        };
        let known = self.last.len() as u64;
        file.seek(SeekFrom::Start(self.read - known)).with_context(cannot)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(cannot)?;
        let mut cut = false;
        if text.starts_with(&self.last) {
            text.drain(..self.last.len());
        } else {
            *self = Lines::new(std::mem::take(&mut self.path));
            cut = true;
            text.clear();
            file.rewind()
                .and_then(|()| file.read_to_end(&mut text))
                .with_context(|| format!("cannot read {}", self.path.display()))?;
        }
        let before = self.records.len();
        for line in text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            self.take(line)?;
        }
        Ok(cut || self.records.len() > before)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let place = || format!("{}, line {}", self.path.display(), self.records.len() + 1);
        let values: Map<String, Value> =
            serde_json::from_slice(line).with_context(|| format!("{} is no JSON object", place()))?;
        let step = values.get("step").and_then(Value::as_u64);
        let step = step.with_context(|| format!("{} has no `step`", place()))?;
        self.records.push(Record { step, values });
        self.read += line.len() as u64;
        self.last = line.to_vec();
        Ok(())
    }
}

/// A directory of `pretrain` or `finetune`, read.
#[derive(Debug)]
pub struct Recorded {
    pub path: PathBuf,
    pub kind: Kind,
    /// `config.toml`; empty where a model was fine-tuned.
    pub config: toml::Table,
    metrics: Lines,
    evaluations: Lines,
    history: Lines,
}

impl Recorded {
    /// Opens the directory of a run, or of a fine-tuned model.
    ///
    /// # Errors
    /// It is none, or a file of it is damaged: which one, and where.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        ensure!(!path.is_file(), "{shown} is a file; name the directory of the run");
        ensure!(path.is_dir(), "{shown}: no such directory");
        let config = path.join(CONFIG);
        let kind = match (config.is_file(), path.join(TRAINING).is_file() || path.join(METRICS).is_file()) {
            (true, _) => Kind::Pretraining,
            (false, true) => Kind::FineTuning,
            (false, false) => bail!("{shown} is no run: it has neither {CONFIG} nor {METRICS}"),
        };
        let config = match kind {
            Kind::Pretraining => {
                let text = std::fs::read_to_string(&config);
                let text = text.with_context(|| format!("cannot read {}", config.display()))?;
                parse_toml(&text).with_context(|| config.display().to_string())?
            }
            Kind::FineTuning => toml::Table::new(),
        };
        let [metrics, evaluations, history] =
            [METRICS, EVALUATIONS, HISTORY].map(|name| Lines::new(path.join(name)));
        let mut recorded = Recorded { path: path.to_owned(), kind, config, metrics, evaluations, history };
        recorded.refresh()?;
        Ok(recorded)
    }

    /// Opens each; of a directory of trials (`finetune --trials`) all of them.
    ///
    /// # Errors
    /// As [`Recorded::open`].
    pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for path in paths {
            let trials = (1..).map(|n| path.join(format!("trial-{n}"))).take_while(|trial| trial.is_dir());
            let trials: Vec<PathBuf> = trials.collect();
            let each = if trials.is_empty() { std::slice::from_ref(path) } else { &trials };
            for path in each {
                all.push(Recorded::open(path)?);
            }
        }
        Ok(all)
    }

    /// Reads what was written since. Whether anything was.
    ///
    /// # Errors
    /// A line is damaged: which one.
    pub fn refresh(&mut self) -> Result<bool> {
        let metrics = self.metrics.refresh()?;
        let history = self.history.refresh()?;
        Ok(self.evaluations.refresh()? || metrics || history)
    }

    /// Intervals of steps; of a fine-tuned model, epochs.
    pub fn metrics(&self) -> &[Record] {
        &self.metrics.records
    }

    /// Held-out scores.
    pub fn evaluations(&self) -> &[Record] {
        &self.evaluations.records
    }

    /// What happened that the configuration does not say: rollbacks, changed keys.
    pub fn history(&self) -> &[Record] {
        &self.history.records
    }

    /// Whether any line has such a number.
    pub fn has(&self, name: &str) -> bool {
        self.metrics().iter().chain(self.evaluations()).any(|record| record.number(name).is_some())
    }

    /// What a run is called beside others: the end of its path.
    pub fn name(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut parts = path.iter().rev().map(|part| part.to_string_lossy());
        let last = parts.next().unwrap_or_default();
        match parts.next() {
            Some(parent) if last.starts_with("trial-") => format!("{parent}/{last}"),
            _ => last.into_owned(),
        }
    }

    /// Where each interval ends.
    pub fn places(&self, over: Over) -> Vec<f64> {
        let mut sum = 0.0;
        let mut before = 0.0;
        self.metrics()
            .iter()
            .map(|record| {
                // An epoch's line counts its own tokens, an interval's all of them.
                let told = record.number("tokens").unwrap_or(0.0);
                let tokens = if self.kind == Kind::FineTuning { told } else { told - before };
                before = told;
                match over {
                    Over::Steps => return record.step as f64,
                    Over::Tokens => sum += tokens,
                    Over::Hours => {
                        let rate = record.number("tokens_per_second").filter(|&rate| rate > 0.0);
                        sum += rate.map_or(0.0, |rate| tokens / rate / 3600.0);
                    }
                }
                sum
            })
            .collect()
    }

    /// A quantity of the intervals that have it.
    pub fn curve(&self, name: &str, over: Over) -> Vec<(f64, f64)> {
        let places = self.places(over).into_iter();
        places.zip(self.metrics()).filter_map(|(x, record)| Some((x, record.number(name)?))).collect()
    }

    /// A quantity of the evaluations, each where the interval ends that it followed.
    pub fn evaluated(&self, name: &str, over: Over) -> Vec<(f64, f64)> {
        let places = self.places(over);
        let steps: Vec<u64> = self.metrics().iter().map(|record| record.step).collect();
        let place = |step: u64| match steps.partition_point(|&at| at <= step) {
            _ if over == Over::Steps => step as f64,
            0 => 0.0,
            after => places[after - 1],
        };
        let each = self.evaluations().iter();
        each.filter_map(|record| Some((place(record.step), record.number(name)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn line(step: u64, tokens: u64, rate: f64) -> String {
        format!(
            "{{\"step\":{step},\"tokens\":{tokens},\"tokens_per_second\":{rate},\"loss\":{}}}\n",
            step * 2
        )
    }

    #[test]
    fn a_run_is_read_while_it_grows_and_after_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "steps = 30\n").unwrap();
        let metrics = dir.path().join(METRICS);
        let mut run = Recorded::open(dir.path()).unwrap();
        assert!(run.metrics().is_empty() && run.config["steps"].as_integer() == Some(30));
        fs::write(&metrics, line(10, 3600, 1.0) + &line(20, 10_800, 2.0) + "{\"step\":3").unwrap();
        assert!(run.refresh().unwrap() && !run.refresh().unwrap());
        assert_eq!(run.curve("loss", Over::Hours), [(1.0, 20.0), (2.0, 40.0)]);
        assert_eq!(run.curve("loss", Over::Tokens), [(3600.0, 20.0), (10_800.0, 40.0)]);
        let mut file = fs::OpenOptions::new().append(true).open(&metrics).unwrap();
        writeln!(file, "0,\"tokens\":10800,\"tokens_per_second\":null,\"loss\":null}}").unwrap();
        assert!(run.refresh().unwrap());
        assert_eq!((run.metrics().len(), run.curve("loss", Over::Steps).len()), (3, 2));
        fs::write(dir.path().join(EVALUATIONS), "{\"step\":20,\"loss\":7}\n{\"step\":5,\"loss\":9}\n")
            .unwrap();
        assert!(run.refresh().unwrap());
        assert_eq!(run.evaluated("loss", Over::Hours), [(2.0, 7.0), (0.0, 9.0)]);
        assert_eq!(run.evaluated("loss", Over::Steps), [(20.0, 7.0), (5.0, 9.0)]);
        // A resumed run drops lines, then writes others in their place.
        fs::write(
            &metrics,
            line(10, 3600, 1.0) + &line(20, 10_801, 3.0) + &line(30, 20_000, 3.0) + &line(40, 1, 1.0),
        )
        .unwrap();
        assert!(run.refresh().unwrap());
        assert_eq!(run.places(Over::Steps), [10.0, 20.0, 30.0, 40.0]);
        fs::remove_file(&metrics).unwrap();
        assert!(run.refresh().unwrap() && run.metrics().is_empty());
    }

    #[test]
    fn what_is_no_run_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| format!("{:#}", Recorded::open(path).unwrap_err());
        assert!(told(dir.path()).contains("neither config.toml nor metrics.jsonl"));
        assert!(told(&dir.path().join("x")).contains("no such directory"));
        for bad in ["x\n", "{}\n", "[1]\n"] {
            fs::write(dir.path().join(METRICS), line(1, 1, 1.0) + bad).unwrap();
            assert!(told(dir.path()).contains("metrics.jsonl, line 2"), "{}", told(dir.path()));
        }
    }

    #[test]
    fn trials_are_runs_of_their_own_and_epochs_count_their_own_tokens() {
        let dir = tempfile::tempdir().unwrap();
        for n in [1, 2] {
            let trial = dir.path().join(format!("trial-{n}"));
            fs::create_dir(&trial).unwrap();
            fs::write(trial.join(METRICS), line(4, 100, 1.0) + &line(8, 100, 1.0)).unwrap();
        }
        let runs = Recorded::open_all(&[dir.path().to_owned()]).unwrap();
        assert_eq!(runs.len(), 2);
        assert!(runs[1].name().ends_with("/trial-2"));
        assert_eq!(runs[1].places(Over::Tokens), [100.0, 200.0]);
    }
}
