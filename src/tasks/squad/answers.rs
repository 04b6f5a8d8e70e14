//! From the scores of windows to answers: substrings of the original context.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use crate::tasks::alignment::Characters;
use crate::tasks::questions::Question;
use crate::tasks::windows::{Encoded, Window, best_context};

/// Scores of the answers' ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Ends {
    /// A logit for each position in the window's ids.
    Plain(Vec<f32>),
    /// For some start positions a logit for each position, given that start.
    Beam(Vec<(usize, Vec<f32>)>),
}

/// What a model says about a window. Positions are those of the window's ids; padding may follow.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowScores {
    /// A logit for each position.
    pub start: Vec<f32>,
    pub ends: Ends,
    /// The logit of "the context does not answer the question".
    pub no_answer: Option<f32>,
}

/// How answers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    pub n_best: usize,
    /// In tokens.
    pub max_answer_length: usize,
    /// Add log-probabilities (over the window's context and `[CLS]`) instead of logits.
    pub joint: bool,
    /// How many starts of a window are tried, the best ones; in `Ends::Plain` all are.
    pub beam: usize,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        AnswerOptions { n_best: 20, max_answer_length: 30, joint: false, beam: 20 }
    }
}

/// A possible answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Exactly the context's code points from `start` to before `end`, without white space at its edges.
    pub text: String,
    pub start: usize,
    pub end: usize,
    pub score: f32,
    /// Softmax of the scores over the n-best.
    pub probability: f64,
}

/// The answers to a question, the best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// No two with the same text. Empty where the context is, or no score is a number.
    pub n_best: Vec<Candidate>,
    /// The smallest of the windows' `no_answer`.
    pub no_answer: Option<f32>,
}

impl Prediction {
    /// The best answer's text, "" without any.
    pub fn text(&self) -> &str {
        self.n_best.first().map_or("", |candidate| &candidate.text)
    }
}

/// The positions in a window's ids of the best starts, at most `beam` of them, the best first: for which a
/// joint head computes its ends. `may_start`: the window's part of `best_context`.
pub fn beam_starts(window: &Window, may_start: &[bool], start: &[f32], beam: usize) -> Vec<usize> {
    let allowed =
        may_start.iter().enumerate().filter(|(_, may)| **may).map(|(n, _)| window.context_position + n);
    let mut positions: Vec<usize> =
        allowed.filter(|&position| start.get(position).is_some_and(|score| !score.is_nan())).collect();
    positions.sort_by(|&a, &b| start[b].total_cmp(&start[a]).then(a.cmp(&b)));
    positions.truncate(beam);
    positions
}

/// A span of context tokens, ordered by score; the earlier and shorter one is greater where scores are equal.
#[derive(Clone, Copy, Debug)]
struct Scored {
    score: f32,
    first: usize,
    last: usize,
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        let scores = self.score.total_cmp(&other.score);
        scores.then(other.first.cmp(&self.first)).then(other.last.cmp(&self.last))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scored {}

/// The answers to a question from the scores of all its windows (`windows[n]` has `scores[n]`).
pub fn predict(
    question: &Question,
    encoded: &Encoded,
    windows: &[&Window],
    scores: &[WindowScores],
    options: &AnswerOptions,
) -> Prediction {
    let mut found = Vec::new();
    for ((window, may_start), scores) in windows.iter().zip(best_context(windows)).zip(scores) {
        collect(encoded, window, &may_start, scores, options, &mut found);
    }
    let no_answer = scores.iter().filter_map(|scores| scores.no_answer).min_by(f32::total_cmp);
    Prediction { n_best: best_texts(question, encoded, found, options.n_best), no_answer }
}

/// Adds every allowed span of a window.
fn collect(
    encoded: &Encoded,
    window: &Window,
    may_start: &[bool],
    scores: &WindowScores,
    options: &AnswerOptions,
    found: &mut Vec<Scored>,
) {
    let has_text =
        |place: usize| encoded.spans.get(window.first_token + place).is_some_and(|(begin, end)| begin < end);
    let start_shift = shift(window, &scores.start, options.joint);
    let mut spans = |place: usize, ends: &[f32], end_shift: f64| {
        let Some(start) = scores.start.get(window.context_position + place) else { return };
        let longest = options.max_answer_length.min(window.tokens - place);
        for last in (place..place + longest).filter(|&last| has_text(last)) {
            let Some(end) = ends.get(window.context_position + last) else { return };
            let score = ((f64::from(*start) - start_shift) + (f64::from(*end) - end_shift)) as f32;
            if score.is_finite() {
                let (first, last) = (window.first_token + place, window.first_token + last);
                found.push(Scored { score, first, last });
            }
        }
    };
    match &scores.ends {
        Ends::Plain(ends) => {
            let end_shift = shift(window, ends, options.joint);
            for place in (0..window.tokens).filter(|&place| may_start[place] && has_text(place)) {
                spans(place, ends, end_shift);
            }
        }
        Ends::Beam(beam) => {
            let starts = beam_starts(window, may_start, &scores.start, usize::MAX);
            let tried = starts.iter().filter_map(|start| beam.iter().find(|(position, _)| position == start));
            for (position, ends) in tried.take(options.beam) {
                let place = position - window.context_position;
                if has_text(place) {
                    spans(place, ends, shift(window, ends, options.joint));
                }
            }
        }
    }
}

/// What to subtract from logits: the logarithm of their exponentials' sum over `[CLS]` and the context, or 0.
fn shift(window: &Window, logits: &[f32], joint: bool) -> f64 {
    if !joint {
        return 0.0;
    }
    let context = window.context_position..window.context_position + window.tokens;
    let allowed = || std::iter::once(0).chain(context.clone()).filter_map(|position| logits.get(position));
    let largest = allowed().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let sum: f64 = allowed().map(|&logit| (f64::from(logit) - f64::from(largest)).exp()).sum();
    f64::from(largest) + sum.ln()
}

/// The n best spans with different texts.
fn best_texts(question: &Question, encoded: &Encoded, found: Vec<Scored>, n_best: usize) -> Vec<Candidate> {
    let context = Characters::new(&question.context);
    let mut heap = BinaryHeap::from(found);
    let mut texts = HashSet::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    while candidates.len() < n_best
        && let Some(Scored { score, first, last }) = heap.pop()
    {
        let (start, end) = context.trim(encoded.spans[first].0, encoded.spans[last].1);
        let text = context.slice(start, end);
        if start < end && texts.insert(text) {
            candidates.push(Candidate { text: text.to_string(), start, end, score, probability: 0.0 });
        }
    }
    let largest = candidates.first().map_or(0.0, |candidate| f64::from(candidate.score));
    let weight = |candidate: &Candidate| (f64::from(candidate.score) - largest).exp();
    let sum: f64 = candidates.iter().map(weight).sum();
    for candidate in &mut candidates {
        candidate.probability = weight(candidate) / sum;
    }
    candidates
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
