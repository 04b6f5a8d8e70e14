//! One of several choices for a question.

use anyhow::{Context, Result, ensure};
use clap::ArgMatches;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tasks::data::{Problems, Purpose};
use crate::tasks::features::{Input, pair};
use crate::tasks::items::Item;
use crate::tasks::lesson::{AnyHead, Learning, Lesson, sample};
use crate::tasks::logits::{accuracy, best, rounded, softmax};
use crate::tasks::predictor::Predictor;
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{
    Data, Description, Example, Examples, HuggingFace, Lines, Outcome, Preparation, Settings, Task,
    to_settings,
};

pub mod head;
pub mod reader;

use head::Choice;
use reader::{ChoiceExample, choice_examples};

/// What a model's directory keeps.
#[derive(Default, Serialize, Deserialize)]
struct ChoiceSettings {
    /// Of a question.
    choices: usize,
}

pub struct MultipleChoice;

impl Task for MultipleChoice {
    fn name(&self) -> &'static str {
        "multiple-choice"
    }

    fn about(&self) -> &'static str {
        "One of several choices for a question"
    }

    fn settings(&self, _: &ArgMatches) -> Result<Settings> {
        to_settings(&ChoiceSettings::default())
    }

    fn check(&self, description: &Description) -> Result<()> {
        description.settings::<ChoiceSettings>().map(drop)
    }

    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let (examples, problems) = choice_examples(&source.table(purpose)?, &source.columns, purpose)?;
        Ok((Box::new(examples), problems))
    }

    fn input(&self) -> &'static str {
        r#"{"question", "choices"}"#
    }

    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>> {
        let example = |line: &Line| {
            let choices = line.object.get("choices").and_then(Value::as_array);
            let choices = choices.and_then(|choices| {
                choices.iter().map(|choice| choice.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            });
            let choices = choices
                .with_context(|| format!("stdin, line {}: \"choices\" is no list of texts", line.number))?;
            Ok(ChoiceExample { id: line.id(), question: line.text("question")?, choices, label: None })
        };
        Ok(Box::new(lines.iter().map(example).collect::<Result<Vec<_>>>()?))
    }

    fn head(&self, description: &Description) -> Result<Box<dyn AnyHead>> {
        let settings: ChoiceSettings = description.settings()?;
        Ok(Box::new(Choice(settings.choices)))
    }

    fn huggingface(&self, _: &Description) -> Result<HuggingFace> {
        Ok(HuggingFace {
            class: Some("ElectraForMultipleChoice"),
            pipeline_tag: "multiple-choice",
            labels: Vec::new(),
            problem_type: None,
        })
    }

    fn samples(&self) -> Vec<Box<dyn Lesson>> {
        vec![sample(Choice(3), |length| length % 3)]
    }

    fn goldens(&self) -> &'static [&'static str] {
        &["choice"]
    }
}

/// How many choices every question has; all must have as many.
fn choices(examples: &[ChoiceExample]) -> Result<usize> {
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

impl Example for ChoiceExample {
    fn group(&self) -> &str {
        &self.id
    }

    fn describe(examples: &[ChoiceExample], settings: &mut Settings) -> Result<()> {
        settings.insert("choices".into(), choices(examples)?.into());
        Ok(())
    }

    fn prepare(examples: Vec<ChoiceExample>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        let Preparation { description, tokenizer, mut problems, .. } = preparation;
        let count = choices(&examples)?;
        let settings: ChoiceSettings = description.settings()?;
        ensure!(
            count == settings.choices,
            "the questions have {count} choices, the model was made for {}",
            settings.choices
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
        Ok(Box::new(ChoiceData { examples, inputs, choices: count, problems }))
    }
}

/// Questions with their choices.
struct ChoiceData {
    examples: Vec<ChoiceExample>,
    /// The choices of each example, in order.
    inputs: Vec<Vec<Input>>,
    choices: usize,
    problems: Problems,
}

impl Data for ChoiceData {
    fn lesson(&self) -> Box<dyn Lesson> {
        let items = self.examples.iter().zip(&self.inputs).filter_map(|(example, inputs)| {
            Some(Item { sequences: inputs.clone(), label: example.label? as u32 })
        });
        Box::new(Learning { head: Choice(self.choices), items: items.collect() })
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let inputs: Vec<&Input> = self.inputs.iter().flatten().collect();
        let logits: Vec<f32> = predictor.logits::<Choice>(&inputs)?.into_iter().flatten().collect();
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
        let predictions = Box::new(Lines(lines.collect()));
        let golds: Vec<Option<usize>> = self.examples.iter().map(|example| example.label).collect();
        let labelled = golds.iter().any(Option::is_some);
        let accuracy = accuracy(&golds, &predicted).filter(|_| labelled);
        let scores = accuracy.map(|share| ("accuracy", 100.0 * share)).into_iter().collect();
        Ok(Outcome { scores, predictions, tuned: Settings::new() })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        format!("{} questions with {} choices", self.examples.len(), self.choices)
    }
}
