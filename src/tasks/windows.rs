//! Questions and contexts as windows of ids, with places that lead back to the context.

use anyhow::{Result, ensure};

use crate::tokenizer::{SpecialIds, Tokenizer};

use super::alignment::{align, tokens_of};
use super::data::Problems;
use super::features::Input;
use super::questions::Question;

/// How questions become windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SquadOptions {
    /// Of a window, in tokens, the three symbols included.
    pub max_length: usize,
    /// Distance between the starts of two windows, in tokens.
    pub doc_stride: usize,
    /// A question is cut to so many tokens.
    pub max_query_length: usize,
}

impl Default for SquadOptions {
    fn default() -> Self {
        SquadOptions { max_length: 512, doc_stride: 128, max_query_length: 64 }
    }
}

/// The tokens of a question and its context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Of the question, already cut.
    pub query: Vec<u32>,
    /// How many tokens the question lost.
    pub query_cut: usize,
    /// Of the whole context.
    pub ids: Vec<u32>,
    /// For each token of the context its code points in the original context (see `Aligned`).
    pub spans: Vec<(usize, usize)>,
    /// The first and the last token that overlap with the first answer, where there is one and some do.
    pub answer: Option<(usize, usize)>,
}

/// A part of a context with the question: one sequence for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The index of the question in the data set.
    pub question: usize,
    pub input: Input,
    /// The position in `input.ids` of the first token of the context.
    pub context_position: usize,
    /// Which token of the context that is.
    pub first_token: usize,
    /// How many tokens of the context the window holds.
    pub tokens: usize,
    /// Training: positions in `input.ids` of the answer's first and last token; (0, 0) where the window does
    /// not hold the whole answer.
    pub targets: (usize, usize),
    /// Whether `targets` is an answer.
    pub has_answer: bool,
}

/// Encodes a question and its context.
///
/// Errors: options under which the question leaves no room for the context.
pub fn encode(question: &Question, tokenizer: &Tokenizer, options: &SquadOptions) -> Result<Encoded> {
    let SquadOptions { max_length, doc_stride, max_query_length } = *options;
    ensure!(doc_stride > 0, "the doc stride is 0; windows must move by at least one token");
    let mut query = tokenizer.encode(&question.question);
    let query_cut = query.len().saturating_sub(max_query_length);
    query.truncate(max_query_length);
    ensure!(
        query.len() + 3 < max_length,
        "question {}: its {} tokens leave no room for the context in a max length of {max_length}; raise it, or \
         lower the max query length ({max_query_length})",
        question.id,
        query.len()
    );
    let context = align(&question.context, tokenizer);
    let answer = question.answers.first().filter(|_| !question.impossible).and_then(|answer| {
        tokens_of(&context.spans, answer.start, answer.start + answer.text.chars().count())
    });
    Ok(Encoded { query, query_cut, ids: context.ids, spans: context.spans, answer })
}

impl Encoded {
    /// Reports what encoding lost: the end of a long question, and in training an answer without a token.
    pub fn report(&self, question: &Question, training: bool, problems: &mut Problems) {
        if self.query_cut > 0 {
            problems.add(&question.id, "question is longer than the max query length (cut)");
        }
        if training && !question.impossible && self.answer.is_none() {
            problems.add(&question.id, "answer has no token of its own (trained as if without an answer)");
        }
    }
}

/// The windows of a question: their starts are a doc stride apart, and the last is the first that reaches the
/// end of the context. None for an empty context. `encoded` is from `encode` with the same options.
pub fn windows(
    index: usize,
    question: &Question,
    encoded: &Encoded,
    options: &SquadOptions,
    specials: SpecialIds,
    training: bool,
) -> Vec<Window> {
    let room = options.max_length.saturating_sub(encoded.query.len() + 3).max(1);
    let answer = encoded.answer.filter(|_| training && !question.impossible);
    let mut windows = Vec::new();
    let mut first_token = 0;
    while first_token < encoded.ids.len() {
        let tokens = room.min(encoded.ids.len() - first_token);
        windows.push(window(index, encoded, first_token, tokens, answer, specials));
        if first_token + tokens == encoded.ids.len() {
            break;
        }
        // A stride beyond the window would leave tokens out.
        first_token += options.doc_stride.clamp(1, tokens);
    }
    windows
}

fn window(
    question: usize,
    encoded: &Encoded,
    first_token: usize,
    tokens: usize,
    answer: Option<(usize, usize)>,
    specials: SpecialIds,
) -> Window {
    let context = &encoded.ids[first_token..first_token + tokens];
    let mut ids = Vec::with_capacity(encoded.query.len() + tokens + 3);
    ids.push(specials.cls);
    ids.extend_from_slice(&encoded.query);
    ids.push(specials.sep);
    let context_position = ids.len();
    ids.extend_from_slice(context);
    ids.push(specials.sep);
    let held = answer.filter(|&(start, end)| start >= first_token && end < first_token + tokens);
    let position = |token: usize| token - first_token + context_position;
    Window {
        question,
        input: Input { ids, first_segment: context_position, cut: 0 },
        context_position,
        first_token,
        tokens,
        targets: held.map_or((0, 0), |(start, end)| (position(start), position(end))),
        has_answer: held.is_some(),
    }
}

/// For each window of a question, for each of its context tokens: whether this window has the largest
/// min(left, right) context (+ 0.01 · its tokens) for it. The first window wins ties.
pub fn best_context(windows: &[&Window]) -> Vec<Vec<bool>> {
    let tokens = windows.iter().map(|window| window.first_token + window.tokens).max().unwrap_or(0);
    let mut best: Vec<Option<(usize, usize)>> = vec![None; tokens];
    for (index, window) in windows.iter().enumerate() {
        for place in 0..window.tokens {
            // In hundredths, so that ties are exact.
            let score = 100 * place.min(window.tokens - 1 - place) + window.tokens;
            let entry = &mut best[window.first_token + place];
            if entry.is_none_or(|(other, _)| score > other) {
                *entry = Some((score, index));
            }
        }
    }
    let of_window = |(index, window): (usize, &&Window)| {
        let entries = &best[window.first_token..window.first_token + window.tokens];
        entries.iter().map(|entry| entry.is_some_and(|(_, winner)| winner == index)).collect()
    };
    windows.iter().enumerate().map(of_window).collect()
}
