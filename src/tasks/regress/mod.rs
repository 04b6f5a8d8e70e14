//! A number for a text or a pair of texts.

use anyhow::{Result, ensure};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::feed::Feed;
use crate::model::finetune::{Built, Head, HeadPlace, Sums, place};
use crate::model::parameters::DenseParameters;
use crate::ops::row_loss::RowLossKind;
use crate::plan::PlanBuilder;
use crate::tasks::data::{Problems, Purpose};
use crate::tasks::features::Input;
use crate::tasks::items::Item;
use crate::tasks::layers::{Logits, Loss, head_layer};
use crate::tasks::lesson::{AnyHead, Learning, Lesson, sample};
use crate::tasks::logits::rounded;
use crate::tasks::predictor::Predictor;
use crate::tasks::sequence_head;
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{
    Data, Description, Example, Examples, HuggingFace, Lines, Outcome, Preparation, Settings, Task,
    to_settings,
};
use crate::tasks::texts::{Goal, TEXT_OR_PAIR, TextExample, encode, parse, summary, text_examples};

mod correlation;

use correlation::{pearson, spearman};

/// What a model's directory keeps.
#[derive(Serialize, Deserialize)]
struct RegressSettings {
    /// What 0 and 1 mean.
    range: [f64; 2],
}

pub struct Regress;

impl Task for Regress {
    fn name(&self) -> &'static str {
        "regress"
    }

    fn about(&self) -> &'static str {
        "A number for a text or a pair of texts"
    }

    fn settings(&self, _: &ArgMatches) -> Result<Settings> {
        to_settings(&RegressSettings { range: [0.0, 1.0] })
    }

    fn check(&self, description: &Description) -> Result<()> {
        description.settings::<RegressSettings>().map(drop)
    }

    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let table = source.table(purpose)?;
        let (examples, problems) = text_examples(&table, &source.columns, Goal::Score, purpose)?;
        Ok((scored(examples), problems))
    }

    fn input(&self) -> &'static str {
        TEXT_OR_PAIR
    }

    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>> {
        Ok(scored(parse(lines)?))
    }

    fn head(&self, _: &Description) -> Result<Box<dyn AnyHead>> {
        Ok(Box::new(Value))
    }

    fn huggingface(&self, _: &Description) -> Result<HuggingFace> {
        let labels = vec!["LABEL_0".into()];
        Ok(HuggingFace {
            class: Some("ElectraForSequenceClassification"),
            pipeline_tag: "text-classification",
            labels,
            problem_type: Some("regression"),
        })
    }

    fn samples(&self) -> Vec<Box<dyn Lesson>> {
        vec![sample(Value, |length| length as f32 / 7.0)]
    }

    fn goldens(&self) -> &'static [&'static str] {
        &["value"]
    }
}

/// A number for a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Value;

impl Head for Value {
    type Label = f32;
    type Outputs = Logits;

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        [("classifier.dense", hidden), ("classifier.out_proj", 1)]
            .map(|(name, outputs)| head_layer(builder, name, hidden, outputs))
            .into()
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<f32>,
    ) -> Built<Logits> {
        let (rows, dropout) = (place.packed.sequence_rows, place.input_dropout);
        sequence_head::build(builder, layers, place, feed, dropout, |builder, feed, logits| {
            let targets =
                feed.float(builder, "numbers", (rows, 1), |l| l.labels.iter().map(|x| **x).collect());
            let loss = Loss {
                label: "value",
                kind: RowLossKind::Squared,
                logits,
                targets,
                rows,
                columns: 1,
                weight: 1.0,
                sums: place::FIRST,
            };
            loss.push(builder, place)
        })
    }

    fn accuracy(&self, _: &Sums) -> Option<f64> {
        None
    }
}

/// A text with a number.
struct Scored(TextExample);

fn scored(examples: Vec<TextExample>) -> Box<dyn Examples> {
    Box::new(examples.into_iter().map(Scored).collect::<Vec<_>>())
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

impl Example for Scored {
    fn group(&self) -> &str {
        &self.0.id
    }

    /// The least and the largest number of the training examples are what 0 and 1 mean to the model.
    fn describe(examples: &[Scored], settings: &mut Settings) -> Result<()> {
        let numbers = || examples.iter().filter_map(|example| number(&example.0, &mut Problems::default()));
        let (low, high) =
            (numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max));
        ensure!(low < high, "the training examples have no two different numbers; there is nothing to learn");
        settings.insert("range".into(), json!([low, high]));
        Ok(())
    }

    fn prepare(examples: Vec<Scored>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        let Preparation { description, tokenizer, mut problems, .. } = preparation;
        let RegressSettings { range } = description.settings()?;
        let examples: Vec<TextExample> = examples.into_iter().map(|example| example.0).collect();
        let golds = examples.iter().map(|example| number(example, &mut problems)).collect();
        let inputs = encode(&examples, tokenizer, description.max_length, &mut problems)?;
        Ok(Box::new(NumberData { examples, inputs, golds, range, problems }))
    }
}

/// Texts with their numbers.
struct NumberData {
    examples: Vec<TextExample>,
    inputs: Vec<Input>,
    /// In the data's own unit.
    golds: Vec<Option<f64>>,
    range: [f64; 2],
    problems: Problems,
}

impl Data for NumberData {
    fn lesson(&self) -> Box<dyn Lesson> {
        let [low, high] = self.range;
        let items = self.inputs.iter().zip(&self.golds).filter_map(|(input, gold)| {
            let number = (*gold)?;
            Some(Item::one(input.clone(), ((number - low) / (high - low)) as f32))
        });
        Box::new(Learning { head: Value, items: items.collect() })
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let [low, high] = self.range;
        let inputs: Vec<&Input> = self.inputs.iter().collect();
        let logits = predictor.logits::<Value>(&inputs)?;
        let predicted: Vec<f64> =
            logits.iter().map(|logits| low + f64::from(logits[0]) * (high - low)).collect();
        let lines = self.examples.iter().zip(&predicted);
        let lines = lines.map(|(example, &value)| json!({"id": example.id, "value": rounded(value)}));
        let pairs = self.golds.iter().zip(&predicted);
        let (golds, predictions): (Vec<f64>, Vec<f64>) =
            pairs.filter_map(|(gold, &value)| Some(((*gold)?, value))).unzip();
        let correlations =
            [("pearson", pearson(&golds, &predictions)), ("spearman", spearman(&golds, &predictions))];
        // A constant prediction has no correlation: it scores 0.
        let scores = correlations
            .into_iter()
            .filter(|_| !golds.is_empty())
            .map(|(name, value)| (name, 100.0 * value.unwrap_or(0.0)))
            .collect();
        let predictions = Box::new(Lines(lines.collect()));
        Ok(Outcome { scores, predictions, tuned: Settings::new() })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        summary(&self.inputs)
    }
}
