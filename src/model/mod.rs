//! ELECTRA: its configuration, its parameters, and the plan of a training step.
//!
//! There is one description of the model; pre-training, evaluation and fine-tuning are plans built from it. Each layer
//! has forward and backward in one file of `layers`; `encoder` and `heads` are made of layers, plans of these.

pub mod config;
pub mod electra;
pub mod encoder;
pub mod feed;
pub mod finetune;
pub mod heads;
pub mod inputs;
pub mod layers;
pub mod parameters;
pub mod sharing;
pub mod update;

pub use config::{EmbeddingSharing, ModelConfig, Trained};
pub use electra::{BatchCapacity, Mode, PretrainPlan, StepOptions};
pub use update::OptimizerOptions;
