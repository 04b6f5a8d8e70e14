//! What a fine-tuned model's directory keeps of its training (`training.json`), and the model card made of it.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::interop::export::card::{Card, Naming, Results, code, table};
use crate::interop::export::run::{locate, sizes};
use crate::interop::provenance::Provenance;
use crate::model::ModelConfig;
use crate::tasks::source::Source;
use crate::tasks::task::Description;
use crate::tokenizer::hex;

use super::options::{Init, Options};
use super::trials::Trial;

/// The file's name.
pub const TRAINING: &str = "training.json";

/// Data that were trained on or scored, without where they lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    pub file: String,
    pub sha256: String,
    /// Of the examples those that were used, and how they were chosen, where not all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<String>,
}

/// How a model was trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Training {
    pub command: String,
    pub train: DataFile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<DataFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<f64>,
    pub best_epoch: usize,
    /// Of the best epoch, on the dev set.
    pub scores: Map<String, Value>,
    /// The model of others that the encoder began with, where it came by `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The epochs up to the best one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Passed>,
}

/// What the card says of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    pub epoch: usize,
    /// Steps and tokens since the start.
    pub steps: u64,
    pub tokens: u64,
    pub loss: f64,
    /// On the dev set, where there is one: the score that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl DataFile {
    fn of(source: &Source) -> Result<Self> {
        let path = &source.path;
        let cannot = || format!("cannot read {}", path.display());
        let mut hash = Sha256::new();
        let mut file = File::open(path).with_context(cannot)?;
        std::io::copy(&mut file, &mut HashWriter(&mut hash)).with_context(cannot)?;
        let mut chosen = Vec::new();
        chosen.extend(source.selection.as_ref().map(|only| format!("{}={}", only.column, only.value)));
        chosen.extend(source.limit.map(|limit| format!("{limit} at most")));
        Ok(DataFile {
            file: name(path),
            sha256: hex(&hash.finalize()),
            selection: (!chosen.is_empty()).then(|| chosen.join(", ")),
        })
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

impl Training {
    /// Errors: data that cannot be read.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Training {
            command: command(options),
            train: DataFile::of(&options.train)?,
            dev: options.dev.as_ref().map(DataFile::of).transpose()?,
            hold_out: options.hold_out,
            best_epoch: 0,
            scores: Map::new(),
            base_model: base_model(&options.init)?,
            epochs: Vec::new(),
        })
    }

    /// With how one training ended, after these epochs of `planned`.
    pub fn ended(&self, trial: &Trial, planned: usize, passed: &[Passed]) -> Self {
        let command = format!("{} --epochs {planned} --seed {}", self.command, trial.seed);
        let (best_epoch, scores, epochs) = (trial.best_epoch, trial.scores.clone(), passed.to_vec());
        Training { command, best_epoch, scores, epochs, ..self.clone() }
    }

    /// Of a model's directory; nothing where it does not say (one of version 0.1).
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(TRAINING);
        if !path.is_file() {
            return Ok(None);
        }
        let shown = path.display();
        let text = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        let training = serde_json::from_slice(&text);
        training.map(Some).with_context(|| format!("{shown}: does not say how a model was trained"))
    }
}

/// The model of others that the encoder came from.
fn base_model(init: &Init) -> Result<Option<String>> {
    let Init::Pretrained(path) = init else { return Ok(None) };
    let of_run = match locate(path)? {
        Some((run, _)) => Provenance::read(&run)?.and_then(|from| from.base_model().map(str::to_owned)),
        // Fine-tuned before, it may be.
        None => Training::read(path)?.and_then(|training| training.base_model),
    };
    Ok(of_run)
}

/// The command that trains it again, but for where things lie.
fn command(options: &Options) -> String {
    let (fit, task) = (&options.fit, options.description.task.name());
    let init = match &options.init {
        Init::Pretrained(path) => format!("--init {}", name(path)),
        Init::Like(path) => format!("--init none --like {}", name(path)),
        Init::Preset(preset) => format!("--init none --preset {preset}"),
    };
    let mut words = vec![format!("inazuma finetune {task} {init} --train {}", name(&options.train.path))];
    let mut source = |name_of: &str, source: &Source| {
        if let Some(only) = &source.selection {
            words.push(format!("--{name_of}-where {}={}", only.column, only.value));
        }
        words.extend(source.limit.map(|limit| format!("--{name_of}-limit {limit}")));
    };
    source("train", &options.train);
    if let Some(dev) = &options.dev {
        source("dev", dev);
        words.push(format!("--dev {}", name(&dev.path)));
    }
    words.extend(options.hold_out.map(|share| format!("--hold-out {}%", share * 100.0)));
    words.push(format!(
        "--out DIR --batch-size {} --learning-rate {:e} --warmup {} --layerwise-lr-decay {} --dropout {} \
         --weight-decay {}",
        fit.batch_size, fit.learning_rate, fit.warmup, fit.layer_decay, fit.dropout, fit.weight_decay
    ));
    words.extend(options.max_length.map(|length| format!("--max-length {length}")));
    words.extend(options.patience.map(|epochs| format!("--patience {epochs}")));
    if options.redraw_layers > 0 {
        words.push(format!("--redraw-layers {}", options.redraw_layers));
    }
    words.join(" ")
}

/// The model card of a fine-tuned model.
pub fn card(
    description: &Description,
    model: &ModelConfig,
    training: Option<&Training>,
    mut naming: Naming,
) -> Result<Card> {
    let theirs = description.task.huggingface(description)?;
    let mut about = format!("An ELECTRA model for Japanese, fine-tuned: {}.", description.task.about());
    if theirs.class.is_none() {
        about.push_str(" transformers has no class for its head; `inazuma predict` uses it.");
    }
    let mut sections = vec![("Sizes", sizes(model))];
    let settings = description.settings.iter().map(|(key, value)| (format!("`{key}`"), format!("`{value}`")));
    let common = [
        ("`max_length`".to_owned(), format!("`{}`", description.max_length)),
        ("`lower`".to_owned(), format!("`{}`", description.lower)),
    ];
    sections.push(("Settings", table(["key", "value"], common.into_iter().chain(settings))));
    let mut results = None;
    if let Some(training) = training {
        naming.base_model = naming.base_model.or_else(|| training.base_model.clone());
        sections.push(("Training data", data(training)));
        if let Some(last) = training.epochs.last() {
            sections.push(("Training", trained(last, &training.epochs)));
        }
        if !training.scores.is_empty() {
            let rows = training.scores.iter().map(|(name, score)| (name.clone(), score.to_string()));
            let text = format!("Epoch {} of the command below.\n\n", training.best_epoch);
            sections.push(("Scores on the dev set", text + &table(["score", "value"], rows)));
            let scored = training.dev.as_ref().unwrap_or(&training.train);
            let scores = training.scores.iter();
            results = Some(Results {
                task: theirs.pipeline_tag.to_owned(),
                dataset: scored.file.clone(),
                scores: scores.filter_map(|(name, score)| Some((name.clone(), score.as_f64()?))).collect(),
            });
        }
        sections.push(("The command", code("sh", &training.command)));
    }
    let pipeline_tag = theirs.class.map(|_| theirs.pipeline_tag);
    Ok(Card { naming, pipeline_tag, about, sections, results })
}

/// Steps, tokens and the curve.
fn trained(last: &Passed, epochs: &[Passed]) -> String {
    let rows = [("steps", last.steps), ("tokens, without padding", last.tokens)];
    let rows = rows.map(|(name, number)| (name.to_owned(), number.to_string()));
    let mut text = table(["what", "how much"], rows);
    text.push_str("\n| epoch | steps | loss | score on the dev set |\n|---|---|---|---|\n");
    for Passed { epoch, steps, loss, score, .. } in epochs {
        let score = score.map_or(String::new(), |score| format!("{score:.4}"));
        text.push_str(&format!("| {epoch} | {steps} | {loss:.4} | {score} |\n"));
    }
    text
}

fn data(training: &Training) -> String {
    let line = |what: &str, data: &DataFile| {
        let selection = data.selection.as_ref().map_or(String::new(), |only| format!(" ({only})"));
        (what.to_owned(), format!("`{}`{selection}, SHA-256 `{}`", data.file, data.sha256))
    };
    let mut rows = vec![line("trained on", &training.train)];
    rows.extend(training.dev.as_ref().map(|dev| line("scored on", dev)));
    if let Some(share) = training.hold_out {
        rows.push(("scored on".to_owned(), format!("{}% of it, held out", share * 100.0)));
    }
    table(["what", "data"], rows)
}
