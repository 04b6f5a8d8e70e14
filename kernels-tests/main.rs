//! Kernel tests against the CPU reference, and whole-step tests. How to write one: see `harness`.

mod attention;
mod harness;
mod matmul;
mod shaders;
mod tolerances;
