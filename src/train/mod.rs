//! Pre-training: configuration, batches of a store, schedule, the loop, metrics.

pub mod collapse;
pub mod config;
pub mod curriculum;
pub mod describe;
pub mod divergence;
pub mod evaluate;
pub mod examples;
pub mod explain;
pub mod feeding;
mod following;
mod histogram;
pub mod hparams;
mod init;
pub mod key;
pub mod keys;
pub mod metrics;
pub mod networks;
pub mod optimizer;
pub mod parity;
pub mod presets;
pub mod profile;
pub mod progress;
pub mod reference;
pub mod run;
pub mod schedule;
mod settings;
mod sizing;
