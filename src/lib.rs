//! Inazuma: pre-training and fine-tuning of ELECTRA for Japanese with hand-written WGSL kernels.
//!
//! A folder imports what stands in lines below its own, never what stands above (`kernels-tests/imports.rs` fails on
//! it, and on circles; pictures in docs/architecture.md):
//!
//! ```text
//!  cli        one thin file a subcommand
//!   ↓
//!  bench      whole steps, kernels, batches and tokens, measured
//!  view       runs read back: drawn, watched, reported
//!   ↓
//!  finetune   fits any task: loop, trials, a model's directory
//!   ↓
//!  train      pre-training: configuration, loop, metrics, parity
//!  tasks      one folder a task, and the registry
//!   ↓
//!  device     what `--device` means: an executor for a plan
//!  interop    models as files: checkpoints, Hugging Face
//!   ↓
//!  model      ELECTRA as a plan: layers with forward and backward
//!  gpu, cpu   run a plan
//!   ↓
//!  batch      masking, packed micro-batches
//!   ↓
//!  store      the token store, read in place     plan   ops in order, their memory, shapes checked
//!   ↓                                             ↓
//!  corpus     dump → text                        ops    shapes, FLOPs, CPU code, kernels as data
//!  tokenizer  SentencePiece                       ↓
//!   ↓                                            tensor, tolerances
//!  files      whole or not at all
//!  ranks      processes that train together
//! ```

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod note;

pub mod batch;
pub mod bench;
pub mod cli;
pub mod corpus;
pub mod cpu;
pub mod device;
mod files;
pub mod finetune;
#[doc(hidden)]
pub mod fuzzing;
pub mod gpu;
pub mod interop;
pub mod model;
pub mod ops;
pub mod plan;
pub mod ranks;
pub mod store;
pub mod tasks;
pub mod tensor;
pub mod tokenizer;
pub mod tolerances;
pub mod train;
pub mod view;

#[cfg(test)]
mod fuzz_replay;
#[cfg(test)]
mod testing;
