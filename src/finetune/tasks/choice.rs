//! One of several choices for a question.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use serde_json::json;

use crate::finetune::data::Problems;
use crate::finetune::data::records::ChoiceExample;
use crate::finetune::features::{Input, pair};
use crate::finetune::items::{Item, Target};
use crate::finetune::metrics;
use crate::finetune::package::Description;
use crate::finetune::predictor::Predictor;
use crate::tokenizer::Tokenizer;

use super::{Data, Outcome, Predictions, best, rounded, softmax};

/// Questions with their choices.
pub struct ChoiceData {
    examples: Vec<ChoiceExample>,
    /// The choices of each example, in order.
    inputs: Vec<Vec<Input>>,
    choices: usize,
    problems: Problems,
}

/// How many choices every question has; all must have as many.
pub fn choices(examples: &[ChoiceExample]) -> Result<usize> {
    let count = examples.first().map_or(0, |example| example.choices.len());
    let other = examples.iter().find(|example| example.choices.len() != count);
    ensure!(
        other.is_none(),
        "question {} has another number of choices than question {}; all must have as many",
        other.map_or("", |example| &example.id),
        examples.first().map_or("", |example| &example.id)
    );
    ensure!(count > 1, "the questions have no choices");
    Ok(count)
}

impl ChoiceData {
    pub fn new(
        examples: Vec<ChoiceExample>,
        mut problems: Problems,
        description: &Description,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let count = choices(&examples)?;
        ensure!(
            count == description.choices,
            "the questions have {count} choices, the model was made for {}",
            description.choices
        );
        let specials = tokenizer.special_ids()?;
        let encode = |example: &ChoiceExample| {
            let question = tokenizer.encode(&example.question);
            let choices = example.choices.iter();
            choices
                .map(|choice| pair(&question, &tokenizer.encode(choice), description.max_length, specials))
                .collect::<Vec<Input>>()
        };
        let inputs: Vec<Vec<Input>> = examples.par_iter().map(encode).collect();
        for (example, inputs) in examples.iter().zip(&inputs) {
            if inputs.iter().any(|input| input.cut > 0) {
                problems.add(&example.id, "question with a choice is too long (cut)");
            }
        }
        Ok(ChoiceData { examples, inputs, choices: count, problems })
    }
}

impl Data for ChoiceData {
    fn items(&self) -> Vec<Item> {
        let items = self.examples.iter().zip(&self.inputs).filter_map(|(example, inputs)| {
            let sequences = inputs.iter().map(|input| (input.clone(), Target::Part)).collect();
            Some(Item { sequences, choice: Some(example.label? as u32) })
        });
        items.collect()
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let inputs: Vec<&Input> = self.inputs.iter().flatten().collect();
        let logits: Vec<f32> = predictor.logits(&inputs)?.into_iter().flatten().collect();
        let predicted: Vec<usize> = logits.chunks(self.choices).map(best).collect();
        let lines = self.examples.iter().zip(logits.chunks(self.choices)).zip(&predicted);
        let lines = lines.map(|((example, logits), &choice)| {
            let probabilities: Vec<_> = softmax(logits).into_iter().map(rounded).collect();
            json!({
                "id": example.id,
                "choice": choice,
                "text": example.choices[choice],
                "probabilities": probabilities,
            })
        });
        let predictions = Predictions::Lines(lines.collect());
        let golds: Vec<Option<usize>> = self.examples.iter().map(|example| example.label).collect();
        let labelled = golds.iter().any(Option::is_some);
        let accuracy = metrics::accuracy(&golds, &predicted).filter(|_| labelled);
        let scores = accuracy.map(|share| ("accuracy", 100.0 * share)).into_iter().collect();
        Ok(Outcome { scores, predictions })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        format!("{} questions with {} choices", self.examples.len(), self.choices)
    }
}
