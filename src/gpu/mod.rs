//! Runs a plan on a GPU through wgpu (Vulkan, Metal, DirectX 12).
//!
//! `adapter` finds and opens devices, `shader` makes WGSL modules, `pipelines` compiles them once, `selector`
//! picks a candidate of each op, `executor` runs the plan, and `timestamps` is its clock; `tuning` keeps
//! what was measured and compiled for the next run.

pub mod adapter;
mod buffers;
mod executor;
mod pipelines;
mod readback;
pub mod selector;
pub mod shader;
mod timestamps;
pub mod tuning;
mod uploads;

pub use adapter::{Adapter, Capabilities, Gpu, adapters};
pub use executor::{GpuExecutor, Options};
pub use selector::Selection;
pub use tuning::Tuning;
