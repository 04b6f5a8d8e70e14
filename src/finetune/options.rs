//! What `finetune` is asked to do.

use std::path::PathBuf;

use crate::device::DeviceChoice;
use crate::tasks::source::Source;
use crate::tasks::task::{Description, Settings};

use super::fit::FitOptions;

/// What the encoder begins as.
#[derive(Clone, Debug)]
pub enum Init {
    /// A run, a checkpoint or a Hugging Face directory.
    Pretrained(PathBuf),
    /// Drawn at random, with the sizes and the tokenizer of such a directory.
    Like(PathBuf),
    /// Drawn at random, with the sizes of a preset of `pretrain`.
    Preset(String),
}

/// What `finetune` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    pub init: Init,
    pub tokenizer: Option<PathBuf>,
    pub lower: Option<bool>,
    pub train: Source,
    pub dev: Option<Source>,
    /// Layers of the encoder, from the top, that are drawn anew instead of taken from the pre-trained model.
    pub redraw_layers: usize,
    /// Share of the training examples set aside as dev set.
    pub hold_out: Option<f64>,
    pub out: PathBuf,
    /// Labels and the like are filled in from the training examples.
    pub description: Description,
    /// As the user asked; otherwise the description's, or what the model can read.
    pub max_length: Option<usize>,
    pub fit: FitOptions,
    /// With fewer training examples than the first, as many epochs as the second says.
    pub few_epochs: Option<(u64, usize)>,
    /// What the task's options of prediction say.
    pub prediction: Settings,
    pub trials: usize,
    /// Epochs without a better dev score after which a training ends.
    pub patience: Option<usize>,
    /// Write event files for TensorBoard, too.
    pub tensorboard: bool,
    pub device: DeviceChoice,
    pub threads: usize,
    /// Bytes that plans may take at most, where the user says so.
    pub memory_limit: Option<u64>,
}
