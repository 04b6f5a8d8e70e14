//! Texts for the page's samples: the user's, or the first of the run's held-out store.

use std::path::Path;

use anyhow::{Context, Result};

use crate::store::Store;
use crate::tokenizer::model_file::ModelFile;
use crate::train::run::held_out_store;

/// How many texts a page shows, and tokens of each that are taken from a store.
const TEXTS: usize = 4;
const TOKENS: u64 = 60;
/// Of a file's texts.
const CHARACTERS: usize = 400;

/// The first lines of the file; without one, lines of the held-out store that `run.json` names, as long as it is there and
/// has a tokenizer of its own. None where there is no text.
///
/// # Errors
/// The file, or the store, cannot be read.
pub fn texts(run: &Path, file: Option<&Path>) -> Result<Vec<String>> {
    if let Some(file) = file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.take(TEXTS).map(|line| line.chars().take(CHARACTERS).collect()).collect());
    }
    match held_out_store(run).filter(|path| path.is_file()) {
        Some(path) => of_store(&Store::open(&path)?),
        None => Ok(Vec::new()),
    }
}

fn of_store(store: &Store) -> Result<Vec<String>> {
    if store.is_ready_made() {
        return Ok(Vec::new());
    }
    let pieces = ModelFile::read(store.tokenizer_model())?.pieces;
    let boundaries = store.boundaries(0..store.documents().min(TEXTS as u64))?;
    let mut texts = Vec::new();
    let mut line = 0;
    for &document in &boundaries.document_ends {
        let begin = match line {
            0 => boundaries.start,
            _ => boundaries.line_ends[line - 1],
        };
        line = document;
        let end = boundaries.line_ends.get(document.wrapping_sub(1)).copied().unwrap_or(begin);
        let ids = store.read_tokens(begin..end.min(begin + TOKENS))?;
        let text: String =
            ids.iter().filter_map(|&id| Some(pieces.get(id as usize)?.text.as_str())).collect();
        texts.push(text.replace('▁', " ").trim().to_owned());
    }
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}
