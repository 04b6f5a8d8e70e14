//! Fine-tuning from files to a model's directory, with the dev set scored at each epoch and the best kept.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::device::{Device, Room};
use crate::files::{JsonLines, write_atomically};
use crate::interop::pretrained::Pretrained;
use crate::model::{ModelConfig, parameters};
use crate::tasks::data::{Problems, Purpose};
use crate::tasks::predictor::Predictor;
use crate::tasks::task::{Data, Description, Examples, Outcome, Preparation, Settings};
use crate::tokenizer::Tokenizer;
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::events::{Events, FOLDER};
use crate::train::run::Claim;

use super::apply::{ensure_any, report};
use super::fit::{Epoch, Fit, FitOptions};
pub use super::options::{Init, Options};
use super::package::Package;
use super::predictions::{named, shown, write_predictions};
use super::training::{Passed, Training};
use super::trials::{Report, Trial};

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
struct Record {
    step: u64,
    #[serde(flatten)]
    epoch: Epoch,
    #[serde(flatten)]
    scores: Map<String, Value>,
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
    /// What is known of any training before it begins.
    training: Training,
}

/// Trains `trials` times, each with its own seed, until done or `stop` is set.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    let _claim = Claim::fresh(&options.out)?;
    let setting = Setting::new(options)?;
    let mut report = Report::default();
    for trial in 0..options.trials {
        let out = match options.trials {
            1 => options.out.clone(),
            _ => options.out.join(format!("trial-{}", trial + 1)),
        };
        let seed = options.fit.seed + trial as u64;
        if options.trials > 1 {
            note!("trial {} of {}, seed {seed}", trial + 1, options.trials);
        }
        let trial = setting.trial(seed, &out, stop)?;
        report.interrupted = trial.interrupted;
        report.trials.push(trial);
        if report.interrupted {
            break;
        }
    }
    report.summarise();
    if options.trials > 1 {
        let path = options.out.join("trials.json");
        write_atomically(&path, &serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(report)
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
            let surroundings = Surroundings { vocab_size: tokenizer.vocab_size(), room: &Room::unlimited() };
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
        ensure!(
            options.redraw_layers <= model.layers,
            "--redraw-layers is {}, but the model has {} layers",
            options.redraw_layers,
            model.layers
        );
        let mut description = options.description.clone();
        description.lower = tokenizer.lower();
        fit_length(&mut description, &model, options.max_length)?;
        let Sets { train, dev } = Sets::read(options)?;
        ensure_any(train.0.as_ref(), &options.train.path)?;
        train.0.describe(&mut description.settings)?;
        let prepare = |(examples, problems): Set, path: &Path, training: bool| -> Result<Box<dyn Data>> {
            let tunes = !training;
            ensure_any(examples.as_ref(), path)?;
            let (description, tokenizer, prediction) = (&description, &tokenizer, &options.prediction);
            let data = examples.prepare(Preparation {
                description,
                tokenizer,
                problems,
                training,
                tunes,
                prediction,
            })?;
            report(data.as_ref(), path);
            note!("{}: {}", if training { "training" } else { "dev set" }, data.summary());
            Ok(data)
        };
        let train = prepare(train, &options.train.path, true)?;
        let path = options.dev.as_ref().map_or(&options.train.path, |source| &source.path);
        let dev = dev.map(|dev| prepare(dev, path, false)).transpose()?;
        let device = Device::new(&options.device, options.threads)?.with_memory_limit(options.memory_limit);
        let training = Training::new(options)?;
        Ok(Setting { options, device, pretrained, model, tokenizer, description, train, dev, training })
    }

    fn trial(&self, seed: u64, out: &Path, stop: &AtomicBool) -> Result<Trial> {
        let lesson = self.train.lesson();
        let max_length = self.description.max_length;
        let mut options = FitOptions { seed, max_length, ..self.options.fit };
        let items = lesson.sizes().len() as u64;
        if let Some((few, epochs)) = self.options.few_epochs.filter(|&(few, _)| items < few) {
            note!("under {few} examples: {epochs} epochs (--epochs changes that)");
            options.epochs = epochs;
        }
        let mut fit = Fit::new(&self.device, &self.model, lesson.as_ref(), options)?;
        parameters::initialise(fit.executor(), seed)?;
        if let Some(pretrained) = &self.pretrained {
            pretrained.load(fit.executor(), self.options.redraw_layers)?;
        }
        let head = self.description.task.head(&self.description)?;
        let predictor = || Predictor::new(&self.device, &self.model, head.as_ref(), max_length);
        let mut predictor = self.dev.as_ref().map(|_| predictor()).transpose()?;
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let metrics = JsonLines::open(&out.join("metrics.jsonl"), 0)?;
        let events = self.options.tensorboard.then(|| Events::begin(&out.join(FOLDER), 0));
        note!("{} steps of {} items on {}", fit.steps(), options.batch_size, fit.executor().identity());
        let trial = Trial { seed, best_epoch: 0, scores: Map::new(), interrupted: false };
        let epochs = options.epochs;
        let (best, passed) = (f64::NEG_INFINITY, Vec::new());
        let tuned = Settings::new();
        let mut keeper = Keeper { setting: self, out, epochs, metrics, events, passed, best, trial, tuned };
        fit.show_progress();
        for number in 0..epochs {
            let Some(epoch) = fit.epoch(number, stop)? else {
                keeper.trial.interrupted = true;
                if keeper.trial.best_epoch == 0 {
                    keeper.write(&mut fit)?;
                }
                break;
            };
            let outcome = match (&self.dev, &mut predictor) {
                (Some(dev), Some(predictor)) => {
                    predictor.take_parameters(fit.executor())?;
                    Some(dev.predict(predictor)?)
                }
                _ => None,
            };
            keeper.keep(epoch, outcome, &mut fit)?;
            if keeper.gives_up(&fit) {
                break;
            }
        }
        keeper.metrics.finish()?;
        Ok(keeper.trial)
    }
}

/// Examples with what was wrong with them.
type Set = (Box<dyn Examples>, Problems);

/// What is trained on, and what is scored.
struct Sets {
    train: Set,
    dev: Option<Set>,
}

impl Sets {
    fn read(options: &Options) -> Result<Sets> {
        let task = options.description.task;
        let train = task.examples(&options.train, Purpose::Train)?;
        if let Some(source) = &options.dev {
            return Ok(Sets { train, dev: Some(task.examples(source, Purpose::Evaluate)?) });
        }
        let Some(share) = options.hold_out else { return Ok(Sets { train, dev: None }) };
        let (rest, held) = train.0.hold_out(share);
        note!("{} examples set aside as dev set, {} to train on", held.len(), rest.len());
        Ok(Sets { train: (rest, train.1), dev: Some((held, Problems::default())) })
    }
}

/// Reports each epoch of a training and keeps its best model.
struct Keeper<'a> {
    setting: &'a Setting<'a>,
    out: &'a Path,
    epochs: usize,
    metrics: JsonLines,
    events: Option<Events>,
    passed: Vec<Passed>,
    best: f64,
    trial: Trial,
    /// What the best epoch's scores on the dev set have chosen.
    tuned: Settings,
}

impl Keeper<'_> {
    fn keep(&mut self, epoch: Epoch, outcome: Option<Outcome>, fit: &mut Fit<'_>) -> Result<()> {
        let scores = outcome.as_ref().map_or(&[][..], |outcome| &outcome.scores);
        let accuracy = epoch.accuracy.map_or(String::new(), |share| format!("  accuracy {share:.3}"));
        note!(
            "epoch {}/{}  loss {:.4}{accuracy}  {:.0} tokens/s  {}",
            epoch.epoch,
            self.epochs,
            epoch.loss,
            epoch.tokens_per_second,
            shown(scores)
        );
        let record = Record { step: epoch.steps, epoch, scores: named(scores) };
        self.metrics.append(&record)?;
        self.events.as_mut().map_or(Ok(()), |events| events.append(record.step, &record))?;
        // Without a dev set, or without labels in it, the last epoch is kept.
        let decides = scores.first().map(|(_, score)| *score);
        let before = self.passed.last().map_or(0, |passed| passed.tokens);
        let Epoch { epoch: number, steps, loss, .. } = epoch;
        let tokens = before + epoch.tokens;
        self.passed.push(Passed { epoch: number, steps, tokens, loss, score: decides });
        let score = decides.unwrap_or(epoch.epoch as f64);
        if score > self.best {
            self.best = score;
            fit.best = scores.first().copied();
            self.trial.best_epoch = epoch.epoch;
            self.trial.scores = named(scores);
            self.tuned = outcome.as_ref().map(|outcome| outcome.tuned.clone()).unwrap_or_default();
            self.write(fit)?;
            if let Some(outcome) = &outcome {
                write_predictions(outcome.predictions.as_ref(), &self.out.join("predictions"))?;
            }
        }
        Ok(())
    }

    /// Whether the dev score has not risen for as many epochs as the user has patience for, and some are left; then it
    /// says so.
    fn gives_up(&self, fit: &Fit<'_>) -> bool {
        let (Some(patience), Some(last)) = (self.setting.options.patience, self.passed.last()) else {
            return false;
        };
        let (best, passed) = (self.trial.best_epoch, last.epoch);
        let gives_up = last.score.is_some() && passed - best >= patience && passed < self.epochs;
        if gives_up {
            note!(
                "the dev score has not risen for {patience} epochs (--patience): stopped after {passed} of {}, that of \
                 epoch {best} is kept; the learning rate was {:.3e} then: it comes to 0 where --epochs ends",
                self.epochs,
                fit.learning_rate()
            );
        }
        gives_up
    }

    /// Writes the model as it now is.
    fn write(&self, fit: &mut Fit<'_>) -> Result<()> {
        let Setting { description, model, tokenizer, options, .. } = self.setting;
        let training = self.setting.training.ended(&self.trial, self.epochs, &self.passed);
        let dropout = options.fit.dropout;
        let mut description = description.clone();
        description.settings.extend(self.tuned.clone());
        Package { description: &description, model, tokenizer, dropout, training: &training }
            .write(self.out, fit.executor())
    }
}
