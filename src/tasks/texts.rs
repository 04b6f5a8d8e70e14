//! Texts and pairs of texts with a label or a score.

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

use crate::tokenizer::Tokenizer;

use super::data::{Problems, Purpose};
use super::features::{Input, pair, single};
use super::source::Line;
use super::table::{Columns, Ids, Row, Table};

/// What `parse` reads.
pub const TEXT_OR_PAIR: &str = r#"{"text"} or {"text1", "text2"}"#;

/// A text, or a pair of them, with what is to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextExample {
    pub id: String,
    pub first: String,
    pub second: Option<String>,
    /// As the file writes it: a class, or a number for regression. Training examples always have one.
    pub label: Option<String>,
}

/// What of a data set that has both classes and scores is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    Class,
    Score,
}

/// Columns of known data sets: first text, second text, class, score.
struct Layout {
    first: &'static str,
    second: Option<&'static str>,
    class: &'static str,
    score: &'static str,
}

/// JNLI and JSTS; JSICK; MARC-ja; then common names. The first whose texts are there is taken.
const LAYOUTS: [Layout; 7] = [
    Layout { first: "sentence1", second: Some("sentence2"), class: "label", score: "label" },
    Layout {
        first: "sentence_A_Ja",
        second: Some("sentence_B_Ja"),
        class: "entailment_label_Ja",
        score: "relatedness_score_Ja",
    },
    Layout { first: "sentence", second: None, class: "label", score: "label" },
    Layout { first: "text1", second: Some("text2"), class: "label", score: "label" },
    Layout { first: "premise", second: Some("hypothesis"), class: "label", score: "label" },
    Layout { first: "text", second: Some("text2"), class: "label", score: "label" },
    Layout { first: "text", second: None, class: "label", score: "label" },
];

/// The columns in which the texts and the label of a table stand.
struct Found {
    first: String,
    second: Option<String>,
    /// None where the table has no such column, which only data to predict may lack.
    label: Option<String>,
}

/// The examples of a table, for classification and regression.
///
/// Training: rows without a text or a label are reported and skipped. Evaluation: they are reported and kept,
/// with "" and None (nothing is reported where the whole table has no labels). Errors: columns that are not
/// there, and no example at all.
pub fn text_examples(
    table: &Table,
    columns: &Columns,
    goal: Goal,
    purpose: Purpose,
) -> Result<(Vec<TextExample>, Problems)> {
    let found = find(table, columns, goal)?;
    let training = purpose == Purpose::Train;
    if let (true, None) = (training, &found.label) {
        bail!(
            "{}: no column of labels found; name it. There are: {}",
            table.path.display(),
            table.columns().join(", ")
        );
    }
    let mut problems = Problems::default();
    let mut ids = Ids::new(table, columns.id.as_deref())?;
    let mut examples = Vec::new();
    for row in &table.rows {
        let id = ids.id(row, &mut problems)?;
        if let Some(example) = example(table, row, &found, id, training, &mut problems)? {
            examples.push(example);
        }
    }
    ensure!(
        !examples.is_empty(),
        "{}: no row can be used ({})",
        table.path.display(),
        problems.report(&table.path).join("; ")
    );
    Ok((examples, problems))
}

fn example(
    table: &Table,
    row: &Row,
    found: &Found,
    id: String,
    training: bool,
    problems: &mut Problems,
) -> Result<Option<TextExample>> {
    let mut usable = true;
    let mut text = |column: &str, problems: &mut Problems| -> Result<String> {
        let text = table.text(row, column)?.filter(|text| !text.trim().is_empty());
        if text.is_none() {
            usable = false;
            let outcome = if training { "skipped" } else { "kept as an empty text" };
            problems.add(&id, format!("no text in {column:?} ({outcome})"));
        }
        Ok(text.unwrap_or_default())
    };
    let first = text(&found.first, problems)?;
    let second = found.second.as_deref().map(|column| text(column, problems)).transpose()?;
    let mut label = None;
    if let Some(column) = &found.label {
        label =
            table.text(row, column)?.map(|label| label.trim().to_string()).filter(|label| !label.is_empty());
        if label.is_none() {
            usable = false;
            let outcome = if training { "skipped" } else { "not scored" };
            problems.add(&id, format!("no label in {column:?} ({outcome})"));
        }
    }
    Ok((usable || !training).then_some(TextExample { id, first, second, label }))
}

fn find(table: &Table, columns: &Columns, goal: Goal) -> Result<Found> {
    for column in [&columns.first, &columns.second, &columns.label].into_iter().flatten() {
        table.require(column)?;
    }
    let layout = LAYOUTS.iter().find(|layout| match &columns.first {
        // A column that the user names brings its partner along only where it is a known first text.
        Some(first) => layout.first == first && layout.second.is_none_or(|second| table.has(second)),
        None => table.has(layout.first) && layout.second.is_none_or(|second| table.has(second)),
    });
    let named = |layout: &Layout| match goal {
        Goal::Class => layout.class,
        Goal::Score => layout.score,
    };
    let label = layout.map_or("label", named);
    let label = columns.label.clone().or_else(|| table.has(label).then(|| label.to_string()));
    match (&columns.first, layout) {
        (Some(first), _) => Ok(Found { first: first.clone(), second: columns.second.clone(), label }),
        (None, Some(layout)) => {
            let second = columns.second.clone().or_else(|| layout.second.map(str::to_string));
            Ok(Found { first: layout.first.to_string(), second, label })
        }
        (None, None) => bail!(
            "{}: no column of texts found (sentence1 and sentence2, sentence, text1 and text2, text…); name it. \
             There are: {}",
            table.path.display(),
            table.columns().join(", ")
        ),
    }
}

/// Texts to predict, one a line: `text`, or `text1` and `text2`.
pub fn parse(lines: &[Line]) -> Result<Vec<TextExample>> {
    let example = |line: &Line| {
        let (first, second) = match line.optional("text1")? {
            Some(first) => (first, Some(line.text("text2")?)),
            None => (line.text("text")?, None),
        };
        Ok(TextExample { id: line.id(), first, second, label: None })
    };
    lines.iter().map(example).collect()
}

/// Encodes texts and pairs; reports those that are cut.
pub fn encode(
    examples: &[TextExample],
    tokenizer: &Tokenizer,
    max_length: usize,
    problems: &mut Problems,
) -> Result<Vec<Input>> {
    let specials = tokenizer.special_ids()?;
    let encode = |example: &TextExample| {
        let first = tokenizer.encode(&example.first);
        match &example.second {
            Some(second) => pair(&first, &tokenizer.encode(second), max_length, specials),
            None => single(&first, max_length, specials),
        }
    };
    let inputs: Vec<Input> = examples.par_iter().map(encode).collect();
    for (example, input) in examples.iter().zip(&inputs).filter(|(_, input)| input.cut > 0) {
        problems.add(&example.id, format!("text is longer than {} tokens (cut)", input.ids.len()));
    }
    Ok(inputs)
}

/// One line on how much there is.
pub fn summary(inputs: &[Input]) -> String {
    let tokens: usize = inputs.iter().map(|input| input.ids.len()).sum();
    format!("{} texts of {} tokens on average", inputs.len(), tokens / inputs.len().max(1))
}

#[cfg(test)]
#[path = "texts_tests.rs"]
mod tests;
