//! Pre-training: configuration, batches and masking, schedule, the loop, metrics, checkpoints.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod describe;
pub mod evaluate;
pub mod examples;
pub mod feeding;
pub mod hparams;
pub mod key;
pub mod keys;
pub mod masking;
pub mod metrics;
pub mod parity;
pub mod presets;
pub mod profile;
pub mod progress;
pub mod run;
pub mod schedule;
mod settings;
