//! Questions with several choices, one of them right.

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::tasks::data::{Problems, Purpose};
use crate::tasks::table::{Columns, Ids, Row, Table, scalar};

/// A question and its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceExample {
    pub id: String,
    pub question: String,
    /// At least two.
    pub choices: Vec<String>,
    /// The index of the right choice. Training examples always have one.
    pub label: Option<usize>,
}

/// Where the choices of a table stand.
enum Choices {
    /// Columns `choice0`, `choice1`…
    Columns(Vec<String>),
    /// A column that holds a list.
    List(String),
}

/// The examples of a table for multiple choice: JCommonsenseQA's `question`, `choice0`…, `label`, or a list in
/// `choices`; other names by `columns`.
///
/// Training: rows without a question, two choices and a valid label are reported and skipped. Evaluation: a
/// row without two choices is an error; a missing or wrong label is reported and kept as None.
pub fn choice_examples(
    table: &Table,
    columns: &Columns,
    purpose: Purpose,
) -> Result<(Vec<ChoiceExample>, Problems)> {
    let question = columns.first.as_deref().unwrap_or("question");
    table.require(question)?;
    let choices = find_choices(table, columns.second.as_deref())?;
    let label = columns.label.as_deref().unwrap_or("label");
    if purpose == Purpose::Train || columns.label.is_some() {
        table.require(label)?;
    }
    let training = purpose == Purpose::Train;
    let outcome = if training { "skipped" } else { "kept" };
    let mut problems = Problems::default();
    let mut ids = Ids::new(table, columns.id.as_deref())?;
    let mut examples = Vec::new();
    for row in &table.rows {
        let id = ids.id(row, &mut problems)?;
        let question = table.text(row, question)?.unwrap_or_default();
        let mut usable = true;
        if question.trim().is_empty() {
            usable = false;
            problems.add(&id, format!("no question ({outcome})"));
        }
        let choices = choices_of(table, row, &choices)?;
        if choices.len() < 2 {
            ensure!(
                training,
                "{}: fewer than two choices; every row must have them to be scored",
                table.named_place(row)
            );
            usable = false;
            problems.add(&id, "fewer than two choices (skipped)");
        }
        let label = match table.has(label) {
            true => label_of(table, row, label, choices.len(), &id, training, &mut problems)?,
            false => None,
        };
        if (usable && label.is_some()) || !training {
            examples.push(ChoiceExample { id, question, choices, label });
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

fn find_choices(table: &Table, given: Option<&str>) -> Result<Choices> {
    let name = given.unwrap_or("choice");
    let numbered: Vec<String> =
        (0..).map(|n| format!("{name}{n}")).take_while(|column| table.has(column)).collect();
    if numbered.len() >= 2 {
        return Ok(Choices::Columns(numbered));
    }
    let list = given.unwrap_or("choices");
    if table.has(list) {
        return Ok(Choices::List(list.to_string()));
    }
    bail!(
        "{}: no columns {name}0, {name}1… and no list {list:?}; name them. There are: {}",
        table.path.display(),
        table.columns().join(", ")
    )
}

/// The choices of a row, up to the first that is missing.
fn choices_of(table: &Table, row: &Row, choices: &Choices) -> Result<Vec<String>> {
    match choices {
        Choices::Columns(columns) => {
            let mut texts = Vec::new();
            for column in columns {
                match table.text(row, column)?.filter(|text| !text.is_empty()) {
                    Some(text) => texts.push(text),
                    None => break,
                }
            }
            Ok(texts)
        }
        Choices::List(column) => match row.fields.get(column) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => match items.iter().map(scalar).collect() {
                Some(texts) => Ok(texts),
                None => bail!("{}: {column:?} must be a list of texts", table.named_place(row)),
            },
            Some(_) => bail!("{}: {column:?} is not a list", table.named_place(row)),
        },
    }
}

fn label_of(
    table: &Table,
    row: &Row,
    column: &str,
    choices: usize,
    id: &str,
    training: bool,
    problems: &mut Problems,
) -> Result<Option<usize>> {
    let outcome = if training { "skipped" } else { "not scored" };
    let Some(text) = table.text(row, column)?.filter(|text| !text.trim().is_empty()) else {
        problems.add(id, format!("no label in {column:?} ({outcome})"));
        return Ok(None);
    };
    let label = text.trim().parse().ok().filter(|&label: &usize| label < choices);
    if label.is_none() {
        problems.add(id, format!("the label is not the number of a choice, counted from 0 ({outcome})"));
    }
    Ok(label)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
