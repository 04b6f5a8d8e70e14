//! Models as files: weights by name, checkpoints of a run, the directories Hugging Face reads and writes, the files of
//! torch and TensorFlow, and what a model can be started from.

pub mod checkpoint;
pub mod export;
pub mod fitting;
pub mod huggingface;
pub mod import;
pub mod positions;
pub mod pretrained;
pub mod provenance;
pub mod sums;
pub mod tensorflow;
pub mod tensors;
pub mod torch;
pub mod weights;
