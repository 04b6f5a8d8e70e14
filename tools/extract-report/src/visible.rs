//! Texts that a reader of the article sees and that WikiExtractor drops, picked by hand from 20 articles.
//!
//! `visible.tsv`: the article, the template that shows the text, the text. Ours must have them all.

use std::io::Write;

use anyhow::{Context, Result};

use crate::articles::Articles;

const LIST: &str = include_str!("../visible.tsv");

/// Looks for them; true when nothing is missing.
pub fn report(ours: &Articles, theirs: Option<&Articles>, out: &mut impl Write) -> Result<bool> {
    let (mut all, mut found, mut theirs_too) = (0, 0, 0);
    let mut articles = std::collections::BTreeSet::new();
    for (number, line) in LIST.lines().enumerate() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let mut columns = line.split('\t');
        let mut column = || columns.next().with_context(|| format!("visible.tsv: line {}", number + 1));
        let (title, template, text) = (column()?, column()?, column()?);
        all += 1;
        articles.insert(title);
        theirs_too += usize::from(theirs.and_then(|t| t.text(title)).is_some_and(|t| t.contains(text)));
        if ours.text(title).is_some_and(|ours| ours.contains(text)) {
            found += 1;
        } else {
            writeln!(out, "  missing from {title}: {text} ({template})")?;
        }
    }
    let count = articles.len();
    writeln!(
        out,
        "visible texts picked by hand: {found} of {all} in {count} articles; the reference has {theirs_too}"
    )?;
    Ok(found == all)
}
