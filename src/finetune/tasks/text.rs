//! A class or a number for a text or a pair of texts.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::finetune::data::Problems;
use crate::finetune::data::labels::Labels;
use crate::finetune::data::records::TextExample;
use crate::finetune::features::{Input, pair, single};
use crate::finetune::items::{Item, Target};
use crate::finetune::metrics;
use crate::finetune::package::{Description, TaskKind};
use crate::finetune::predictor::Predictor;
use crate::tokenizer::Tokenizer;

use super::{Data, Outcome, Predictions, best, rounded, softmax};

/// Encodes texts and pairs.
pub fn encode(examples: &[TextExample], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<Input>> {
    let specials = tokenizer.special_ids()?;
    let encode = |example: &TextExample| {
        let first = tokenizer.encode(&example.first);
        match &example.second {
            Some(second) => pair(&first, &tokenizer.encode(second), max_length, specials),
            None => single(&first, max_length, specials),
        }
    };
    Ok(examples.par_iter().map(encode).collect())
}

/// What is known of every example.
enum Golds {
    Classes(Labels, Vec<Option<usize>>),
    /// In the data's own unit.
    Numbers(Vec<Option<f64>>),
}

/// Texts with classes or numbers.
pub struct TextData {
    examples: Vec<TextExample>,
    inputs: Vec<Input>,
    golds: Golds,
    range: [f64; 2],
    problems: Problems,
}

/// The number that a label says, or a problem.
fn number(example: &TextExample, problems: &mut Problems) -> Option<f64> {
    let label = example.label.as_deref()?;
    let number = label.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    if number.is_none() {
        problems.add(&example.id, format!("label {label:?} is not a number"));
    }
    number
}

/// The least and the largest number of the training examples: what 0 and 1 mean to the model.
pub fn range(examples: &[TextExample]) -> Result<[f64; 2]> {
    let numbers = || examples.iter().filter_map(|example| number(example, &mut Problems::default()));
    let (low, high) = (numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max));
    ensure!(low < high, "the training examples have no two different numbers; there is nothing to learn");
    Ok([low, high])
}

impl TextData {
    pub fn new(
        examples: Vec<TextExample>,
        mut problems: Problems,
        description: &Description,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let golds = match description.task {
            TaskKind::Regress => {
                Golds::Numbers(examples.iter().map(|example| number(example, &mut problems)).collect())
            }
            _ => {
                let labels = Labels::from_names(description.labels.clone())?;
                let indices = labels.indices(&examples, &mut problems);
                Golds::Classes(labels, indices)
            }
        };
        let inputs = encode(&examples, tokenizer, description.max_length)?;
        for (example, input) in examples.iter().zip(&inputs).filter(|(_, input)| input.cut > 0) {
            problems.add(&example.id, format!("text is longer than {} tokens (cut)", input.ids.len()));
        }
        Ok(TextData { examples, inputs, golds, range: description.range, problems })
    }
}

impl Data for TextData {
    fn items(&self) -> Vec<Item> {
        let [low, high] = self.range;
        let target = |index: usize| match &self.golds {
            Golds::Classes(_, classes) => classes[index].map(|class| Target::Class(class as u32)),
            Golds::Numbers(numbers) => {
                numbers[index].map(|number| Target::Number(((number - low) / (high - low)) as f32))
            }
        };
        let inputs = self.inputs.iter().enumerate();
        inputs.filter_map(|(index, input)| Some(Item::one(input.clone(), target(index)?))).collect()
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let inputs: Vec<&Input> = self.inputs.iter().collect();
        let logits = predictor.logits(&inputs)?;
        match &self.golds {
            Golds::Classes(labels, golds) => self.classes(labels, golds, &logits),
            Golds::Numbers(golds) => Ok(self.numbers(golds, &logits)),
        }
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        let tokens: usize = self.inputs.iter().map(|input| input.ids.len()).sum();
        format!("{} texts of {} tokens on average", self.inputs.len(), tokens / self.inputs.len().max(1))
    }
}

impl TextData {
    fn classes(&self, labels: &Labels, golds: &[Option<usize>], logits: &[Vec<f32>]) -> Result<Outcome> {
        let predicted: Vec<usize> = logits.iter().map(|logits| best(logits)).collect();
        let lines = self.examples.iter().zip(logits).zip(&predicted).map(|((example, logits), &class)| {
            let name =
                |class: usize| labels.name(class).context("a class without a name; please report this");
            let probabilities = softmax(logits)
                .into_iter()
                .enumerate()
                .map(|(class, probability)| Ok((name(class)?.to_owned(), rounded(probability))));
            let probabilities = probabilities.collect::<Result<serde_json::Map<_, _>>>()?;
            Ok(json!({"id": example.id, "label": name(class)?, "probabilities": probabilities}))
        });
        let predictions = Predictions::Lines(lines.collect::<Result<Vec<Value>>>()?);
        let labelled = self.examples.iter().any(|example| example.label.is_some());
        let accuracy = metrics::accuracy(golds, &predicted).filter(|_| labelled);
        let scores = accuracy.map(|share| ("accuracy", 100.0 * share)).into_iter().collect();
        Ok(Outcome { scores, predictions })
    }

    fn numbers(&self, golds: &[Option<f64>], logits: &[Vec<f32>]) -> Outcome {
        let [low, high] = self.range;
        let predicted: Vec<f64> =
            logits.iter().map(|logits| low + f64::from(logits[0]) * (high - low)).collect();
        let lines = self.examples.iter().zip(&predicted);
        let lines = lines.map(|(example, &value)| json!({"id": example.id, "value": rounded(value)}));
        let pairs: (Vec<f64>, Vec<f64>) =
            golds.iter().zip(&predicted).filter_map(|(gold, &value)| Some(((*gold)?, value))).unzip();
        let correlations = [
            ("pearson", metrics::pearson(&pairs.0, &pairs.1)),
            ("spearman", metrics::spearman(&pairs.0, &pairs.1)),
        ];
        // A constant prediction has no correlation: it scores 0.
        let any = !pairs.0.is_empty();
        let scores = correlations
            .into_iter()
            .filter(|_| any)
            .map(|(name, value)| (name, 100.0 * value.unwrap_or(0.0)))
            .collect();
        Outcome { scores, predictions: Predictions::Lines(lines.collect()) }
    }
}
