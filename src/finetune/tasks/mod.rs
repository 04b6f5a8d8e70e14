//! The tasks: a data set becomes items to train on, and logits become predictions and scores.

use anyhow::Result;
use serde_json::{Map, Value};

use super::data::Problems;
use super::items::Item;
use super::predictor::Predictor;

pub mod choice;
pub mod squad;
pub mod tag;
pub mod text;

/// A score by name, as percentages where it is a share.
pub type Score = (&'static str, f64);

/// What a model said about a data set.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first decides which epoch is best. Empty where the data have no labels.
    pub scores: Vec<Score>,
    pub predictions: Predictions,
}

/// Predictions in the form users expect of the task.
#[derive(Clone, Debug)]
pub enum Predictions {
    /// The official form of SQuAD, `{"id": "text"}`, and the n-best with scores.
    Squad { answers: Map<String, Value>, n_best: Map<String, Value> },
    /// One object a line.
    Lines(Vec<Value>),
}

impl Default for Predictions {
    fn default() -> Self {
        Predictions::Lines(Vec::new())
    }
}

/// A data set ready for a model.
pub trait Data {
    /// What there is to learn; empty for data that are only predicted.
    fn items(&self) -> Vec<Item>;
    /// Predicts all of it, and scores what has labels.
    fn predict(&self, predictor: &mut Predictor) -> Result<Outcome>;
    /// What was wrong with the examples.
    fn problems(&self) -> &Problems;
    /// One line on how much there is.
    fn summary(&self) -> String;
}

/// Probabilities of logits.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    let exponentials: Vec<f64> = logits.iter().map(|&x| f64::from(x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|x| x / sum).collect()
}

/// The index of the largest logit, the first of equals.
fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

/// Probabilities to four digits: what a reader wants to see.
fn rounded(x: f64) -> Value {
    Value::from((x * 1e4).round() / 1e4)
}
