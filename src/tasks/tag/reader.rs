//! Texts with typed spans: named entities.

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::tasks::data::{Problems, Purpose};
use crate::tasks::table::{Columns, Ids, Row, Table, scalar};

/// A typed span of a text, in code points.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    /// One past the last code point; above `start`.
    pub end: usize,
    pub kind: String,
}

/// A text and its spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedText {
    pub id: String,
    /// The document that the text is from: a split must not tear it apart. The id where nothing says.
    pub group: String,
    pub text: String,
    /// In order, without overlaps.
    pub spans: Vec<Span>,
}

const SPANS: [&str; 4] = ["entities", "spans", "labels", "label"];
const GROUPS: [&str; 4] = ["curid", "document", "doc_id", "group"];

/// The tagged texts of a table: Stockmark's `curid`, `text`, `entities: [{name, span, type}]`, or lists
/// `[start, end, type]` in `entities`, `spans`, `labels` or `label`; other names by `columns`.
///
/// Spans out of range, overlapping an earlier one, without a type, or whose `name` is not the text at their
/// place are reported and left out. Training skips (and reports) rows without a text or a list of spans; an
/// empty list is a text without entities.
pub fn tagged_texts(
    table: &Table,
    columns: &Columns,
    purpose: Purpose,
) -> Result<(Vec<TaggedText>, Problems)> {
    let text_column = columns.first.as_deref().unwrap_or("text");
    table.require(text_column)?;
    let training = purpose == Purpose::Train;
    let span_column = known_column(table, columns.label.as_deref(), &SPANS)?;
    if let (true, None) = (training, span_column) {
        bail!(
            "{}: no column of spans found ({}); name it. There are: {}",
            table.path.display(),
            SPANS.join(", "),
            table.columns().join(", ")
        );
    }
    let group_column = known_column(table, columns.second.as_deref(), &GROUPS)?;
    let mut problems = Problems::default();
    let mut ids = Ids::new(table, columns.id.as_deref())?;
    let mut texts = Vec::new();
    for row in &table.rows {
        let id = ids.id(row, &mut problems)?;
        let text = table.text(row, text_column)?.unwrap_or_default();
        let list = span_column.and_then(|column| row.fields.get(column)).filter(|value| !value.is_null());
        if text.trim().is_empty() {
            problems.add(&id, if training { "no text (skipped)" } else { "no text (kept)" });
        }
        if list.is_none() && span_column.is_some() {
            problems
                .add(&id, if training { "no list of spans (skipped)" } else { "no list of spans (kept)" });
        }
        if training && (text.trim().is_empty() || list.is_none()) {
            continue;
        }
        let spans = match list {
            Some(list) => spans_of(table, row, list, &text, &id, &mut problems)?,
            None => Vec::new(),
        };
        let group = group_column.map(|column| table.text(row, column)).transpose()?.flatten();
        texts.push(TaggedText { group: group.unwrap_or_else(|| id.clone()), id, text, spans });
    }
    ensure!(
        !texts.is_empty(),
        "{}: no row can be used ({})",
        table.path.display(),
        problems.report(&table.path).join("; ")
    );
    Ok((texts, problems))
}

/// The column given, which must be there, else the first of the known ones that is.
fn known_column<'a>(table: &Table, given: Option<&'a str>, known: &[&'a str]) -> Result<Option<&'a str>> {
    match given {
        Some(column) => table.require(column).map(|()| Some(column)),
        None => Ok(known.iter().copied().find(|column| table.has(column))),
    }
}

fn spans_of(
    table: &Table,
    row: &Row,
    list: &Value,
    text: &str,
    id: &str,
    problems: &mut Problems,
) -> Result<Vec<Span>> {
    let Value::Array(items) = list else {
        bail!("{}: the spans are not a list", table.named_place(row));
    };
    let offsets: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
    let mut spans = Vec::new();
    for item in items {
        let Some(raw) = RawSpan::new(item) else {
            bail!(
                "{}: a span must be [start, end, type] or an object with span (or start and end) and type, not {item}",
                table.named_place(row)
            );
        };
        match raw.check(text, &offsets) {
            Ok(span) => spans.push(span),
            Err(what) => problems.add(id, what),
        }
    }
    spans.sort();
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match kept.last() {
            Some(last) if span.start < last.end => problems.add(id, "span overlaps another (left out)"),
            _ => kept.push(span),
        }
    }
    Ok(kept)
}

/// A span as a file has it.
struct RawSpan {
    start: i64,
    end: i64,
    kind: String,
    name: Option<String>,
}

impl RawSpan {
    fn new(item: &Value) -> Option<RawSpan> {
        if let Value::Array(parts) = item {
            let [start, end, kind] = parts.as_slice() else { return None };
            let kind = kind.as_str()?.to_string();
            return Some(RawSpan { start: start.as_i64()?, end: end.as_i64()?, kind, name: None });
        }
        let object = item.as_object()?;
        let first = |names: &[&str]| names.iter().find_map(|name| object.get(*name));
        let (start, end) = match first(&["span"]) {
            Some(Value::Array(ends)) if ends.len() == 2 => (ends[0].as_i64()?, ends[1].as_i64()?),
            Some(_) => return None,
            None => (
                first(&["start", "start_offset", "begin"])?.as_i64()?,
                first(&["end", "end_offset", "stop"])?.as_i64()?,
            ),
        };
        let kind = first(&["type", "label", "kind"]).and_then(scalar).unwrap_or_default();
        let name = first(&["name", "text"]).and_then(|name| name.as_str()).map(str::to_string);
        Some(RawSpan { start, end, kind, name })
    }

    /// The span, or what is wrong with it. `offsets`: the byte of each code point, and the text's length.
    fn check(self, text: &str, offsets: &[usize]) -> Result<Span, &'static str> {
        let (Ok(start), Ok(end)) = (usize::try_from(self.start), usize::try_from(self.end)) else {
            return Err("span out of range (left out)");
        };
        if start >= end || end >= offsets.len() {
            return Err("span out of range (left out)");
        }
        if self.kind.is_empty() {
            return Err("span without a type (left out)");
        }
        if self.name.is_some_and(|name| name != text[offsets[start]..offsets[end]]) {
            return Err("span's name is not the text at its place (left out)");
        }
        Ok(Span { start, end, kind: self.kind })
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
