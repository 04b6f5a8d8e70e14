//! Places of tokens in awkward text, windows, and a survey of the real data sets.

use std::sync::Arc;

use super::alignment::{Characters, align, tokens_of};
use super::questions::{Answer, Question};
use super::squad::answers::{AnswerOptions, Ends, WindowScores, predict};
use super::windows::{Encoded, SquadOptions, Window, best_context, encode, windows};
pub use crate::testing::shared;
use crate::tokenizer::{SpecialIds, Tokenizer, train};

pub const SPECIALS: SpecialIds = SpecialIds { pad: 3, cls: 4, sep: 5, mask: 6 };

/// A model of 60 pieces, lower-casing or not.
pub fn small_tokenizer(lower: bool) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    let words = ["山の上に", "雲が出た", "株式会社", "ガ キロ", "ABC", "雨が降る", "、"];
    let sentences = (0..400).map(|n| format!("{}{}{}。", words[n % 7], words[n / 7 % 7], words[n / 49 % 7]));
    let options =
        train::Options { vocab_size: 60, seed: 1, character_coverage: 0.9995, max_sentences: 0, lower };
    let summary = train::train(sentences, options, &directory.path().join("small")).unwrap();
    Tokenizer::open(&summary.model, lower).unwrap()
}

fn tokenizers() -> Vec<Tokenizer> {
    let mut tokenizers = vec![small_tokenizer(true), small_tokenizer(false)];
    for model in ["konoha-wiki-ja-32k.model", "google-test-ja-8k.model"] {
        if let Some(path) = shared(&format!("data/sentencepiece/{model}")) {
            tokenizers.extend([true, false].map(|lower| Tokenizer::open(&path, lower).unwrap()));
        }
    }
    tokenizers
}

/// A small generator of its own (xorshift), so that failures repeat.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    pub fn unit(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 20) as f32
    }
}

/// Parts of awkward text: half-width kana, expansions, combining marks, case, full width, emoji, joiners,
/// white space of all kinds, controls, and plain words.
const PARTS: [&str; 46] = [
    "ｶﾞ",
    "ﾊﾟ",
    "ｱ",
    "ﾞ",
    "㍿",
    "㌔",
    "㍻",
    "㎏",
    "①",
    "½",
    "か\u{3099}",
    "e\u{301}",
    "\u{301}",
    "\u{3099}",
    "İ",
    "Σ",
    "ΑΣ",
    "ß",
    "ﬀ",
    "Å",
    "ＡＢ",
    "１２",
    "（",
    "😀",
    "👨‍👩‍👧",
    "🇯🇵",
    "\u{200d}",
    "\u{fe0f}",
    " ",
    "  ",
    "\u{3000}",
    "\n",
    "\t",
    "\u{a0}",
    "\u{200b}",
    "\u{feff}",
    "\0",
    "\u{ad}",
    "¨",
    "▁",
    "東京",
    "山の上に",
    "ABC",
    "。",
    "[CLS]",
    "株式会社",
];

fn random_text(random: &mut Random) -> String {
    (0..random.below(14)).map(|_| PARTS[random.below(PARTS.len())]).collect()
}

#[test]
fn every_token_leads_back_to_its_text() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut texts, mut tokens) = (0, 0);
    for tokenizer in tokenizers() {
        for _ in 0..1500 {
            let text = random_text(&mut random);
            let aligned = align(&text, &tokenizer);
            assert_eq!(aligned.ids, tokenizer.encode(&text), "{text:?}");
            let characters = Characters::new(&text);
            let mut last = (0, 0);
            for (n, &(begin, end)) in aligned.spans.iter().enumerate() {
                assert!(last.0 <= begin && last.1 <= end && end <= characters.len(), "{text:?} {aligned:?}");
                let prefix = n == 0 && Some(aligned.ids[0]) == tokenizer.id_of("▁");
                assert!(begin < end || (prefix && begin == end), "{text:?} token {n} {aligned:?}");
                last = (begin, end);
            }
            for first in 0..aligned.spans.len() {
                for &(_, end) in &aligned.spans[first..] {
                    let begin = aligned.spans[first].0;
                    let part: String = text.chars().skip(begin).take(end - begin).collect();
                    assert_eq!(characters.slice(begin, end), part, "{text:?}");
                }
            }
            texts += 1;
            tokens += aligned.spans.len();
        }
    }
    eprintln!("{texts} texts, {tokens} tokens");
}

fn question(context: &str, answers: Vec<Answer>) -> Question {
    Question {
        id: "q".into(),
        title: String::new(),
        question: "山の上に?".into(),
        context: Arc::from(context),
        answers,
        impossible: false,
    }
}

/// Scores that want one span of context tokens above all.
fn wanting(window: &Window, first: usize, last: usize) -> WindowScores {
    let logits = |token: usize| {
        let mut logits = vec![0.0; window.input.ids.len()];
        if token >= window.first_token && token < window.first_token + window.tokens {
            logits[window.context_position + token - window.first_token] = 9.0;
        }
        logits
    };
    WindowScores { start: logits(first), ends: Ends::Plain(logits(last)), no_answer: None }
}

/// Whether the training targets lead to the tokens of the answer, in every window that holds them.
fn check_targets(windows: &[Window], encoded: &Encoded) {
    let (first, last) = encoded.answer.unwrap();
    for window in windows {
        let holds = window.first_token <= first && last < window.first_token + window.tokens;
        assert_eq!(window.has_answer, holds);
        let ids = &window.input.ids;
        match holds {
            true => assert_eq!(ids[window.targets.0..=window.targets.1], encoded.ids[first..=last]),
            false => assert_eq!(window.targets, (0, 0)),
        }
    }
}

#[test]
fn answers_at_token_borders_are_found_again() {
    let mut random = Random(42);
    let options = SquadOptions { max_length: 30, doc_stride: 5, max_query_length: 12 };
    let choice = AnswerOptions { max_answer_length: 50, ..AnswerOptions::default() };
    let (mut tried, mut predicted) = (0, 0);
    for tokenizer in tokenizers() {
        for _ in 0..700 {
            let text: String = (0..3).map(|_| random_text(&mut random)).collect();
            let spans = align(&text, &tokenizer).spans;
            if spans.is_empty() {
                continue;
            }
            let first = random.below(spans.len());
            let last = first + random.below((spans.len() - first).min(6));
            let (start, end) = (spans[first].0, spans[last].1);
            let answer = Characters::new(&text).slice(start, end).to_string();
            // A token outside that shares a character with one inside (株式|会社B of ㍿B) cannot be split.
            let shared = |n: &usize| {
                spans[*n].0 < end && spans[*n].1 > start && (spans[*n].0 < start || spans[*n].1 > end)
            };
            if answer.trim().is_empty() || (0..spans.len()).any(|n| shared(&n)) {
                continue;
            }
            let question = question(&text, vec![Answer { text: answer.clone(), start }]);
            let encoded = encode(&question, &tokenizer, &options).unwrap();
            let (from, to) = encoded.answer.unwrap();
            assert_eq!(Some((from, to)), tokens_of(&spans, start, end));
            assert_eq!((spans[from].0, spans[to].1), (start, end), "{text:?} {answer:?}");
            let windows = windows(0, &question, &encoded, &options, SPECIALS, true);
            check_targets(&windows, &encoded);
            tried += 1;
            let windows: Vec<&Window> = windows.iter().collect();
            let best = best_context(&windows);
            let starts_in = windows
                .iter()
                .zip(&best)
                .find(|(window, best)| {
                    from >= window.first_token && best.get(from - window.first_token) == Some(&true)
                })
                .map(|(window, _)| *window)
                .unwrap();
            if to < starts_in.first_token + starts_in.tokens {
                let scores: Vec<WindowScores> =
                    windows.iter().map(|window| wanting(window, from, to)).collect();
                let prediction = predict(&question, &encoded, &windows, &scores, &choice);
                assert_eq!(prediction.text(), answer.trim(), "{text:?}");
                assert!(question.context.contains(prediction.text()));
                predicted += 1;
            }
        }
    }
    assert!(predicted > 700, "{predicted}");
    eprintln!("{tried} answers, {predicted} predicted");
}

#[test]
fn windows_are_a_stride_apart_and_the_last_reaches_the_end() {
    let encoded = |tokens: u32| Encoded {
        query: vec![7, 8],
        ids: (100..100 + tokens).collect(),
        spans: (0..tokens as usize).map(|n| (n, n + 1)).collect(),
        answer: Some((4, 6)),
        ..Encoded::default()
    };
    let options = SquadOptions { max_length: 15, doc_stride: 4, max_query_length: 64 };
    let question = question("", Vec::new());
    for (tokens, expected) in [
        (0, vec![]),
        (10, vec![(0, 10)]),
        (11, vec![(0, 10), (4, 7)]),
        (14, vec![(0, 10), (4, 10)]),
        (15, vec![(0, 10), (4, 10), (8, 7)]),
    ] {
        let found = windows(3, &question, &encoded(tokens), &options, SPECIALS, true);
        let places: Vec<(usize, usize)> =
            found.iter().map(|window| (window.first_token, window.tokens)).collect();
        assert_eq!(places, expected, "{tokens}");
        for window in &found {
            assert_eq!((window.question, window.context_position, window.input.first_segment), (3, 4, 4));
            assert_eq!(window.input.ids.len(), window.tokens + 5);
            assert_eq!(window.input.ids[..4], [4, 7, 8, 5]);
            assert_eq!(window.input.ids[4], 100 + window.first_token as u32);
            assert_eq!(window.input.ids.last(), Some(&5));
        }
        check_targets(&found, &encoded(tokens));
    }
    let wide = SquadOptions { doc_stride: 99, ..options };
    assert_eq!(windows(0, &question, &encoded(25), &wide, SPECIALS, false).len(), 3);
    assert!(
        windows(0, &question, &encoded(11), &options, SPECIALS, false)
            .iter()
            .all(|window| !window.has_answer)
    );
}

#[test]
fn questions_without_room_and_cut_ones_are_named() {
    let tokenizer = small_tokenizer(true);
    let asked = question("東京", Vec::new());
    let tight = SquadOptions { max_length: 5, doc_stride: 1, max_query_length: 64 };
    let error = encode(&asked, &tokenizer, &tight).unwrap_err().to_string();
    assert!(error.contains("question q") && error.contains("max query length"), "{error}");
    assert!(encode(&asked, &tokenizer, &SquadOptions { doc_stride: 0, ..SquadOptions::default() }).is_err());
    let cut = SquadOptions { max_query_length: 1, ..tight };
    let encoded = encode(&asked, &tokenizer, &cut).unwrap();
    let mut problems = super::data::Problems::default();
    encoded.report(&asked, true, &mut problems);
    assert_eq!((problems.count("cut"), problems.count("no token")), (1, 1));
    assert_eq!(windows(0, &asked, &encoded, &cut, SPECIALS, false)[0].tokens, 1);
}
