//! Inazuma: pre-training and fine-tuning of ELECTRA for Japanese with hand-written WGSL kernels.
//!
//! The folders follow the way of the data: `corpus` (dump to text), `tokenizer`, `store`, `train`, `tasks`,
//! `finetune`, `interop` (models of other systems);
//! the engine stands apart from it: `tensor`, `ops`, `plan`, and the executors `cpu` and `gpu`; `bench` measures it.

pub mod batch;
pub mod bench;
pub mod cli;
pub mod corpus;
pub mod cpu;
pub mod device;
mod files;
pub mod finetune;
pub mod gpu;
pub mod interop;
pub mod model;
pub mod ops;
pub mod plan;
pub mod store;
pub mod tasks;
pub mod tensor;
pub mod tokenizer;
pub mod tolerances;
pub mod train;

#[cfg(test)]
mod fuzz_replay;
#[cfg(test)]
mod testing;
