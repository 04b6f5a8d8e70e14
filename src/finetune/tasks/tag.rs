//! Spans of characters with a kind each: named entities.

use anyhow::Result;
use serde_json::json;

use crate::finetune::data::Problems;
use crate::finetune::data::records::{Span, TaggedText};
use crate::finetune::features::Input;
use crate::finetune::items::{Item, Target};
use crate::finetune::metrics::score_entities;
use crate::finetune::package::Description;
use crate::finetune::predictor::Predictor;
use crate::finetune::tags::{EncodedTags, TagLabels, TagWindow, decode_tags, encode_tags, tag_windows};
use crate::ops::row_loss::NO_TARGET;
use crate::tokenizer::Tokenizer;

use super::{Data, Outcome, Predictions, best};

/// Texts with spans.
pub struct TagData {
    texts: Vec<TaggedText>,
    encoded: Vec<EncodedTags>,
    windows: Vec<TagWindow>,
    labels: TagLabels,
    problems: Problems,
}

impl TagData {
    pub fn new(
        texts: Vec<TaggedText>,
        mut problems: Problems,
        description: &Description,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let labels = TagLabels::from_names(description.labels.clone())?;
        let specials = tokenizer.special_ids()?;
        let encoded: Vec<EncodedTags> =
            texts.iter().map(|text| encode_tags(text, tokenizer, &labels, &mut problems)).collect();
        let windows = encoded.iter().enumerate();
        let windows = windows
            .flat_map(|(index, encoded)| tag_windows(index, encoded, description.max_length, specials))
            .collect();
        Ok(TagData { texts, encoded, windows, labels, problems })
    }
}

impl Data for TagData {
    fn items(&self) -> Vec<Item> {
        let items = self.windows.iter().map(|window| {
            let mut tags = vec![NO_TARGET; window.input.ids.len()];
            for (tag, &label) in tags[1..].iter_mut().zip(&window.labels) {
                *tag = label as u32;
            }
            Item::one(window.input.clone(), Target::Tags(tags))
        });
        items.collect()
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let inputs: Vec<&Input> = self.windows.iter().map(|window| &window.input).collect();
        let logits = predictor.logits(&inputs)?;
        let mut predicted: Vec<Vec<usize>> =
            self.encoded.iter().map(|encoded| vec![self.labels.outside(); encoded.ids.len()]).collect();
        for (window, logits) in self.windows.iter().zip(&logits) {
            let rows = logits.chunks(self.labels.len()).skip(1).take(window.tokens);
            let tags = predicted[window.text][window.first_token..].iter_mut();
            tags.zip(rows).for_each(|(tag, logits)| *tag = best(logits));
        }
        let spans: Vec<Vec<Span>> = (self.texts.iter().zip(&self.encoded).zip(&predicted))
            .map(|((text, encoded), tags)| decode_tags(tags, &encoded.spans, &text.text, &self.labels))
            .collect();
        let lines = self.texts.iter().zip(&spans).map(|(text, spans)| {
            let entities = spans.iter().map(|span| {
                let name: String = text.text.chars().skip(span.start).take(span.end - span.start).collect();
                json!({"name": name, "span": [span.start, span.end], "type": span.kind})
            });
            json!({"id": text.id, "text": text.text, "entities": entities.collect::<Vec<_>>()})
        });
        let predictions = Predictions::Lines(lines.collect());
        let golds: Vec<Vec<Span>> = self.texts.iter().map(|text| text.spans.clone()).collect();
        let score = score_entities(&golds, &spans);
        let scores = match score.gold {
            0 => Vec::new(),
            _ => vec![("f1", score.f1), ("precision", score.precision), ("recall", score.recall)],
        };
        Ok(Outcome { scores, predictions })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        let spans: usize = self.texts.iter().map(|text| text.spans.len()).sum();
        format!("{} texts with {spans} spans", self.texts.len())
    }
}
