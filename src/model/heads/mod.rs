//! The two heads of pre-training, each with its loss.

mod masked_language_model;
mod replaced_token_detection;

pub use masked_language_model::{LogitsChunk, MaskedLanguageModel, MaskedLanguageModelTape};
pub use replaced_token_detection::{ReplacedTokenDetection, ReplacedTokenDetectionTape};
