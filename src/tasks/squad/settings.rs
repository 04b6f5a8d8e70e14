//! What is said of question answering beside its data.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::joint_head::JointSpan;

/// The two heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SpanHead {
    /// Two logits a token; other tools can load it
    #[default]
    Plain,
    /// The reference's: the end is predicted given the start
    Joint,
}

/// What a model's directory keeps.
#[derive(Clone, Copy, Debug, PartialEq, Args, Serialize, Deserialize)]
#[group(skip)]
pub struct SquadSettings {
    /// Head of squad: two logits a token, or the end given the start
    #[arg(long = "head", value_name = "HEAD", value_enum, default_value_t = SpanHead::Plain)]
    pub span_head: SpanHead,
    /// Some training questions were impossible.
    #[arg(skip)]
    pub answerability: bool,
    /// Tokens between the starts of a long context's windows (squad)
    #[arg(long, default_value_t = 128)]
    pub doc_stride: usize,
    /// Tokens of a question at most (squad)
    #[arg(long, default_value_t = 64)]
    pub max_query_length: usize,
    /// Tokens of an answer at most (squad)
    #[arg(long, default_value_t = 30)]
    pub max_answer_length: usize,
    /// Answers kept for each question (squad)
    #[arg(long, default_value_t = 20)]
    pub n_best: usize,
    /// Of no answer, as the dev set of its training has it best; where some questions were impossible.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_answer_threshold: Option<f32>,
}

/// What is said anew with every prediction.
#[derive(Clone, Copy, Debug, PartialEq, Args, Serialize, Deserialize)]
#[group(skip)]
pub struct PredictionSettings {
    /// How much no answer must outscore the best one (squad with impossible questions) [default: what gave the best F1 on
    /// the dev set of the training, else 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub no_answer_threshold: Option<f32>,
}

impl SquadSettings {
    pub fn joint(&self) -> JointSpan {
        JointSpan { answerability: self.answerability }
    }
}
