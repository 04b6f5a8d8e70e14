//! A fine-tuned model as a directory: what Hugging Face loads (`config.json`, `model.safetensors`), the tokenizer,
//! and `inazuma.json`, which says what the head is for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::files::write_atomically;
use crate::interop::huggingface;
use crate::interop::weights;
use crate::model::ModelConfig;
use crate::model::finetune::Head;
use crate::plan::Executor;
use crate::tokenizer::Tokenizer;

/// File that says what a fine-tuned model is for.
pub const DESCRIPTION: &str = "inazuma.json";
const TOKENIZER: &str = "tokenizer.model";

/// What can be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Question answering in SQuAD format: answers are substrings of a context
    Squad,
    /// One of several classes for a text or a pair of texts
    Classify,
    /// A number for a text or a pair of texts
    Regress,
    /// One of several choices for a question
    MultipleChoice,
    /// Spans of characters with a kind each, such as named entities
    Tag,
}

/// The two heads of question answering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SpanHead {
    /// Two logits a token; other tools can load it
    #[default]
    Plain,
    /// The reference's: the end is predicted given the start
    Joint,
}

/// Everything that a fine-tuned model needs to know beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub task: TaskKind,
    /// Texts are lower-cased before the tokenizer.
    pub lower: bool,
    /// Tokens of a sequence at most.
    pub max_length: usize,
    pub span_head: SpanHead,
    /// Some training questions were impossible.
    pub answerability: bool,
    pub doc_stride: usize,
    pub max_query_length: usize,
    pub max_answer_length: usize,
    pub n_best: usize,
    /// Classes or tags, in the order of the logits.
    pub labels: Vec<String>,
    /// Choices of a question.
    pub choices: usize,
    /// What 0 and 1 mean in regression.
    pub range: [f64; 2],
}

impl Description {
    pub fn head(&self) -> Head {
        match (self.task, self.span_head) {
            (TaskKind::Squad, SpanHead::Plain) => Head::Span,
            (TaskKind::Squad, SpanHead::Joint) => Head::JointSpan { answerability: self.answerability },
            (TaskKind::Classify, _) => Head::Classes(self.labels.len()),
            (TaskKind::Regress, _) => Head::Value,
            (TaskKind::MultipleChoice, _) => Head::Choice(self.choices),
            (TaskKind::Tag, _) => Head::Tags(self.labels.len()),
        }
    }

    fn architecture(&self) -> &'static str {
        match self.task {
            TaskKind::Squad => "ElectraForQuestionAnswering",
            TaskKind::Classify | TaskKind::Regress => "ElectraForSequenceClassification",
            TaskKind::MultipleChoice => "ElectraForMultipleChoice",
            TaskKind::Tag => "ElectraForTokenClassification",
        }
    }

    /// Reads `inazuma.json` of a model's directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(DESCRIPTION);
        let shown = path.display();
        let text = fs::read(&path).with_context(|| {
            format!("cannot read {shown}; --model takes a directory that `inazuma finetune` wrote")
        })?;
        let description: Self =
            serde_json::from_slice(&text).with_context(|| format!("{shown}: not a model's description"))?;
        let lengths = [description.max_length, description.doc_stride, description.n_best];
        ensure!(lengths.iter().all(|&length| length > 0), "{shown}: a length is 0");
        Ok(description)
    }

    fn huggingface(&self, model: &ModelConfig, pad: u32, dropout: f64) -> Value {
        let mut config = huggingface::config(model, self.architecture(), pad, dropout);
        let labels: Vec<String> = match self.task {
            TaskKind::Regress => vec!["LABEL_0".into()],
            _ => self.labels.clone(),
        };
        if !labels.is_empty() {
            let ids = labels.iter().enumerate();
            config["id2label"] = ids.clone().map(|(id, label)| (id.to_string(), json!(label))).collect();
            config["label2id"] = ids.map(|(id, label)| (label.clone(), json!(id))).collect();
        }
        match self.task {
            TaskKind::Classify => config["problem_type"] = json!("single_label_classification"),
            TaskKind::Regress => config["problem_type"] = json!("regression"),
            _ => {}
        }
        config
    }

    /// Writes the model's directory from the executor's parameters; the weights are replaced last.
    pub fn write(
        &self,
        directory: &Path,
        model: &ModelConfig,
        tokenizer: &Tokenizer,
        dropout: f64,
        executor: &mut dyn Executor,
    ) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let pad = tokenizer.special_ids()?.pad;
        let pretty = |value: &Value| -> Result<Vec<u8>> {
            let mut text = serde_json::to_vec_pretty(value)?;
            text.push(b'\n');
            Ok(text)
        };
        let config = self.huggingface(model, pad, dropout);
        write_atomically(&directory.join(huggingface::CONFIG), &pretty(&config)?)?;
        write_atomically(&directory.join(DESCRIPTION), &pretty(&serde_json::to_value(self)?)?)?;
        write_atomically(&directory.join(TOKENIZER), tokenizer.model())?;
        let tensors = weights::collect(executor, |p| p.value, |part| Some(huggingface::name(part)))?;
        let path = directory.join(huggingface::WEIGHTS);
        let temporary = directory.join("model.safetensors.tmp");
        weights::write(&temporary, &tensors, Some("pt"))?;
        fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}
