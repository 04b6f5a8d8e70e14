//! Spans of characters with a kind each: named entities.

use anyhow::Result;
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ops::row_loss::NO_TARGET;
use crate::tasks::data::{Problems, Purpose};
use crate::tasks::features::Input;
use crate::tasks::items::Item;
use crate::tasks::lesson::{AnyHead, Learning, Lesson, sample};
use crate::tasks::logits::best;
use crate::tasks::predictor::Predictor;
use crate::tasks::source::{Line, Source};
use crate::tasks::task::{
    Data, Description, Example, Examples, HuggingFace, Lines, Outcome, Preparation, Settings, Task,
    to_settings,
};
use crate::tasks::token_head::Tags;

pub mod reader;
pub mod score;
pub mod tags;

use reader::{Span, TaggedText, tagged_texts};
use score::score_entities;
use tags::{EncodedTags, TagLabels, TagWindow, decode_tags, encode_tags, tag_windows};

/// What a model's directory keeps.
#[derive(Default, Serialize, Deserialize)]
struct TagSettings {
    /// Tags, in the order of the logits.
    labels: Vec<String>,
}

pub struct Tagging;

impl Task for Tagging {
    fn name(&self) -> &'static str {
        "tag"
    }

    fn about(&self) -> &'static str {
        "Spans of characters with a kind each, such as named entities"
    }

    fn settings(&self, _: &ArgMatches) -> Result<Settings> {
        to_settings(&TagSettings::default())
    }

    fn check(&self, description: &Description) -> Result<()> {
        description.settings::<TagSettings>().map(drop)
    }

    fn read(&self, source: &Source, purpose: Purpose) -> Result<(Box<dyn Examples>, Problems)> {
        let (texts, problems) = tagged_texts(&source.table(purpose)?, &source.columns, purpose)?;
        Ok((Box::new(texts), problems))
    }

    fn input(&self) -> &'static str {
        r#"{"text"}"#
    }

    fn parse(&self, lines: &[Line]) -> Result<Box<dyn Examples>> {
        let text = |line: &Line| {
            let id = line.id();
            Ok(TaggedText { group: id.clone(), id, text: line.text("text")?, spans: Vec::new() })
        };
        Ok(Box::new(lines.iter().map(text).collect::<Result<Vec<_>>>()?))
    }

    fn head(&self, description: &Description) -> Result<Box<dyn AnyHead>> {
        let settings: TagSettings = description.settings()?;
        Ok(Box::new(Tags(settings.labels.len())))
    }

    fn huggingface(&self, description: &Description) -> Result<HuggingFace> {
        let TagSettings { labels } = description.settings()?;
        Ok(HuggingFace {
            class: Some("ElectraForTokenClassification"),
            pipeline_tag: "token-classification",
            labels,
            problem_type: None,
        })
    }

    fn samples(&self) -> Vec<Box<dyn Lesson>> {
        vec![sample(Tags(5), |length| (0..length).map(|n| n % 5).collect())]
    }

    fn goldens(&self) -> &'static [&'static str] {
        &["tags"]
    }
}

impl Example for TaggedText {
    fn group(&self) -> &str {
        &self.group
    }

    fn describe(texts: &[TaggedText], settings: &mut Settings) -> Result<()> {
        settings.insert("labels".into(), TagLabels::from_training(texts)?.names().into());
        Ok(())
    }

    fn prepare(texts: Vec<TaggedText>, preparation: Preparation<'_>) -> Result<Box<dyn Data>> {
        let Preparation { description, tokenizer, mut problems, .. } = preparation;
        let TagSettings { labels } = description.settings()?;
        let labels = TagLabels::from_names(labels)?;
        let specials = tokenizer.special_ids()?;
        let encoded: Vec<EncodedTags> =
            texts.iter().map(|text| encode_tags(text, tokenizer, &labels, &mut problems)).collect();
        let windows = encoded.iter().enumerate();
        let windows = windows
            .flat_map(|(index, encoded)| tag_windows(index, encoded, description.max_length, specials))
            .collect();
        Ok(Box::new(TagData { texts, encoded, windows, labels, problems }))
    }
}

/// Texts with spans.
struct TagData {
    texts: Vec<TaggedText>,
    encoded: Vec<EncodedTags>,
    windows: Vec<TagWindow>,
    labels: TagLabels,
    problems: Problems,
}

impl TagData {
    /// The best label of every token of every text.
    fn best_labels(&self, predictor: &mut Predictor) -> Result<Vec<Vec<usize>>> {
        let inputs: Vec<&Input> = self.windows.iter().map(|window| &window.input).collect();
        let logits = predictor.logits::<Tags>(&inputs)?;
        let mut labels: Vec<Vec<usize>> =
            self.encoded.iter().map(|encoded| vec![self.labels.outside(); encoded.ids.len()]).collect();
        for (window, logits) in self.windows.iter().zip(&logits) {
            let rows = logits.chunks(self.labels.len()).skip(1).take(window.tokens);
            let tags = labels[window.text][window.first_token..].iter_mut();
            tags.zip(rows).for_each(|(tag, logits)| *tag = best(logits));
        }
        Ok(labels)
    }
}

impl Data for TagData {
    fn lesson(&self) -> Box<dyn Lesson> {
        let items = self.windows.iter().map(|window| {
            let mut tags = vec![NO_TARGET; window.input.ids.len()];
            for (tag, &label) in tags[1..].iter_mut().zip(&window.labels) {
                *tag = label as u32;
            }
            Item::one(window.input.clone(), tags)
        });
        Box::new(Learning { head: Tags(self.labels.len()), items: items.collect() })
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let labels = self.best_labels(predictor)?;
        let spans: Vec<Vec<Span>> = (self.texts.iter().zip(&self.encoded).zip(&labels))
            .map(|((text, encoded), tags)| decode_tags(tags, &encoded.spans, &text.text, &self.labels))
            .collect();
        let lines = self.texts.iter().zip(&spans).map(|(text, spans)| {
            let entities = spans.iter().map(|span| {
                let name: String = text.text.chars().skip(span.start).take(span.end - span.start).collect();
                json!({"name": name, "span": [span.start, span.end], "type": span.kind})
            });
            json!({"id": text.id, "text": text.text, "entities": entities.collect::<Vec<_>>()})
        });
        let predictions = Box::new(Lines(lines.collect()));
        let golds: Vec<Vec<Span>> = self.texts.iter().map(|text| text.spans.clone()).collect();
        let score = score_entities(&golds, &spans);
        let scores = match score.gold {
            0 => Vec::new(),
            _ => vec![("f1", score.f1), ("precision", score.precision), ("recall", score.recall)],
        };
        Ok(Outcome { scores, predictions, tuned: Settings::new() })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        let spans: usize = self.texts.iter().map(|text| text.spans.len()).sum();
        format!("{} texts with {spans} spans", self.texts.len())
    }
}
