//! Scores and predictions as users see them.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::files::write_atomically;
use crate::tasks::task::{Predictions, Score};

/// Scores by name, to four digits.
pub(super) fn named(scores: &[Score]) -> Map<String, Value> {
    scores.iter().map(|(name, value)| ((*name).to_owned(), json!((value * 1e4).round() / 1e4))).collect()
}

/// "f1 51.20, exact_match 40.10"
pub fn shown(scores: &[Score]) -> String {
    let scores: Vec<String> = scores.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    scores.join(", ")
}

/// Writes predictions beside `stem`, in the files of their task (question answering: `.json` in the official form
/// and `.nbest.json`; others: `.jsonl`).
pub fn write_predictions(predictions: &dyn Predictions, stem: &Path) -> Result<()> {
    let files = predictions.files()?.into_iter();
    files
        .into_iter()
        .try_for_each(|(extension, bytes)| write_atomically(&stem.with_extension(extension), &bytes))
}

/// Writes the main file of the predictions to `path`, whatever it is called, and the others beside it.
pub fn write_predictions_to(predictions: &dyn Predictions, path: &Path) -> Result<()> {
    for (index, (extension, bytes)) in predictions.files()?.into_iter().enumerate() {
        let file = if index == 0 { path.to_owned() } else { path.with_extension(extension) };
        write_atomically(&file, &bytes)?;
    }
    Ok(())
}
