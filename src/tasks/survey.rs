//! Every data set there is, read once: counts, problems, and what token borders reproduce.
//! `cargo test --release --lib survey -- --ignored --nocapture`

use std::path::{Path, PathBuf};

use super::alignment::{Characters, tokens_of};
use super::classify::labels::Labels;
use super::data::{Problems, Purpose};
use super::multiple_choice::reader::choice_examples;
use super::questions::{self, Question};
use super::squad::score::squad_pair;
use super::table::{Columns, Table, hold_out};
use super::tag::reader::{TaggedText, tagged_texts};
use super::tag::score::score_entities;
use super::tag::tags::{TagLabels, decode_tags, encode_tags};
use super::tests::{SPECIALS, shared};
use super::texts::{Goal, text_examples};
use super::windows::{SquadOptions, encode, windows};
use crate::tokenizer::Tokenizer;

fn tokenizer() -> Option<Tokenizer> {
    Some(Tokenizer::open(&shared("data/sentencepiece/konoha-wiki-ja-32k.model")?, true).unwrap())
}

fn report(path: &Path, problems: &Problems) {
    for line in problems.report(path) {
        eprintln!("  problem: {line}");
    }
}

/// Encodes all questions and counts the first answers whose tokens lead back to exactly their text.
fn borders(questions: &[Question], tokenizer: &Tokenizer, problems: &mut Problems) -> String {
    let options = SquadOptions::default();
    let (mut answers, mut exact, mut all, mut held) = (0, 0, 0, 0);
    let mut off: Vec<String> = Vec::new();
    for (n, question) in questions.iter().enumerate() {
        let encoded = encode(question, tokenizer, &options).unwrap();
        encoded.report(question, true, problems);
        let windows = windows(n, question, &encoded, &options, SPECIALS, true);
        all += windows.len();
        held += windows.iter().filter(|window| window.has_answer).count();
        let (Some(answer), Some((first, last))) = (question.answers.first(), encoded.answer) else {
            continue;
        };
        answers += 1;
        let context = Characters::new(&question.context);
        let (start, end) = context.trim(encoded.spans[first].0, encoded.spans[last].1);
        if context.slice(start, end) == answer.text {
            exact += 1;
        } else if off.len() < 6 {
            off.push(format!("{:?}→{:?}", answer.text, context.slice(start, end)));
        }
    }
    let share = 100.0 * f64::from(exact) / f64::from(answers);
    format!(
        "{exact} of {answers} first answers exact ({share:.2} %), {all} windows, {held} with answers; {}",
        off.join(" ")
    )
}

/// Exact match and F1 of a model that always finds the right tokens: what token borders allow.
fn ceiling(questions: &[Question], tokenizer: &Tokenizer) -> String {
    let (mut exact, mut overlap) = (0.0, 0.0);
    for question in questions {
        let encoded = encode(question, tokenizer, &SquadOptions::default()).unwrap();
        let context = Characters::new(&question.context);
        let golds: Vec<String> = question.answers.iter().map(|answer| answer.text.clone()).collect();
        let mut best = (0.0f64, 0.0f64);
        for answer in &question.answers {
            let end = answer.start + answer.text.chars().count();
            let Some((first, last)) = tokens_of(&encoded.spans, answer.start, end) else { continue };
            let (start, end) = context.trim(encoded.spans[first].0, encoded.spans[last].1);
            let score = squad_pair(&golds, context.slice(start, end));
            best = (best.0.max(score.0), best.1.max(score.1));
        }
        exact += best.0;
        overlap += best.1;
    }
    let percent = 100.0 / questions.len() as f64;
    format!("at best EM {:.2} F1 {:.2}", exact * percent, overlap * percent)
}

#[test]
#[ignore = "reads every data set"]
fn survey_questions() {
    let Some(tokenizer) = tokenizer() else { return };
    let own = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
    let files: Vec<PathBuf> = ["jaquad-train.json.xz", "jaquad-dev.json.xz", "jsquad-valid-v1.3.json.xz"]
        .into_iter()
        .filter_map(|name| shared(&format!("data/finetune/{name}")))
        .chain(["inazuma-squad-train.json", "inazuma-squad-dev.json"].map(own))
        .collect();
    for path in files {
        let evaluation = questions::read(&path, Purpose::Evaluate).unwrap();
        let train = questions::read(&path, Purpose::Train).unwrap();
        let mut problems = train.problems.clone();
        let line = borders(&train.questions, &tokenizer, &mut problems);
        let ceiling = ceiling(&evaluation.questions, &tokenizer);
        let counts = (train.questions.len(), evaluation.questions.len());
        eprintln!("{}: {counts:?} questions to train and to evaluate; {ceiling}; {line}", path.display());
        report(&path, &problems);
        report(&path, &evaluation.problems);
    }
}

#[test]
#[ignore = "reads every data set"]
fn survey_texts() {
    let columns = Columns::default();
    for (file, goal) in [
        ("jnli-valid-v1.3.json.xz", Goal::Class),
        ("jsts-train-v1.3.json.xz", Goal::Score),
        ("jsts-valid-v1.3.json.xz", Goal::Score),
        ("jsick.tsv.xz", Goal::Class),
        ("jsick.tsv.xz", Goal::Score),
    ] {
        let Some(path) = shared(&format!("data/finetune/{file}")) else { continue };
        let (examples, problems) =
            text_examples(&Table::read(&path).unwrap(), &columns, goal, Purpose::Train).unwrap();
        let labels = Labels::from_training(examples.iter()).unwrap();
        eprintln!(
            "{file} {goal:?}: {} examples, {} labels {:?}",
            examples.len(),
            labels.len(),
            &labels.names()[..3]
        );
        report(&path, &problems);
    }
    if let Some(path) = shared("data/finetune/jsick.tsv.xz") {
        for value in ["train", "trial", "test"] {
            let selection = format!("data={value}").parse().unwrap();
            eprintln!(
                "jsick {value}: {} rows",
                Table::read(&path).unwrap().select(&selection).unwrap().rows.len()
            );
        }
    }
    for file in ["jcommonsenseqa-train-v1.3.json.xz", "jcommonsenseqa-valid-v1.3.json.xz"] {
        let Some(path) = shared(&format!("data/finetune/{file}")) else { continue };
        let (examples, problems) =
            choice_examples(&Table::read(&path).unwrap(), &columns, Purpose::Train).unwrap();
        eprintln!("{file}: {} examples", examples.len());
        report(&path, &problems);
    }
}

#[test]
#[ignore = "reads every data set"]
fn survey_entities() {
    let (Some(path), Some(tokenizer)) =
        (shared("data/finetune/stockmark-ner-wikipedia.json.xz"), tokenizer())
    else {
        return;
    };
    let table = Table::read(&path).unwrap();
    let (texts, mut problems) = tagged_texts(&table, &Columns::default(), Purpose::Train).unwrap();
    let labels = TagLabels::from_training(&texts).unwrap();
    let decode = |text: &TaggedText, problems: &mut Problems| {
        let encoded = encode_tags(text, &tokenizer, &labels, problems);
        decode_tags(&encoded.labels, &encoded.spans, &text.text, &labels)
    };
    let found: Vec<_> = texts.iter().map(|text| decode(text, &mut problems)).collect();
    let golds: Vec<_> = texts.iter().map(|text| text.spans.clone()).collect();
    let score = score_entities(&golds, &found);
    eprintln!("stockmark: {} texts, {} labels; by token borders {score:?}", texts.len(), labels.len());
    report(&path, &problems);
    let (kept, held) = hold_out(texts, 0.2, |text| &text.group);
    eprintln!("stockmark: {} kept, {} held out", kept.len(), held.len());
}
