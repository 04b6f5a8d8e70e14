//! What can be learned: one folder a task, with its reader, features, head, predictions and scores, its Hugging Face
//! class and its options on the command line; `registry` names them all (docs/adding-a-task.md).
//!
//! The way of the data: a reader (file to examples) → features (examples to ids) → a head on the encoder → what it
//! says as texts, spans, numbers → scores. docs/spec.md §5 is what it follows. What several tasks need lies beside
//! their folders; no task imports another.

pub mod alignment;
pub mod data;
pub mod features;
pub mod items;
pub mod layers;
pub mod lesson;
pub mod logits;
pub mod predictor;
pub mod questions;
pub mod registry;
pub mod sequence_head;
pub mod source;
pub mod table;
pub mod task;
pub mod texts;
pub mod token_head;
pub mod windows;

pub mod classify;
pub mod multiple_choice;
pub mod regress;
pub mod squad;
pub mod tag;

#[cfg(test)]
mod survey;
#[cfg(test)]
pub(crate) mod tests;
