//! Runs a plan on a GPU through wgpu (Vulkan, Metal, DirectX 12).
//!
//! `adapter` finds devices, `handle` is an open one, `lanes` asks it for the size of its subgroups, `open` adds what its
//! executors share, `shader` makes WGSL modules (`preprocess`), `pipelines` compiles them once, `selector` picks a candidate
//! of each op, `kernels` binds it to memory, `executor` runs the plan, and `timestamps` is its clock; `launches` counts what
//! a run launches, `sums` adds up partial sums of many ops at once; `tuning` keeps
//! what was measured and compiled for the next run.

pub mod adapter;
mod buffers;
pub mod checked;
mod choice;
mod executor;
mod handle;
mod kernels;
pub mod lanes;
pub mod launches;
mod memory;
mod open;
mod pipelines;
mod preprocess;
mod readback;
pub mod selector;
pub mod shader;
mod sources;
pub mod sums;
mod timestamps;
pub mod tuning;
mod uploads;

pub use adapter::{Adapter, Capabilities, adapters};
pub use choice::{Options, check_plan, strategies};
pub use executor::GpuExecutor;
pub use handle::{DeviceLost, Handle};
pub use open::Gpu;
pub use selector::Selection;
pub use tuning::Tuning;
