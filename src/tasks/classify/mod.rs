//! One of several classes for a text or a pair of texts.

use anyhow::{Context, Result};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::model::feed::Feed;
use crate::model::finetune::{Built, Head, HeadPlace, place};
use crate::model::parameters::DenseParameters;
use crate::ops::row_loss::RowLossKind;
use crate::plan::PlanBuilder;
use crate::tasks::data::{Problems, Purpose};
use crate::tasks::features::Input;
use crate::tasks::items::Item;
use crate::tasks::layers::{Logits, Loss, head_layer};
use crate::tasks::lesson::{AnyHead, Learning, Lesson, sample};
use crate::tasks::logits::{accuracy, best, rounded, softmax};
use crate::tasks::predictor::Predictor;
use crate::tasks::sequence_head;
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{
    Data, Description, Example, Examples, HuggingFace, Lines, Outcome, Preparation, Settings, Task,
    to_settings,
};
use crate::tasks::texts::{Goal, TEXT_OR_PAIR, TextExample, encode, parse, summary, text_examples};

pub mod labels;

use labels::Labels;

/// What a model's directory keeps.
#[derive(Default, Serialize, Deserialize)]
struct ClassifySettings {
    /// Classes, in the order of the logits.
    labels: Vec<String>,
}

pub struct Classify;

impl Task for Classify {
    fn name(&self) -> &'static str {
        "classify"
    }

    fn about(&self) -> &'static str {
        "One of several classes for a text or a pair of texts"
    }

    fn settings(&self, _: &ArgMatches) -> Result<Settings> {
        to_settings(&ClassifySettings::default())
    }

    fn check(&self, description: &Description) -> Result<()> {
        description.settings::<ClassifySettings>().map(drop)
    }

    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let table = source.table(purpose)?;
        let (examples, problems) = text_examples(&table, &source.columns, Goal::Class, purpose)?;
        Ok((classed(examples), problems))
    }

    fn input(&self) -> &'static str {
        TEXT_OR_PAIR
    }

    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>> {
        Ok(classed(parse(lines)?))
    }

    fn head(&self, description: &Description) -> Result<Box<dyn AnyHead>> {
        let settings: ClassifySettings = description.settings()?;
        Ok(Box::new(Classes(settings.labels.len())))
    }

    fn huggingface(&self, description: &Description) -> Result<HuggingFace> {
        let ClassifySettings { labels } = description.settings()?;
        Ok(HuggingFace {
            class: Some("ElectraForSequenceClassification"),
            pipeline_tag: "text-classification",
            labels,
            problem_type: Some("single_label_classification"),
        })
    }

    fn samples(&self) -> Vec<Box<dyn Lesson>> {
        vec![sample(Classes(3), |length| length % 3)]
    }

    fn goldens(&self) -> &'static [&'static str] {
        &["classes"]
    }
}

/// One of so many classes for a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Classes(pub usize);

impl Head for Classes {
    type Label = u32;
    type Outputs = Logits;

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        [("classifier.dense", hidden), ("classifier.out_proj", self.0)]
            .map(|(name, outputs)| head_layer(builder, name, hidden, outputs))
            .into()
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<u32>,
    ) -> Built<Logits> {
        let (rows, dropout) = (place.packed.sequence_rows, place.input_dropout);
        sequence_head::build(builder, layers, place, feed, dropout, |builder, feed, logits| {
            let targets =
                feed.uint(builder, "classes", (rows, 1), |l| l.labels.iter().map(|class| **class).collect());
            let loss = Loss {
                label: "class",
                kind: RowLossKind::Softmax,
                logits,
                targets,
                rows,
                columns: self.0,
                weight: 1.0,
                sums: place::FIRST,
            };
            loss.push(builder, place)
        })
    }
}

/// A text with a class.
struct Classed(TextExample);

fn classed(examples: Vec<TextExample>) -> Box<dyn Examples> {
    Box::new(examples.into_iter().map(Classed).collect::<Vec<_>>())
}

impl Example for Classed {
    fn group(&self) -> &str {
        &self.0.id
    }

    fn describe(examples: &[Classed], settings: &mut Settings) -> Result<()> {
        let labels = Labels::from_training(examples.iter().map(|example| &example.0))?;
        settings.insert("labels".into(), labels.names().into());
        Ok(())
    }

    fn prepare(examples: Vec<Classed>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        let Preparation { description, tokenizer, mut problems, .. } = preparation;
        let ClassifySettings { labels } = description.settings()?;
        let labels = Labels::from_names(labels)?;
        let examples: Vec<TextExample> = examples.into_iter().map(|example| example.0).collect();
        let golds = labels.indices(&examples, &mut problems);
        let inputs = encode(&examples, tokenizer, description.max_length, &mut problems)?;
        Ok(Box::new(ClassData { examples, inputs, labels, golds, problems }))
    }
}

/// Texts with their classes.
struct ClassData {
    examples: Vec<TextExample>,
    inputs: Vec<Input>,
    labels: Labels,
    golds: Vec<Option<usize>>,
    problems: Problems,
}

impl Data for ClassData {
    fn lesson(&self) -> Box<dyn Lesson> {
        let items = self.inputs.iter().zip(&self.golds);
        let items = items.filter_map(|(input, gold)| Some(Item::one(input.clone(), (*gold)? as u32)));
        Box::new(Learning { head: Classes(self.labels.len()), items: items.collect() })
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let inputs: Vec<&Input> = self.inputs.iter().collect();
        let logits = predictor.logits::<Classes>(&inputs)?;
        let predicted: Vec<usize> = logits.iter().map(|logits| best(logits)).collect();
        let lines = self.examples.iter().zip(logits).zip(&predicted).map(|((example, logits), &class)| {
            let probabilities = softmax(&logits)
                .into_iter()
                .enumerate()
                .map(|(class, probability)| Ok((self.name(class)?.to_owned(), rounded(probability))));
            let probabilities = probabilities.collect::<Result<Map<_, _>>>()?;
            Ok(json!({"id": example.id, "label": self.name(class)?, "probabilities": probabilities}))
        });
        let predictions = Box::new(Lines(lines.collect::<Result<Vec<Value>>>()?));
        let labelled = self.examples.iter().any(|example| example.label.is_some());
        let accuracy = accuracy(&self.golds, &predicted).filter(|_| labelled);
        let scores = accuracy.map(|share| ("accuracy", 100.0 * share)).into_iter().collect();
        Ok(Outcome { scores, predictions, tuned: Settings::new() })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        summary(&self.inputs)
    }
}

impl ClassData {
    fn name(&self, class: usize) -> Result<&str> {
        self.labels.name(class).context("a class without a name; please report this")
    }
}
