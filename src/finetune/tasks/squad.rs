//! Question answering: windows of contexts, answers as substrings, EM and F1.

use std::collections::HashMap;

use anyhow::Result;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::finetune::answers::{self, AnswerOptions, Prediction};
use crate::finetune::data::Problems;
use crate::finetune::data::squad::{Question, golds};
use crate::finetune::items::{Item, Target};
use crate::finetune::metrics::score_squad;
use crate::finetune::package::{Description, SpanHead};
use crate::finetune::predictor::Predictor;
use crate::finetune::squad_features::{Encoded, SquadOptions, Window, encode, windows};
use crate::tokenizer::Tokenizer;

use super::{Data, Outcome, Predictions, rounded};

/// Starts that are tried for each window by the joint head.
const BEAM: usize = 20;

/// Questions with their windows.
pub struct SquadData {
    questions: Vec<Question>,
    encoded: Vec<Encoded>,
    windows: Vec<Vec<Window>>,
    problems: Problems,
    description: Description,
    /// How much the score of no answer must exceed that of an answer.
    no_answer_threshold: f32,
}

impl SquadData {
    /// Encodes the questions; in `training`, windows know where the answer is.
    pub fn new(
        questions: Vec<Question>,
        mut problems: Problems,
        description: &Description,
        tokenizer: &Tokenizer,
        training: bool,
        no_answer_threshold: f32,
    ) -> Result<Self> {
        let options = SquadOptions {
            max_length: description.max_length,
            doc_stride: description.doc_stride,
            max_query_length: description.max_query_length,
        };
        let specials = tokenizer.special_ids()?;
        let encoded: Vec<Encoded> = questions
            .par_iter()
            .map(|question| encode(question, tokenizer, &options))
            .collect::<Result<_>>()?;
        for (question, encoded) in questions.iter().zip(&encoded) {
            encoded.report(question, training, &mut problems);
        }
        let windows = questions.iter().zip(&encoded).enumerate().map(|(index, (question, encoded))| {
            windows(index, question, encoded, &options, specials, training)
        });
        let windows = windows.collect();
        Ok(SquadData {
            questions,
            encoded,
            windows,
            problems,
            description: description.clone(),
            no_answer_threshold,
        })
    }

    /// The answers to every question, the best first.
    pub fn answers(&self, predictor: &mut Predictor) -> Result<Vec<Prediction>> {
        let joint = self.description.span_head == SpanHead::Joint;
        let options = AnswerOptions {
            n_best: self.description.n_best,
            max_answer_length: self.description.max_answer_length,
            joint,
            beam: BEAM,
        };
        let all: Vec<&Window> = self.windows.iter().flatten().collect();
        let may_start: Vec<Vec<bool>> = (self.windows.iter())
            .flat_map(|windows| answers::best_context(&windows.iter().collect::<Vec<_>>()))
            .collect();
        let scores = predictor.spans(&all, &may_start, BEAM)?;
        let mut first = 0;
        let spans: Vec<std::ops::Range<usize>> = (self.windows.iter())
            .map(|windows| {
                first += windows.len();
                first - windows.len()..first
            })
            .collect();
        Ok((0..self.questions.len())
            .into_par_iter()
            .map(|index| {
                let windows: Vec<&Window> = self.windows[index].iter().collect();
                let scores = &scores[spans[index].clone()];
                answers::predict(&self.questions[index], &self.encoded[index], &windows, scores, &options)
            })
            .collect())
    }

    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The answer that is given: "" where the model rather says that there is none.
    pub fn text<'a>(&self, prediction: &'a Prediction) -> &'a str {
        let Some(no_answer) = prediction.no_answer.filter(|_| self.description.answerability) else {
            return prediction.text();
        };
        let best = prediction.n_best.first().map_or(f32::NEG_INFINITY, |candidate| candidate.score);
        let above = match self.description.span_head {
            SpanHead::Joint => no_answer,
            SpanHead::Plain => no_answer - best,
        };
        if above > self.no_answer_threshold { "" } else { prediction.text() }
    }
}

/// A candidate as scripts read it.
pub fn candidates(prediction: &Prediction) -> Value {
    let candidates = prediction.n_best.iter().map(|candidate| {
        json!({
            "text": candidate.text,
            "start": candidate.start,
            "end": candidate.end,
            "score": candidate.score,
            "probability": rounded(candidate.probability),
        })
    });
    candidates.collect()
}

impl Data for SquadData {
    fn items(&self) -> Vec<Item> {
        let items = self.windows.iter().flatten().map(|window| {
            let start = window.context_position as u32;
            let target = Target::Span {
                first: window.targets.0 as u32,
                last: window.targets.1 as u32,
                context: start..start + window.tokens as u32,
                // What this window shows does not answer the question: no-answer scores are the smallest over
                // the windows, so each speaks for itself.
                impossible: !window.has_answer,
            };
            Item::one(window.input.clone(), target)
        });
        items.collect()
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let predictions = self.answers(predictor)?;
        let (mut answers, mut n_best) = (Map::new(), Map::new());
        let mut texts = HashMap::new();
        for (question, prediction) in self.questions.iter().zip(&predictions) {
            let text = self.text(prediction).to_owned();
            answers.insert(question.id.clone(), Value::from(text.as_str()));
            n_best.insert(question.id.clone(), candidates(prediction));
            texts.insert(question.id.clone(), text);
        }
        let labelled =
            self.questions.iter().any(|question| question.impossible || !question.answers.is_empty());
        let scores = match labelled {
            true => {
                let score = score_squad(&golds(&self.questions), &texts);
                vec![("f1", score.f1), ("exact_match", score.exact_match)]
            }
            false => Vec::new(),
        };
        Ok(Outcome { scores, predictions: Predictions::Squad { answers, n_best } })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        let windows: usize = self.windows.iter().map(Vec::len).sum();
        format!("{} questions in {windows} windows", self.questions.len())
    }
}
