//! Looking at a whole store: every byte against its checksum, and what it holds in figures.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::examples::EpochIndex;
use super::format::NO_UNKNOWN;
use super::reader::{Lines, Store};
use super::words::Words;

/// Reads the whole store. The error names the first damaged place and the sections it touches.
pub fn verify(path: &Path) -> Result<Store> {
    let name = path.display();
    let unread = Store::open_unread(path)?;
    let blocks = unread.blocks();
    let damaged = blocks.damaged()?;
    if let Some(&first) = damaged.first() {
        let Range { start, end } = blocks.chunk(first);
        bail!(
            "{name}: damaged between bytes {start} and {end} ({}), {} of {} chunks in all; prepare it again",
            blocks.sections_in(start..end),
            damaged.len(),
            blocks.chunks()
        );
    }
    let store = Store::open(path)?;
    verify_contents(&store).with_context(|| format!("{name}: whole, but inconsistent"))?;
    Ok(store)
}

/// What checksums cannot see: a store that was written wrong.
fn verify_contents(store: &Store) -> Result<()> {
    store.document_ends()?;
    let line_ends = store.line_ends()?;
    if store.words() != Words::None {
        verify_words(store, &line_ends)?;
    }
    let counts = store.token_counts()?;
    let unknown = match store.header().unk {
        NO_UNKNOWN => 0,
        id => counts.get(id as usize).copied().unwrap_or(0),
    };
    ensure!(
        unknown == store.unknown(),
        "the header counts {} unknown tokens, there are {unknown}",
        store.unknown()
    );
    Ok(())
}

/// Tokens whose marks are looked at at once.
const MARKS_AT_ONCE: u64 = 1 << 23;

/// Every line must begin with a word; how many words there are.
fn verify_words(store: &Store, line_ends: &[u64]) -> Result<u64> {
    let (mut words, mut line) = (0, 0);
    for first in (0..store.tokens()).step_by(MARKS_AT_ONCE as usize) {
        let tokens = first..(first + MARKS_AT_ONCE).min(store.tokens());
        let starts = store.read_word_starts(tokens.clone())?;
        words += starts.iter().filter(|&&start| start).count() as u64;
        let begin = |line: usize| if line == 0 { 0 } else { line_ends[line - 1] };
        while line < line_ends.len() && begin(line) < tokens.end {
            ensure!(starts[(begin(line) - first) as usize], "line {line} (from 0) begins within a word");
            line += 1;
        }
    }
    Ok(words)
}

/// What `store info` shows of the words.
fn words(store: &Store, line_ends: &[u64]) -> Result<Value> {
    if store.words() == Words::None {
        return Ok(json!({"marked_by": "none"}));
    }
    let words = verify_words(store, line_ends)?;
    Ok(json!({
        "marked_by": store.words().to_string(),
        "words": words,
        "tokens_per_word": store.tokens() as f64 / words.max(1) as f64,
        "bytes": store.header().words.length,
    }))
}

/// What `store info` shows.
pub fn info(store: &Store) -> Result<Value> {
    let header = store.header();
    let share = |part: u64, whole: u64| {
        if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
    };
    let line_ends = store.line_ends()?;
    let line_lengths = differences(line_ends.iter().copied());
    let end_of_line = |line: &u64| line_ends[*line as usize - 1];
    let document_lengths = differences(store.document_ends()?.iter().map(end_of_line));
    let examples = [examples_at(store, 128)?, examples_at(store, 512)?];
    Ok(json!({
        "path": store.path().display().to_string(),
        "format": header.version,
        "bytes": header.file_length,
        "documents": store.documents(),
        "lines": store.lines(),
        "tokens": store.tokens(),
        "unknown": store.unknown(),
        "unknown_rate": share(store.unknown(), store.tokens()),
        "unigram_entropy": store.unigram_entropy()?,
        "token_bytes": header.token_width,
        "vocab_size": store.vocab_size(),
        "special_ids": {
            "[PAD]": header.pad, "[CLS]": header.cls, "[SEP]": header.sep, "[MASK]": header.mask,
            "<unk>": (header.unk != NO_UNKNOWN).then_some(header.unk),
        },
        "tokenizer_sha256": store.tokenizer_hash(),
        "lower": store.lower(),
        "ready_made_ids": store.is_ready_made(),
        "lines_mode": match store.lines_mode() {
            Lines::Sentence => "sentence",
            Lines::Paragraph => "paragraph",
        },
        "words": words(store, &line_ends)?,
        "held_out_share": f64::from(header.held_out_millionths) / 1e6,
        "held_out_part": header.held_out_part == 1,
        "tokens_per_line": histogram(&line_lengths),
        "tokens_per_document": histogram(&document_lengths),
        "examples": examples,
    }))
}

/// The lengths between rising ends, from 0.
fn differences(ends: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut last = 0;
    ends.map(|end| end - std::mem::replace(&mut last, end)).collect()
}

/// How the examples of the first epoch of seed 0 use the store at a length.
fn examples_at(store: &Store, max_length: usize) -> Result<Value> {
    let index = EpochIndex::build(store, 0, 0, max_length)?;
    let count = index.len().max(1) as f64;
    Ok(json!({
        "max_length": max_length,
        "examples": index.len(),
        "tokens_used": index.pieces() as f64 / store.tokens().max(1) as f64,
        "filled": index.ids() as f64 / (count * max_length as f64),
        "with_second_segment": index.with_second_segment() as f64 / count,
    }))
}

/// Counts of lengths by powers of two (`le`: up to and including), with the mean and the longest.
fn histogram(lengths: &[u64]) -> Value {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mean = lengths.iter().sum::<u64>() as f64 / lengths.len().max(1) as f64;
    let mut counts: Vec<u64> = Vec::new();
    for &length in lengths {
        let bin = length.max(1).next_power_of_two().trailing_zeros() as usize;
        if counts.len() <= bin {
            counts.resize(bin + 1, 0);
        }
        counts[bin] += 1;
    }
    let bins: Vec<Value> =
        counts.iter().enumerate().map(|(bin, count)| json!({"le": 1u64 << bin, "count": count})).collect();
    json!({"mean": mean, "longest": longest, "histogram": bins})
}
