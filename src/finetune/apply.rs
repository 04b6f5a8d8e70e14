//! A fine-tuned model at work: scoring a data set, answering questions.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::device::{Device, DeviceChoice};
use crate::interop::pretrained::Pretrained;
use crate::tokenizer::Tokenizer;

use super::answers::Prediction;
use super::data::squad::Question;
use super::data::{Problems, Purpose};
use super::load::{self, Examples, Source};
use super::package::Description;
use super::predictor::Predictor;
use super::tasks::Outcome;
use super::tasks::squad::SquadData;

/// A fine-tuned model, ready to predict.
pub struct Model {
    pub description: Description,
    tokenizer: Tokenizer,
    predictor: Predictor,
}

impl Model {
    /// Opens a directory that `finetune` wrote.
    pub fn open(directory: &Path, device: &DeviceChoice, threads: usize) -> Result<Self> {
        let description = Description::read(directory)?;
        let pretrained = Pretrained::open(directory)?;
        let tokenizer = pretrained.tokenizer(None, Some(description.lower))?;
        ensure!(
            description.max_length <= pretrained.model.max_positions,
            "{}: max_length is {}, but the model has {} positions",
            directory.display(),
            description.max_length,
            pretrained.model.max_positions
        );
        let device = Device::new(device, threads)?;
        let head = description.head();
        let mut predictor = Predictor::new(&device, &pretrained.model, head, description.max_length)?;
        predictor.load(&pretrained)?;
        Ok(Model { description, tokenizer, predictor })
    }

    pub fn device(&self) -> String {
        self.predictor.describe()
    }

    /// Predicts a data set, and scores it where it has labels.
    pub fn evaluate(&mut self, source: &Source, no_answer_threshold: f32) -> Result<Outcome> {
        let (examples, problems) = load::read(self.description.task, source, Purpose::Evaluate)?;
        load::ensure_any(&examples, &source.path)?;
        let data =
            examples.prepare(problems, &self.description, &self.tokenizer, false, no_answer_threshold)?;
        load::report(data.as_ref(), &source.path);
        data.predict(&mut self.predictor)
    }

    /// Predicts examples that come from somewhere else than a file.
    pub fn predict(&mut self, examples: Examples) -> Result<Outcome> {
        let problems = Problems::default();
        let data = examples.prepare(problems, &self.description, &self.tokenizer, false, 0.0)?;
        data.predict(&mut self.predictor)
    }

    /// Answers questions, each with its own context: the best answer's text, and all of the n-best.
    pub fn answer(&mut self, questions: Vec<Question>, threshold: f32) -> Result<Vec<(String, Prediction)>> {
        let problems = Problems::default();
        let data = SquadData::new(questions, problems, &self.description, &self.tokenizer, false, threshold)?;
        let answers = data.answers(&mut self.predictor)?;
        Ok(answers.into_iter().map(|prediction| (data.text(&prediction).to_owned(), prediction)).collect())
    }
}

/// A question that was asked, without known answers.
pub fn question(id: String, question: String, context: &str) -> Question {
    Question {
        id,
        title: String::new(),
        question,
        context: Arc::from(context),
        answers: Vec::new(),
        impossible: false,
    }
}
