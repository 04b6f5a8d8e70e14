//! Rows with named columns, from JSON lines, a JSON array of objects, or TSV with a header line.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::data::{Problems, inner_extension, read_text};

/// The columns to read. None: found by the names that known data sets use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub id: Option<String>,
    /// The (first) text; the question of multiple choice.
    pub first: Option<String>,
    /// The second text of a pair; the array, or the prefix of the columns, of multiple choice (`choice` for
    /// `choice0`, `choice1`…); the document of a tagged text.
    pub second: Option<String>,
    /// The label, the score, or the spans of a tagged text.
    pub label: Option<String>,
}

/// `column=value`: the rows to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub column: String,
    pub value: String,
}

impl FromStr for Selection {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Selection> {
        match text.split_once('=') {
            Some((column, value)) if !column.is_empty() => {
                Ok(Selection { column: column.to_string(), value: value.to_string() })
            }
            _ => bail!("{text:?} selects no rows; write COLUMN=VALUE, for example data=train"),
        }
    }
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The line of the file on which it begins; in a JSON array, which object it is. From 1.
    pub number: usize,
    pub fields: Map<String, Value>,
}

/// Rows with named columns. Rows of JSON may lack some of the columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub path: PathBuf,
    pub rows: Vec<Row>,
    /// What `Row::number` counts: `line` or `object`.
    unit: &'static str,
    /// All columns of all rows, in the order of their first appearance.
    columns: Vec<String>,
}

impl Table {
    /// Reads `.tsv`, `.jsonl` and `.json` (an array, or lines), compressed or not; other names by their content.
    pub fn read(path: &Path) -> Result<Table> {
        let text = read_text(path)?;
        let name = path.display();
        let start = text.trim_start().chars().next();
        let Some(start) = start else { bail!("{name} is empty") };
        let (rows, unit) = match (inner_extension(path).as_str(), start) {
            ("csv", _) => {
                bail!("{name}: CSV is not read; convert it to TSV with a header line, or to JSON lines")
            }
            ("tsv" | "tab", _) => (read_tsv(path, &text)?, "line"),
            ("jsonl" | "ndjson", _) | (_, '{') => (read_json_lines(path, &text)?, "line"),
            (_, '[') => (read_json_array(path, &text)?, "object"),
            ("json", _) => bail!("{name}: neither a JSON array of objects nor JSON lines"),
            _ => (read_tsv(path, &text)?, "line"),
        };
        ensure!(!rows.is_empty(), "{name} holds no rows");
        let mut seen = HashSet::new();
        let mut columns = Vec::new();
        for column in rows.iter().flat_map(|row| row.fields.keys()) {
            if seen.insert(column.as_str()) {
                columns.push(column.clone());
            }
        }
        Ok(Table { path: path.to_path_buf(), rows, unit, columns })
    }

    /// All columns of all rows.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known == column)
    }

    /// Only the rows that have this value. An error, with what there is, where none has.
    pub fn select(mut self, selection: &Selection) -> Result<Table> {
        let Selection { column, value } = selection;
        self.require(column)?;
        let mut values: Vec<String> = Vec::new();
        for row in &self.rows {
            let value = row.fields.get(column).and_then(scalar).unwrap_or_default();
            if values.len() < 8 && !values.contains(&value) {
                values.push(value);
            }
        }
        self.rows.retain(|row| row.fields.get(column).and_then(scalar).as_deref() == Some(value.as_str()));
        ensure!(
            !self.rows.is_empty(),
            "{}: no row has {column}={value}; its values: {}",
            self.path.display(),
            values.join(", ")
        );
        Ok(self)
    }

    /// An error that names the columns there are, unless this is one of them.
    pub fn require(&self, column: &str) -> Result<()> {
        ensure!(
            self.has(column),
            "{}: no column {column:?}; there are: {}",
            self.path.display(),
            self.columns.join(", ")
        );
        Ok(())
    }

    /// Where a row stands, for messages.
    fn place(&self, row: &Row) -> String {
        format!("{} {}", self.unit, row.number)
    }

    /// The file and the place of a row, for errors.
    pub fn named_place(&self, row: &Row) -> String {
        format!("{}, {} {}", self.path.display(), self.unit, row.number)
    }

    /// The column of the ids: the one given, else one that is known to hold ids.
    fn id_column(&self, given: Option<&str>) -> Result<Option<String>> {
        if let Some(column) = given {
            self.require(column)?;
            return Ok(Some(column.to_string()));
        }
        let known = ["id", "sentence_pair_id", "pair_ID", "q_id", "review_id", "uid", "guid"];
        Ok(known.into_iter().find(|column| self.has(column)).map(str::to_string))
    }

    /// The text of a field: None where it is missing or null. Lists and objects are an error.
    pub fn text(&self, row: &Row, column: &str) -> Result<Option<String>> {
        match row.fields.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match scalar(value) {
                Some(text) => Ok(Some(text)),
                None => bail!("{}: {column:?} is a list or an object, not a text", self.named_place(row)),
            },
        }
    }
}

/// Gives each row its id, and reports ids that are missing or not the row's own.
pub struct Ids<'a> {
    table: &'a Table,
    column: Option<String>,
    seen: HashSet<String>,
}

impl<'a> Ids<'a> {
    pub fn new(table: &'a Table, given: Option<&str>) -> Result<Ids<'a>> {
        Ok(Ids { table, column: table.id_column(given)?, seen: HashSet::new() })
    }

    pub fn id(&mut self, row: &Row, problems: &mut Problems) -> Result<String> {
        let Some(column) = &self.column else {
            return Ok(self.table.place(row));
        };
        let given = self.table.text(row, column)?.filter(|id| !id.is_empty());
        let id = given.unwrap_or_else(|| {
            let place = self.table.place(row);
            problems.add(&place, format!("no {column:?} (named by its place)"));
            place
        });
        if !self.seen.insert(id.clone()) {
            problems.add(&id, "id used by several rows (all kept)");
        }
        Ok(id)
    }
}

/// A string, number or boolean as text.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn read_json_lines(path: &Path, text: &str) -> Result<Vec<Row>> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(n, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(fields) => Ok(Row { number: n + 1, fields }),
        Err(error) => Err(anyhow!(
            "{}, line {}: not one JSON object ({} at column {})",
            path.display(),
            n + 1,
            words(&error),
            error.column()
        )),
    };
    lines.map(row).collect()
}

fn read_json_array(path: &Path, text: &str) -> Result<Vec<Row>> {
    let rows: Vec<Map<String, Value>> = serde_json::from_str(text)
        .map_err(|error| anyhow!("{}: not a JSON array of objects ({error})", path.display()))?;
    Ok(rows.into_iter().enumerate().map(|(n, fields)| Row { number: n + 1, fields }).collect())
}

/// What serde_json says, without the place: its line number would be that of the part it was given.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map(|(words, _)| words.to_string()).unwrap_or(text)
}

fn read_tsv(path: &Path, text: &str) -> Result<Vec<Row>> {
    let name = path.display();
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').flexible(true).from_reader(text.as_bytes());
    let header = reader.headers().with_context(|| format!("{name}: no header line"))?.clone();
    let mut seen = HashSet::new();
    if let Some(twice) = header.iter().find(|column| !seen.insert(*column)) {
        bail!("{name}, line 1: the column {twice:?} stands twice in the header");
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| anyhow!("{name}: {error}"))?;
        let number = record.position().map_or(0, |position| position.line() as usize);
        ensure!(
            record.len() == header.len(),
            "{name}, line {number}: {} columns, but the header has {} (a quotation mark at the start of a field \
             must be closed, and doubled inside)",
            record.len(),
            header.len()
        );
        let pairs = header.iter().zip(&record);
        let fields =
            pairs.map(|(column, value)| (column.to_string(), Value::String(value.to_string()))).collect();
        rows.push(Row { number, fields });
    }
    Ok(rows)
}

/// Splits off a share of the items, always the same ones: an item goes by the SHA-256 of its key, so that all
/// items of a key stay together. Returns the kept ones and those held out, each in their order.
pub fn hold_out<T>(items: Vec<T>, share: f64, key: impl Fn(&T) -> &str) -> (Vec<T>, Vec<T>) {
    items.into_iter().partition(|item| {
        let digest = Sha256::digest(key(item).as_bytes());
        let leading = digest.iter().take(6).fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        leading as f64 / (1u64 << 48) as f64 >= share
    })
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub mod tests;
