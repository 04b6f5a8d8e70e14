//! Questions as windows that a model reads, and its answers to them.

use std::ops::Range;

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde_json::Value;

use crate::tasks::data::Problems;
use crate::tasks::items::Item;
use crate::tasks::lesson::{Learning, Lesson};
use crate::tasks::predictor::Predictor;
use crate::tasks::task::{Data, Outcome, Preparation, Settings};

use super::answers::{self, AnswerOptions, Prediction, WindowScores};
use super::head::{Span, Target};
use super::predictions::{Answer, Answers};
use super::settings::{PredictionSettings, SpanHead, SquadSettings};
use super::thresholds::Thresholds;
use super::window_scores::{joint_scores, plain_scores};
use crate::tasks::questions::{Gold, Question, golds};
use crate::tasks::windows::{Encoded, SquadOptions, Window, best_context, encode, windows};

/// Starts that are tried for each window by the joint head.
const BEAM: usize = 20;

/// Questions with their windows.
pub struct SquadData {
    questions: Vec<Question>,
    encoded: Vec<Encoded>,
    windows: Vec<Vec<Window>>,
    problems: Problems,
    settings: SquadSettings,
    /// How much the score of no answer must exceed that of an answer; nothing where nobody has said.
    no_answer_threshold: Option<f32>,
    /// Then the best for these questions is taken, if it may be.
    tunes: bool,
}

fn threshold(settings: &Settings) -> Result<Option<f32>> {
    let settings: PredictionSettings = serde_json::from_value(Value::Object(settings.clone()))
        .context("settings of prediction; please report this")?;
    Ok(settings.no_answer_threshold)
}

impl SquadData {
    /// Encodes the questions; in training, windows know where the answer is.
    pub fn new(questions: Vec<Question>, preparation: Preparation<'_>) -> Result<Self> {
        let Preparation { description, tokenizer, mut problems, training, tunes, prediction } = preparation;
        let settings: SquadSettings = description.settings()?;
        let options = SquadOptions {
            max_length: description.max_length,
            doc_stride: settings.doc_stride,
            max_query_length: settings.max_query_length,
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
        let no_answer_threshold = threshold(prediction)?.or(settings.no_answer_threshold);
        Ok(SquadData { questions, encoded, windows, problems, settings, no_answer_threshold, tunes })
    }

    fn all_windows(&self) -> Vec<&Window> {
        self.windows.iter().flatten().collect()
    }

    /// The answers to every question, the best first.
    fn predictions(&self, predictor: &mut Predictor) -> Result<Vec<Prediction>> {
        let scores = match self.settings.span_head {
            SpanHead::Plain => plain_scores(predictor, &self.all_windows())?,
            SpanHead::Joint => {
                let may_start: Vec<Vec<bool>> = (self.windows.iter())
                    .flat_map(|windows| best_context(&windows.iter().collect::<Vec<_>>()))
                    .collect();
                joint_scores(predictor, &self.all_windows(), &may_start, BEAM)?
            }
        };
        let options = AnswerOptions {
            n_best: self.settings.n_best,
            max_answer_length: self.settings.max_answer_length,
            joint: self.settings.span_head == SpanHead::Joint,
            beam: BEAM,
        };
        let mut first = 0;
        let of_question: Vec<Range<usize>> = (self.windows.iter())
            .map(|windows| {
                first += windows.len();
                first - windows.len()..first
            })
            .collect();
        let predict = |index: usize| {
            let windows: Vec<&Window> = self.windows[index].iter().collect();
            let scores: &[WindowScores] = &scores[of_question[index].clone()];
            answers::predict(&self.questions[index], &self.encoded[index], &windows, scores, &options)
        };
        Ok((0..self.questions.len()).into_par_iter().map(predict).collect())
    }

    /// How much no answer outscores the best one: the null-score difference. Nothing where the model cannot say that there
    /// is none.
    fn no_answer(&self, prediction: &Prediction) -> Option<f32> {
        let no_answer = prediction.no_answer.filter(|_| self.settings.answerability)?;
        let best = prediction.n_best.first().map_or(f32::NEG_INFINITY, |candidate| candidate.score);
        let above = match self.settings.span_head {
            SpanHead::Joint => no_answer,
            SpanHead::Plain => no_answer - best,
        };
        Some(above.clamp(f32::MIN, f32::MAX))
    }
}

impl Window {
    /// What the head is told of it.
    pub fn target(&self) -> Target {
        let start = self.context_position as u32;
        Target {
            first: self.targets.0 as u32,
            last: self.targets.1 as u32,
            context: start..start + self.tokens as u32,
            // What this window shows does not answer the question: no-answer scores are the smallest over the
            // windows, so each speaks for itself.
            impossible: !self.has_answer,
        }
    }
}

impl Data for SquadData {
    fn lesson(&self) -> Box<dyn Lesson> {
        let windows = self.windows.iter().flatten();
        let items = windows.map(|window| Item::one(window.input.clone(), window.target())).collect();
        match self.settings.span_head {
            SpanHead::Plain => Box::new(Learning { head: Span, items }),
            SpanHead::Joint => Box::new(Learning { head: self.settings.joint(), items }),
        }
    }

    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome> {
        let golds = golds(&self.questions);
        let answer = |((question, gold), prediction): ((&Question, Gold), Prediction)| Answer {
            id: question.id.clone(),
            question: question.question.clone(),
            golds: gold.texts,
            text: prediction.text().to_owned(),
            no_answer: self.no_answer(&prediction),
            prediction,
        };
        let predictions = self.predictions(predictor)?;
        let mut answers = Answers(self.questions.iter().zip(golds).zip(predictions).map(answer).collect());
        let labelled =
            self.questions.iter().any(|question| question.impossible || !question.answers.is_empty());
        let best = if labelled { answers.thresholds() } else { None };
        let mut tuned = Settings::new();
        let found = best.filter(|_| self.tunes && self.no_answer_threshold.is_none());
        if let Some(found) = found {
            tuned.insert("no_answer_threshold".into(), (found.f1.threshold as f32).into());
        }
        let threshold = found.map(|found| found.f1.threshold as f32).or(self.no_answer_threshold);
        answers.decline(threshold.unwrap_or(0.0));
        let mut scores = if labelled { answers.scores(&self.questions) } else { Vec::new() };
        scores.extend(best.iter().flat_map(Thresholds::scores));
        Ok(Outcome { scores, predictions: Box::new(answers), tuned })
    }

    fn problems(&self) -> &Problems {
        &self.problems
    }

    fn summary(&self) -> String {
        format!("{} questions in {} windows", self.questions.len(), self.all_windows().len())
    }
}
