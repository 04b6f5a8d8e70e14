//! Fine-tuning from files to a model's directory, with the dev set scored at each epoch and the best kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::device::{Device, DeviceChoice};
use crate::files::JsonLines;
use crate::files::write_atomically;
use crate::interop::pretrained::Pretrained;
use crate::model::{ModelConfig, parameters};
use crate::tokenizer::Tokenizer;
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::run::ensure_empty;

use super::data::Purpose;
use super::fit::{Epoch, Fit, FitOptions};
use super::load::{self, Source};
use super::metrics::mean_and_spread;
use super::package::Description;
use super::predictor::Predictor;
use super::tasks::{Data, Outcome, Predictions, Score};

/// What the encoder begins as.
#[derive(Clone, Debug)]
pub enum Init {
    /// A run, a checkpoint or a Hugging Face directory.
    Pretrained(PathBuf),
    /// Drawn at random, with the sizes and the tokenizer of such a directory.
    Like(PathBuf),
    /// Drawn at random, with the sizes of a preset of `pretrain`.
    Preset(String),
}

/// What `finetune` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub init: Init,
    pub tokenizer: Option<PathBuf>,
    pub lower: Option<bool>,
    pub train: Source,
    pub dev: Option<Source>,
    /// Layers of the encoder, from the top, that are drawn anew instead of taken from the pre-trained model.
    pub redraw_layers: usize,
    /// Share of the training examples set aside as dev set.
    pub hold_out: Option<f64>,
    pub out: PathBuf,
    /// Labels and the like are filled in from the training examples.
    pub description: Description,
    /// As the user asked; otherwise the description's, or what the model can read.
    pub max_length: Option<usize>,
    pub fit: FitOptions,
    /// With fewer training examples than the first, as many epochs as the second says.
    pub few_epochs: Option<(u64, usize)>,
    pub no_answer_threshold: f32,
    pub trials: usize,
    pub device: DeviceChoice,
    pub threads: usize,
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
struct Record {
    step: u64,
    #[serde(flatten)]
    epoch: Epoch,
    #[serde(flatten)]
    scores: Map<String, Value>,
}

/// How one training ended.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub seed: u64,
    /// The epoch whose model was kept.
    pub best_epoch: usize,
    /// Its scores on the dev set.
    pub scores: Map<String, Value>,
    pub interrupted: bool,
}

/// How all trainings ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub trials: Vec<Trial>,
    /// By score: mean and sample standard deviation over the trials.
    pub mean: Map<String, Value>,
    pub spread: Map<String, Value>,
    pub interrupted: bool,
}

pub(super) fn named(scores: &[Score]) -> Map<String, Value> {
    scores.iter().map(|(name, value)| ((*name).to_owned(), json!((value * 1e4).round() / 1e4))).collect()
}

/// "f1 51.20, exact_match 40.10"
pub fn shown(scores: &[Score]) -> String {
    let scores: Vec<String> = scores.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    scores.join(", ")
}

/// Everything that trainings share.
struct Setting<'a> {
    options: &'a Options,
    device: Device,
    pretrained: Option<Pretrained>,
    model: ModelConfig,
    tokenizer: Tokenizer,
    description: Description,
    train: Box<dyn Data>,
    dev: Option<Box<dyn Data>>,
}

/// Trains `trials` times, each with its own seed, until done or `stop` is set.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    ensure_empty(&options.out)?;
    let setting = Setting::new(options)?;
    let mut report = Report { trials: Vec::new(), mean: Map::new(), spread: Map::new(), interrupted: false };
    for trial in 0..options.trials {
        let out = match options.trials {
            1 => options.out.clone(),
            _ => options.out.join(format!("trial-{}", trial + 1)),
        };
        let seed = options.fit.seed + trial as u64;
        if options.trials > 1 {
            eprintln!("trial {} of {}, seed {seed}", trial + 1, options.trials);
        }
        let trial = setting.trial(seed, &out, stop)?;
        report.interrupted = trial.interrupted;
        report.trials.push(trial);
        if report.interrupted {
            break;
        }
    }
    summarise(&mut report);
    if options.trials > 1 {
        let path = options.out.join("trials.json");
        write_atomically(&path, &serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(report)
}

fn summarise(report: &mut Report) {
    let Some(first) = report.trials.first() else { return };
    for name in first.scores.keys() {
        let values: Vec<f64> =
            report.trials.iter().filter_map(|trial| trial.scores.get(name)?.as_f64()).collect();
        if let Some((mean, spread)) = mean_and_spread(&values) {
            let rounded = |x: f64| json!((x * 1e4).round() / 1e4);
            report.mean.insert(name.clone(), rounded(mean));
            report.spread.extend(spread.map(|spread| (name.clone(), rounded(spread))));
        }
    }
}

/// The encoder that `options.init` means (nothing where it is drawn), its sizes and tokenizer.
fn begin(options: &Options) -> Result<(Option<Pretrained>, ModelConfig, Tokenizer)> {
    let named = options.tokenizer.as_deref();
    match &options.init {
        Init::Pretrained(path) | Init::Like(path) => {
            let pretrained = Pretrained::open(path)?;
            let tokenizer = pretrained.tokenizer(named, options.lower)?;
            let model = pretrained.model.clone();
            let kept = matches!(options.init, Init::Pretrained(_));
            Ok((kept.then_some(pretrained), model, tokenizer))
        }
        Init::Preset(name) => {
            let path = named.context("--init none with --preset needs --tokenizer")?;
            let tokenizer = Tokenizer::open(path, options.lower.unwrap_or(true))?;
            let sources = Sources { preset: Some(name.clone()), ..Sources::default() };
            let surroundings = Surroundings { vocab_size: tokenizer.vocab_size(), gpu: false };
            let config = TrainConfig::resolve(sources.settings()?.0, surroundings)?;
            Ok((None, config.model, tokenizer))
        }
    }
}

/// Settles the length of sequences: what was asked for must fit, the default is cut to what the model reads.
fn fit_length(description: &mut Description, model: &ModelConfig, asked: Option<usize>) -> Result<()> {
    let most = model.max_positions;
    if let Some(length) = asked {
        ensure!(length <= most, "--max-length is {length}, but the model has {most} positions");
        ensure!(length >= 8, "--max-length is {length}; it must be at least 8");
    }
    description.max_length = asked.unwrap_or(description.max_length.min(most));
    Ok(())
}

impl<'a> Setting<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let (pretrained, model, tokenizer) = begin(options)?;
        let mut description = options.description.clone();
        description.lower = tokenizer.lower();
        fit_length(&mut description, &model, options.max_length)?;
        let task = description.task;
        let (mut train, train_problems) = load::read(task, &options.train, Purpose::Train)?;
        let mut dev = None;
        if let Some(source) = &options.dev {
            dev = Some(load::read(task, source, Purpose::Evaluate)?);
        } else if let Some(share) = options.hold_out {
            let (rest, held) = train.hold_out(share);
            eprintln!("{} examples set aside as dev set, {} to train on", held.len(), rest.len());
            (train, dev) = (rest, Some((held, Default::default())));
        }
        load::ensure_any(&train, &options.train.path)?;
        train.describe(&mut description)?;
        let threshold = options.no_answer_threshold;
        let train = train.prepare(train_problems, &description, &tokenizer, true, threshold)?;
        load::report(train.as_ref(), &options.train.path);
        eprintln!("training: {}", train.summary());
        let dev = match dev {
            Some((examples, problems)) => {
                let path = options.dev.as_ref().map_or(&options.train.path, |source| &source.path);
                load::ensure_any(&examples, path)?;
                let dev = examples.prepare(problems, &description, &tokenizer, false, threshold)?;
                load::report(dev.as_ref(), path);
                eprintln!("dev set: {}", dev.summary());
                Some(dev)
            }
            None => None,
        };
        let device = Device::new(&options.device, options.threads)?;
        Ok(Setting { options, device, pretrained, model, tokenizer, description, train, dev })
    }

    fn trial(&self, seed: u64, out: &Path, stop: &AtomicBool) -> Result<Trial> {
        let head = self.description.head();
        let items = self.train.items();
        let max_length = self.description.max_length;
        let mut options = FitOptions { seed, max_length, ..self.options.fit };
        if let Some((few, epochs)) = self.options.few_epochs.filter(|&(few, _)| (items.len() as u64) < few) {
            eprintln!("under {few} examples: {epochs} epochs (--epochs changes that)");
            options.epochs = epochs;
        }
        let mut fit = Fit::new(&self.device, &self.model, head, options, &items)?;
        parameters::initialise(fit.executor(), seed)?;
        if let Some(pretrained) = &self.pretrained {
            pretrained.load(fit.executor(), self.options.redraw_layers)?;
        }
        let mut predictor = match self.dev {
            Some(_) => Some(Predictor::new(&self.device, &self.model, head, options.max_length)?),
            None => None,
        };
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let mut metrics = JsonLines::open(&out.join("metrics.jsonl"), 0)?;
        eprintln!("{} steps of {} items on {}", fit.steps(), options.batch_size, fit.executor().identity());
        let mut trial = Trial { seed, best_epoch: 0, scores: Map::new(), interrupted: false };
        let mut best = f64::NEG_INFINITY;
        for number in 0..options.epochs {
            let Some(epoch) = fit.epoch(number, stop)? else {
                trial.interrupted = true;
                if trial.best_epoch == 0 {
                    self.write(out, &mut fit)?;
                }
                return Ok(trial);
            };
            let outcome = match (&self.dev, &mut predictor) {
                (Some(dev), Some(predictor)) => {
                    predictor.take_parameters(fit.executor())?;
                    Some(dev.predict(predictor)?)
                }
                _ => None,
            };
            let scores = outcome.as_ref().map_or(&[][..], |outcome| &outcome.scores);
            eprintln!(
                "epoch {}/{}  loss {:.4}  accuracy {:.3}  {:.0} tokens/s  {}",
                epoch.epoch,
                options.epochs,
                epoch.loss,
                epoch.accuracy,
                epoch.tokens_per_second,
                shown(scores)
            );
            metrics.append(&Record { step: epoch.steps, epoch, scores: named(scores) })?;
            // Without a dev set, or without labels in it, the last epoch is kept.
            let score = scores.first().map_or(epoch.epoch as f64, |(_, score)| *score);
            if score > best {
                best = score;
                trial.best_epoch = epoch.epoch;
                trial.scores = named(scores);
                self.write(out, &mut fit)?;
                if let Some(outcome) = &outcome {
                    write_predictions(outcome, &out.join("predictions"))?;
                }
            }
        }
        Ok(trial)
    }

    fn write(&self, out: &Path, fit: &mut Fit<'_>) -> Result<()> {
        let dropout = self.options.fit.dropout;
        self.description.write(out, &self.model, &self.tokenizer, dropout, fit.executor())
    }
}

/// Writes predictions beside `stem`: `.json` in the official form and `.nbest.json` for question answering,
/// `.jsonl` for the other tasks. A `stem` that has an extension is the file itself.
pub fn write_predictions(outcome: &Outcome, stem: &Path) -> Result<()> {
    let file = |extension: &str| match stem.extension() {
        Some(_) if extension != "nbest.json" => stem.to_owned(),
        _ => stem.with_extension(extension),
    };
    match &outcome.predictions {
        Predictions::Squad { answers, n_best } => {
            write_atomically(&file("json"), &serde_json::to_vec(answers)?)?;
            write_atomically(&file("nbest.json"), &serde_json::to_vec(n_best)?)
        }
        Predictions::Lines(lines) => {
            let mut text = String::new();
            for line in lines {
                text.push_str(&line.to_string());
                text.push('\n');
            }
            write_atomically(&file("jsonl"), text.as_bytes())
        }
    }
}
