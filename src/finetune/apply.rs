//! A fine-tuned model at work.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::device::{Device, DeviceChoice};
use crate::interop::pretrained::Pretrained;
use crate::tasks::data::{Problems, Purpose};
use crate::tasks::features::Input;
use crate::tasks::predictor::Predictor;
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{Data, Description, Examples, Outcome, Preparation, Settings};
use crate::tokenizer::Tokenizer;

use super::package;

/// What a head says of an item.
pub enum ItemLogits {
    /// Of each token.
    Tokens(Vec<Vec<f32>>),
    /// Of the sequence, or one of each of its sequences.
    Item(Vec<f32>),
}

/// A fine-tuned model, ready to predict.
pub struct Model {
    pub description: Description,
    tokenizer: Tokenizer,
    predictor: Predictor,
}

impl Model {
    /// Opens a directory that `finetune` wrote.
    pub fn open(directory: &Path, device: &DeviceChoice, threads: usize) -> Result<Self> {
        let description = package::read(directory)?;
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
        let head = description.task.head(&description)?;
        let mut predictor =
            Predictor::new(&device, &pretrained.model, head.as_ref(), description.max_length)?;
        predictor.load(&pretrained)?;
        Ok(Model { description, tokenizer, predictor })
    }

    pub fn device(&self) -> String {
        self.predictor.describe()
    }

    /// Predicts a data set, and scores it where it has labels. `prediction`: what the task's options of prediction
    /// say.
    pub fn evaluate(&mut self, source: &Source, prediction: &Settings) -> Result<Outcome> {
        let (examples, problems) = self.description.task.examples(source, Purpose::Evaluate)?;
        ensure_any(examples.as_ref(), &source.path)?;
        let data = self.prepare(examples, problems, prediction)?;
        report(data.as_ref(), &source.path);
        data.predict(&mut self.predictor)
    }

    /// Predicts examples that are given line by line.
    pub fn predict(&mut self, lines: &[Line], prediction: &Settings) -> Result<Outcome> {
        let examples = self.description.task.parse(lines)?;
        let data = self.prepare(examples, Problems::default(), prediction)?;
        data.predict(&mut self.predictor)
    }

    /// The logits for ids that are ready: as many sequences as the head judges together.
    ///
    /// Errors: ids or lengths that the model does not have; a head that says more than logits.
    pub fn logits(&mut self, item: &[Input]) -> Result<ItemLogits> {
        let head = self.description.task.head(&self.description)?;
        let (given, group) = (item.len(), head.sequences());
        ensure!(given == group, "there are {given} sequences; the model judges {group} together");
        let (most, pieces) = (self.description.max_length, self.tokenizer.vocab_size());
        item.iter().try_for_each(|input| input.check(most, pieces))?;
        let said = self.predictor.logits_of(head.as_ref(), &item.iter().collect::<Vec<_>>())?;
        let (logits, values) =
            said.context("the joint head of questions says more than logits; --ids is for the others")?;
        let values = values.concat();
        Ok(match logits.by_token {
            true => ItemLogits::Tokens(values.chunks(logits.columns).map(<[f32]>::to_vec).collect()),
            false => ItemLogits::Item(values),
        })
    }

    fn prepare(
        &self,
        examples: Box<dyn Examples>,
        problems: Problems,
        prediction: &Settings,
    ) -> Result<Box<dyn Data>> {
        let (description, tokenizer) = (&self.description, &self.tokenizer);
        let (training, tunes) = (false, false);
        examples.prepare(Preparation { description, tokenizer, problems, training, tunes, prediction })
    }
}

/// Says what was wrong with the examples of a file, on stderr.
pub(super) fn report(data: &dyn Data, path: &Path) {
    for line in data.problems().report(path) {
        note!("{line}");
    }
}

/// Refuses data in which nothing is left.
pub(super) fn ensure_any(examples: &dyn Examples, path: &Path) -> Result<()> {
    ensure!(!examples.is_empty(), "{}: no example is left to use", path.display());
    Ok(())
}
