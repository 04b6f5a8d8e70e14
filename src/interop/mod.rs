//! Models as files: weights by name, checkpoints of a run, the directories Hugging Face reads and writes, and what
//! a model can be started from.

pub mod checkpoint;
pub mod export;
pub mod huggingface;
pub mod pretrained;
pub mod weights;
