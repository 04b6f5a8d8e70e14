use std::sync::Arc;

use approx::assert_relative_eq;

use super::*;
use crate::tasks::tests::{Random, SPECIALS};
use crate::tasks::windows::{SquadOptions, best_context, windows};

/// A question whose context tokens are its characters.
fn question(context: &str) -> (Question, Encoded) {
    let question = Question {
        id: "q".into(),
        title: String::new(),
        question: String::new(),
        context: Arc::from(context),
        answers: Vec::new(),
        impossible: false,
    };
    let count = context.chars().count();
    let ids = (100..100 + count as u32).collect();
    let spans = (0..count).map(|n| (n, n + 1)).collect();
    (question, Encoded { query: vec![7], ids, spans, ..Encoded::default() })
}

fn random_scores(window: &Window, random: &mut Random, beam: Option<&[bool]>) -> WindowScores {
    let mut logits = || (0..window.input.ids.len() + 3).map(|_| random.unit() * 8.0).collect::<Vec<f32>>();
    let start = logits();
    let ends = match beam {
        None => Ends::Plain(logits()),
        Some(may) => {
            let starts = beam_starts(window, may, &start, 3);
            Ends::Beam(starts.into_iter().map(|position| (position, logits())).collect())
        }
    };
    WindowScores { start, ends, no_answer: Some(random.unit()) }
}

/// All spans by the definition, without any of the module's short cuts.
fn brute_force(
    context: &str,
    windows: &[Window],
    scores: &[WindowScores],
    options: &AnswerOptions,
) -> Vec<(String, f32)> {
    let characters: Vec<char> = context.chars().collect();
    let log_softmax = |window: &Window, logits: &[f32], position: usize| -> f32 {
        let allowed = (0..window.input.ids.len())
            .filter(|&p| p == 0 || (p >= window.context_position && p < window.input.ids.len() - 1));
        let sum: f64 = allowed.map(|p| f64::from(logits[p]).exp()).sum();
        if options.joint { (f64::from(logits[position]) - sum.ln()) as f32 } else { logits[position] }
    };
    let context_of = |window: &Window, token: usize| {
        let end = window.first_token + window.tokens;
        (token >= window.first_token && token < end)
            .then(|| (token - window.first_token).min(end - 1 - token) as f64 + 0.01 * window.tokens as f64)
    };
    let mut all: Vec<(String, f32)> = Vec::new();
    for (n, (window, scores)) in windows.iter().zip(scores).enumerate() {
        for first in window.first_token..window.first_token + window.tokens {
            let mine = context_of(window, first).unwrap();
            let beaten = windows.iter().enumerate().any(|(m, other)| {
                context_of(other, first)
                    .is_some_and(|theirs| theirs > mine + 1e-9 || (m < n && (theirs - mine).abs() < 1e-9))
            });
            let position = window.context_position + first - window.first_token;
            let ends = match &scores.ends {
                Ends::Plain(ends) => Some(ends),
                Ends::Beam(beam) => beam.iter().find(|(start, _)| *start == position).map(|(_, ends)| ends),
            };
            let (false, Some(ends)) = (beaten, ends) else { continue };
            for last in first..window.first_token + window.tokens {
                if last - first + 1 > options.max_answer_length {
                    continue;
                }
                let end = window.context_position + last - window.first_token;
                let score = log_softmax(window, &scores.start, position) + log_softmax(window, ends, end);
                let text: String = characters[first..=last].iter().collect();
                all.push((text.trim().to_string(), score));
            }
        }
    }
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut best: Vec<(String, f32)> = Vec::new();
    for (text, score) in all {
        if !text.is_empty() && best.iter().all(|(other, _)| *other != text) {
            best.push((text, score));
        }
    }
    best.truncate(options.n_best);
    best
}

#[test]
fn the_n_best_are_those_of_the_definition() {
    let mut random = Random(7);
    for round in 0..200 {
        let context: String =
            (0..1 + random.below(40)).map(|_| ["あ", "い", " ", "う", "😀"][random.below(5)]).collect();
        let (question, encoded) = question(&context);
        let windowing = SquadOptions { max_length: 16, doc_stride: 1 + random.below(6), max_query_length: 9 };
        let windows = windows(0, &question, &encoded, &windowing, SPECIALS, false);
        let borrowed: Vec<&Window> = windows.iter().collect();
        let best = best_context(&borrowed);
        assert_eq!(best.iter().flatten().filter(|best| **best).count(), encoded.ids.len());
        let scores: Vec<WindowScores> = windows
            .iter()
            .zip(&best)
            .map(|(window, may)| random_scores(window, &mut random, (round % 2 == 0).then_some(may)))
            .collect();
        let options = AnswerOptions {
            n_best: 6,
            max_answer_length: 1 + random.below(9),
            joint: round % 3 == 0,
            ..AnswerOptions::default()
        };
        let prediction = predict(&question, &encoded, &borrowed, &scores, &options);
        let expected = brute_force(&context, &windows, &scores, &options);
        assert_eq!(prediction.n_best.len(), expected.len());
        for (candidate, (text, score)) in prediction.n_best.iter().zip(&expected) {
            assert_relative_eq!(candidate.score, score, epsilon = 1e-4);
            assert_eq!(&candidate.text, text);
            let cut: String = context.chars().take(candidate.end).skip(candidate.start).collect();
            assert_eq!(candidate.text, cut);
        }
        if !expected.is_empty() {
            let sum: f64 = prediction.n_best.iter().map(|candidate| candidate.probability).sum();
            assert_relative_eq!(sum, 1.0, epsilon = 1e-9);
        }
        let smallest = scores.iter().filter_map(|scores| scores.no_answer).fold(f32::INFINITY, f32::min);
        assert_eq!(prediction.no_answer, Some(smallest));
    }
}

#[test]
fn the_first_window_wins_ties_of_context() {
    let (question, encoded) = question("あいうえおかきくけこさし");
    let options = SquadOptions { max_length: 12, doc_stride: 4, max_query_length: 9 };
    let windows = windows(0, &question, &encoded, &options, SPECIALS, false);
    let windows: Vec<&Window> = windows.iter().collect();
    let best = best_context(&windows);
    // Windows 0..8 and 4..12: min(left, right) is 2, 1, 0 against 1, 2, 3 at tokens 5, 6, 7.
    assert_eq!(best[0], [true, true, true, true, true, true, false, false]);
    assert_eq!(best[1], [false, false, true, true, true, true, true, true]);
}

#[test]
fn nothing_to_answer_with_is_no_panic() {
    let (question, encoded) = question("");
    let prediction = predict(&question, &encoded, &[], &[], &AnswerOptions::default());
    assert_eq!((prediction.text(), prediction.no_answer), ("", None));
    let (question, encoded) = super::tests::question(" あ ");
    let options = SquadOptions::default();
    let windows = windows(0, &question, &encoded, &options, SPECIALS, false);
    let borrowed: Vec<&Window> = windows.iter().collect();
    let length = windows[0].input.ids.len();
    let scores = |start: Vec<f32>, end: Vec<f32>| {
        vec![WindowScores { start, ends: Ends::Plain(end), no_answer: None }]
    };
    let of = |scores: Vec<WindowScores>| {
        predict(&question, &encoded, &borrowed, &scores, &AnswerOptions::default())
    };
    assert!(of(scores(vec![f32::NAN; length], vec![0.0; length])).n_best.is_empty());
    assert!(of(scores(vec![], vec![])).n_best.is_empty());
    let prediction = of(scores(vec![0.0; length], vec![0.0; length]));
    assert_eq!((prediction.n_best.len(), prediction.text()), (1, "あ"));
}
