//! Lines of ours with markup left.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::articles::Articles;

const SIGNS: [&str; 11] = ["{{", "}}", "[[", "]]", "{|", "|}", "<ref", "</", "&nbsp;", "&lt;", "'''"];
/// Fewer than one line in so many may have some.
const LINES: usize = 2000;

/// Counts them; true when there are few enough.
pub fn report(ours: &Articles, show: usize, out: &mut impl Write) -> io::Result<bool> {
    let mut lines = 0;
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut signs: BTreeMap<&str, usize> = BTreeMap::new();
    for (title, text) in ours.iter() {
        for line in text.lines() {
            lines += 1;
            let mut dirty = false;
            for sign in SIGNS.iter().filter(|sign| line.contains(**sign)) {
                *signs.entry(sign).or_default() += 1;
                dirty = true;
            }
            if dirty {
                found.push((title, line));
            }
        }
    }
    let rate = (found.len() * LINES) as f64 / lines.max(1) as f64;
    writeln!(out, "lines with markup left: {} of {lines} ({rate:.2} in {LINES})", found.len())?;
    for (sign, count) in signs {
        writeln!(out, "  {count:4}  {sign}")?;
    }
    for (title, line) in found.iter().take(show) {
        writeln!(out, "        {title}: {line}")?;
    }
    Ok(rate < 1.0)
}
