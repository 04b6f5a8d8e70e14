//! What a task is to everything that treats all tasks alike.

use std::any::Any;
use std::fmt;

use anyhow::{Context, Result};
use clap::{ArgMatches, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::tokenizer::Tokenizer;

use super::data::{Problems, Purpose};
use super::lesson::{AnyHead, Lesson};
use super::predictor::Predictor;
use super::source::{Line, Source, spread};
use super::table::hold_out;

/// A task, as the registry lists it.
pub trait Task: Send + Sync {
    /// As the command line and `inazuma.json` call it, in kebab-case.
    fn name(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    fn defaults(&self) -> Defaults {
        Defaults { epochs: 3, learning_rate: 1e-4, max_length: 128 }
    }

    /// Adds the options of `finetune` that only this task has.
    fn options(&self, command: Command) -> Command {
        command
    }

    /// What a model's directory keeps of this task before any example is read, from these options.
    ///
    /// Errors: an option out of its range, by name.
    fn settings(&self, options: &ArgMatches) -> Result<Settings>;

    /// Adds the options of everything that predicts (`finetune`, `eval`, `predict`) that only this task has.
    fn prediction_options(&self, command: Command) -> Command {
        command
    }

    /// What the options of a prediction say, which no directory keeps.
    fn prediction_settings(&self, _: &ArgMatches) -> Result<Settings> {
        Ok(Settings::new())
    }

    /// Refuses settings, as a model's directory keeps them, that make no model.
    fn check(&self, description: &Description) -> Result<()>;

    /// Reads the examples of a file, all of them: who wants fewer calls `examples`.
    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)>;

    /// The keys of an object that `predict` reads, for its help.
    fn input(&self) -> &'static str;

    /// Examples to predict, one a line.
    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>>;

    fn head(&self, description: &Description) -> Result<Box<dyn AnyHead>>;

    fn huggingface(&self, description: &Description) -> Result<HuggingFace>;

    /// Small lessons of every head it has, for `selftest` and the tests.
    fn samples(&self) -> Vec<Box<dyn Lesson>>;

    /// The goldens of its heads: `kernels-tests/goldens/finetune-<golden>.safetensors`.
    fn goldens(&self) -> &'static [&'static str];
}

impl dyn Task {
    /// Reads as many examples of a file as its source wants.
    pub fn examples(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let (examples, problems) = self.read(source, purpose)?;
        Ok((examples.limited(source.limit), problems))
    }
}

impl fmt::Debug for dyn Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `finetune` takes where the user does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    pub epochs: usize,
    pub learning_rate: f64,
    /// Tokens of a sequence.
    pub max_length: usize,
}

/// A task's own settings, by key.
pub type Settings = Map<String, Value>;

/// The settings of a task as a map.
pub fn to_settings(settings: &impl Serialize) -> Result<Settings> {
    match serde_json::to_value(settings)? {
        Value::Object(settings) => Ok(settings),
        other => anyhow::bail!("settings are no object but {other}; please report this"),
    }
}

/// Everything that a fine-tuned model needs to know beside its weights.
#[derive(Clone, Debug)]
pub struct Description {
    pub task: &'static dyn Task,
    /// Texts are lower-cased before the tokenizer.
    pub lower: bool,
    /// Tokens of a sequence at most.
    pub max_length: usize,
    pub settings: Settings,
}

impl Description {
    /// The settings as a task knows them.
    ///
    /// Errors: a setting that is missing or of another kind, by name.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S> {
        let settings = Value::Object(self.settings.clone());
        serde_json::from_value(settings).context("not a model's description")
    }
}

/// What Hugging Face should make of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HuggingFace {
    /// The class that loads encoder and head; nothing where they have none for the head.
    pub class: Option<&'static str>,
    /// As their site sorts models.
    pub pipeline_tag: &'static str,
    /// Names of the logits, where they have some.
    pub labels: Vec<String>,
    pub problem_type: Option<&'static str>,
}

/// With what examples are made ready for a model.
pub struct Preparation<'a> {
    pub description: &'a Description,
    pub tokenizer: &'a Tokenizer,
    /// What reading the examples found.
    pub problems: Problems,
    pub training: bool,
    /// Of a dev set: what is best chosen by its labels, such as a threshold, is chosen so and kept with the model.
    pub tunes: bool,
    /// Of [`Task::prediction_settings`].
    pub prediction: &'a Settings,
}

/// Examples as they stand in a file.
pub trait Examples {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `limit` of them, evenly spread.
    fn limited(self: Box<Self>, limit: Option<usize>) -> Box<dyn Examples>;

    /// Sets a share aside, whole documents (or contexts) together; returns the rest and what was set aside.
    fn hold_out(self: Box<Self>, share: f64) -> (Box<dyn Examples>, Box<dyn Examples>);

    /// Completes the settings with what the training examples say: labels, choices, range, answerability.
    fn describe(&self, settings: &mut Settings) -> Result<()>;

    /// Encodes the examples for a model.
    fn prepare(self: Box<Self>, preparation: Preparation<'_>) -> Result<Box<dyn Data>>;
}

/// An example of one task; a list of them is [`Examples`].
pub trait Example: Sized + 'static {
    /// What `hold_out` keeps together.
    fn group(&self) -> &str;

    /// See [`Examples::describe`].
    fn describe(examples: &[Self], settings: &mut Settings) -> Result<()>;

    /// See [`Examples::prepare`].
    fn prepare(examples: Vec<Self>, preparation: Preparation<'_>) -> Result<Box<dyn Data>>;
}

impl<E: Example> Examples for Vec<E> {
    fn len(&self) -> usize {
        self.len()
    }

    fn limited(self: Box<Self>, limit: Option<usize>) -> Box<dyn Examples> {
        Box::new(spread(*self, limit))
    }

    fn hold_out(self: Box<Self>, share: f64) -> (Box<dyn Examples>, Box<dyn Examples>) {
        let (rest, held) = hold_out(*self, share, E::group);
        (Box::new(rest), Box::new(held))
    }

    fn describe(&self, settings: &mut Settings) -> Result<()> {
        E::describe(self, settings)
    }

    fn prepare(self: Box<Self>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        E::prepare(*self, preparation)
    }
}

/// A data set ready for a model.
pub trait Data {
    /// What there is to learn; without items where the data are only predicted.
    fn lesson(&self) -> Box<dyn Lesson>;

    /// Predicts all of it, and scores what has labels.
    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome>;

    /// What was wrong with the examples.
    fn problems(&self) -> &Problems;

    /// One line on how much there is.
    fn summary(&self) -> String;
}

/// A score by name, as percentages where it is a share.
pub type Score = (&'static str, f64);

/// What a model said about a data set.
pub struct Outcome {
    /// The first decides which epoch is best. Empty where the data have no labels.
    pub scores: Vec<Score>,
    pub predictions: Box<dyn Predictions>,
    /// What was chosen by the labels of a dev set, for the model's directory to keep among the task's settings.
    pub tuned: Settings,
}

/// Predictions in the form users expect of the task.
pub trait Predictions: Any {
    /// One object an example, in order: what `predict` writes.
    fn lines(&self) -> Vec<Value>;

    /// Files by extension, the main one first: what `--predictions` writes.
    fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>>;
}

/// Predictions of which an object a line is all there is.
pub struct Lines(pub Vec<Value>);

impl Predictions for Lines {
    fn lines(&self) -> Vec<Value> {
        self.0.clone()
    }

    fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let text: String = self.0.iter().map(|line| format!("{line}\n")).collect();
        Ok(vec![("jsonl", text.into_bytes())])
    }
}
