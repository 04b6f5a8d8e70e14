//! Fine-tuning, the part that knows neither plan nor device: data files, windows, answers, tags and scores.
//!
//! The way of the data: `data` (files to examples) → `features`, `squad_features`, `tags` (examples to ids)
//! → a model → `answers`, `tags` (scores to texts and spans) → `metrics`. SPEC.md §5 is what it follows.

pub mod alignment;
pub mod answers;
pub mod apply;
pub mod data;
pub mod features;
pub mod fit;
pub mod items;
pub mod load;
pub mod metrics;
pub mod package;
pub mod predictor;
pub mod run;
pub mod squad_features;
pub mod tags;
pub mod tasks;

#[cfg(test)]
mod survey;
#[cfg(test)]
pub(crate) mod tests;
