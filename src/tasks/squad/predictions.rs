//! Answers as files and lines, and their scores.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::tasks::logits::rounded;
use crate::tasks::task::{Predictions, Score};

use super::answers::Prediction;
use super::score::score_squad;
use crate::tasks::questions::{Question, golds};

/// The answer to a question.
pub struct Answer {
    pub id: String,
    /// "" where the model says that there is none.
    pub text: String,
    pub prediction: Prediction,
}

/// The answers to the questions of a data set, in order.
pub struct Answers(pub Vec<Answer>);

impl Answer {
    /// The best candidate's share among the n-best.
    pub fn probability(&self) -> Option<f64> {
        self.prediction.n_best.first().map(|candidate| candidate.probability)
    }

    /// The n-best as scripts read them.
    pub fn candidates(&self) -> Value {
        let candidates = self.prediction.n_best.iter().map(|candidate| {
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
}

impl Answers {
    /// Exact match and F1.
    pub fn scores(&self, questions: &[Question]) -> Vec<Score> {
        let texts: HashMap<String, String> =
            self.0.iter().map(|answer| (answer.id.clone(), answer.text.clone())).collect();
        let score = score_squad(&golds(questions), &texts);
        vec![("f1", score.f1), ("exact_match", score.exact_match)]
    }
}

impl Predictions for Answers {
    fn lines(&self) -> Vec<Value> {
        let line = |answer: &Answer| {
            json!({
                "id": answer.id,
                "answer": answer.text,
                "probability": answer.probability(),
                "n_best": answer.candidates(),
            })
        };
        self.0.iter().map(line).collect()
    }

    /// The official form of SQuAD, `{"id": "text"}`, and the n-best with scores.
    fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let (mut answers, mut n_best) = (Map::new(), Map::new());
        for answer in &self.0 {
            answers.insert(answer.id.clone(), Value::from(answer.text.as_str()));
            n_best.insert(answer.id.clone(), answer.candidates());
        }
        Ok(vec![("json", serde_json::to_vec(&answers)?), ("nbest.json", serde_json::to_vec(&n_best)?)])
    }
}
