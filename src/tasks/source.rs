//! Where examples come from: a file and which part of it is meant, or lines of JSON.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::data::Purpose;
use super::table::{Columns, Selection, Table};

/// A file and which part of it is meant.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub path: PathBuf,
    pub columns: Columns,
    pub selection: Option<Selection>,
    /// At most so many examples, evenly spread over the file.
    pub limit: Option<usize>,
}

/// JSICK holds its splits in one file, under this column.
const JSICK_SPLIT: &str = "data";

impl Source {
    /// The rows that are meant.
    pub fn table(&self, purpose: Purpose) -> Result<Table> {
        let table = Table::read(&self.path)?;
        if let Some(selection) = &self.selection {
            return table.select(selection);
        }
        if table.has("sentence_A_Ja") && table.has(JSICK_SPLIT) {
            let value = if purpose == Purpose::Train { "train" } else { "trial" };
            note!("{}: JSICK; taking the rows with {JSICK_SPLIT}={value}", self.path.display());
            return table.select(&Selection { column: JSICK_SPLIT.into(), value: value.into() });
        }
        Ok(table)
    }
}

/// At most `limit` of the items, evenly spread.
pub(super) fn spread<T>(items: Vec<T>, limit: Option<usize>) -> Vec<T> {
    let Some(limit) = limit.filter(|&limit| limit < items.len()) else { return items };
    let (count, mut taken) = (items.len(), 0);
    let keep = |index: &usize| {
        let due = (index + 1) * limit / count;
        std::mem::replace(&mut taken, due) < due
    };
    let chosen: Vec<usize> = (0..count).filter(keep).collect();
    let mut chosen = chosen.into_iter().peekable();
    let kept = items.into_iter().enumerate().filter(|(index, _)| chosen.next_if_eq(index).is_some());
    kept.map(|(_, item)| item).collect()
}

/// A line of stdin with a JSON object.
pub struct Line {
    /// From 1.
    pub number: usize,
    pub object: Map<String, Value>,
}

impl Line {
    /// Reads a line.
    pub fn new(number: usize, text: &str) -> Result<Line> {
        let object =
            serde_json::from_str(text).with_context(|| format!("stdin, line {number}: not a JSON object"))?;
        Ok(Line { number, object })
    }

    /// A text that must be there.
    pub fn text(&self, key: &str) -> Result<String> {
        self.optional(key)?.with_context(|| format!("stdin, line {}: lacks \"{key}\"", self.number))
    }

    /// A text that may be missing.
    pub fn optional(&self, key: &str) -> Result<Option<String>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => bail!("stdin, line {}: \"{key}\" is not a text", self.number),
        }
    }

    /// The answer to the line: it has the line's id, as that was given, or where there is none the line's number.
    pub fn answered(&self, answer: Value) -> Value {
        let (key, value) = match self.object.get("id") {
            Some(id) => ("id", id.clone()),
            None => ("line", self.number.into()),
        };
        let mut object = Map::from_iter([(key.to_owned(), value)]);
        if let Value::Object(fields) = answer {
            object.extend(fields.into_iter().filter(|(name, _)| name != "id"));
        }
        object.into()
    }

    /// What the line is called where something is said of it: its id, or its number.
    pub fn id(&self) -> String {
        match self.object.get("id") {
            Some(Value::String(id)) => id.clone(),
            Some(other) => other.to_string(),
            None => self.number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Line, spread};

    /// An id is what it was; none is made up.
    #[test]
    fn answers_have_the_ids_of_their_lines() {
        let answered = |text: &str| {
            let line = Line::new(7, text).unwrap();
            line.answered(json!({"id": line.id(), "value": 0.5})).to_string()
        };
        assert_eq!(answered(r#"{"id":"a"}"#), r#"{"id":"a","value":0.5}"#);
        assert_eq!(answered(r#"{"text":"x","id":12}"#), r#"{"id":12,"value":0.5}"#);
        assert_eq!(answered(r#"{"text":"x"}"#), r#"{"line":7,"value":0.5}"#);
    }

    #[test]
    fn a_limit_takes_evenly() {
        assert_eq!(spread((0..10).collect(), Some(5)), [1, 3, 5, 7, 9]);
        assert_eq!(spread((0..10).collect(), Some(3)), [3, 6, 9]);
        assert_eq!(spread((0..3).collect(), Some(3)), [0, 1, 2]);
        assert_eq!(spread((0..3).collect(), None), [0, 1, 2]);
        assert_eq!(spread((0..1000).collect::<Vec<_>>(), Some(999)).len(), 999);
    }
}
