//! Kernel tests against the CPU reference, and whole-step tests. How to write one: see `harness`.

mod embedding;
mod gather;
mod gelu;
mod harness;
mod matmul;
mod norm;
mod shaders;
mod tolerances;
