//! Answers as files and lines, and their scores.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::tasks::logits::rounded;
use crate::tasks::task::{Predictions, Score};

use super::answers::Prediction;
use super::score::{score_squad, squad_pair};
use super::thresholds::{Judged, Thresholds};
use crate::tasks::questions::{Question, golds};

/// The answer to a question.
pub struct Answer {
    pub id: String,
    pub question: String,
    /// As [`Gold`](crate::tasks::questions::Gold) has them; of a question without known answers `[""]` too.
    pub golds: Vec<String>,
    /// "" where the model says that there is none.
    pub text: String,
    /// How much no answer outscores the best one, where the model knows of none.
    pub no_answer: Option<f32>,
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
    /// From which null-score difference on no answer is best; nothing of a model that always answers. To be asked before
    /// any answer is declined.
    pub fn thresholds(&self) -> Option<Thresholds> {
        let row = |answer: &Answer| {
            let (exact, f1) = squad_pair(&answer.golds, &answer.text);
            let has_answer = answer.golds.iter().any(|gold| !gold.is_empty());
            let no_answer = f64::from(answer.no_answer?);
            Some(Judged { has_answer, answered: !answer.text.is_empty(), no_answer, exact, f1 })
        };
        let rows: Option<Vec<Judged>> = self.0.iter().map(row).collect();
        rows.filter(|rows| !rows.is_empty()).map(|rows| Thresholds::best(&rows))
    }

    /// Takes the answers back that no answer outscores by more than this.
    pub fn decline(&mut self, threshold: f32) {
        let declined = |answer: &&mut Answer| answer.no_answer.is_some_and(|above| above > threshold);
        self.0.iter_mut().filter(declined).for_each(|answer| answer.text.clear());
    }

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
        let mut files =
            vec![("json", serde_json::to_vec(&answers)?), ("nbest.json", serde_json::to_vec(&n_best)?)];
        let differences =
            self.0.iter().filter_map(|answer| Some((answer.id.clone(), Value::from(answer.no_answer?))));
        let differences: Map<String, Value> = differences.collect();
        if !differences.is_empty() {
            files.push(("na.json", serde_json::to_vec(&differences)?));
        }
        Ok(files)
    }
}
