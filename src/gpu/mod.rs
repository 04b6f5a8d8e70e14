//! Runs a plan on a GPU through wgpu (Vulkan, Metal, DirectX 12).
//!
//! `adapter` finds devices, `capabilities` says what they can do, `handle` is an open one, `lanes` asks it for the size of its subgroups, `open` adds what its
//! executors share, `shader` makes WGSL modules (`preprocess`), `pipelines` compiles them once, `selector` picks a candidate
//! of each op, `kernels` binds it to memory, `executor` runs the plan, and `timestamps` is its clock; `launches` counts what
//! a run launches, `sums` adds up partial sums of many ops at once; `tuning` keeps
//! what was measured and compiled for the next run.
//!
//! Without the feature `gpu` what touches a device is left out, and `absent` stands in its place: there are no adapters,
//! so no device is ever open. What is said of a GPU from a plan alone stays.

#[cfg(not(feature = "gpu"))]
mod absent;
#[cfg(feature = "gpu")]
mod adapter;
#[cfg(feature = "gpu")]
mod buffers;
pub mod capabilities;
pub mod checked;
mod choice;
#[cfg(feature = "gpu")]
mod executor;
mod faults;
#[cfg(feature = "gpu")]
mod handle;
#[cfg(feature = "gpu")]
mod kernels;
#[cfg(feature = "gpu")]
pub mod lanes;
pub mod launches;
#[cfg(feature = "gpu")]
mod memory;
#[cfg(feature = "gpu")]
mod open;
#[cfg(feature = "gpu")]
mod pipelines;
#[cfg(feature = "gpu")]
mod preprocess;
#[cfg(feature = "gpu")]
mod readback;
pub mod selector;
#[cfg(feature = "gpu")]
pub mod shader;
mod sizes;
#[cfg(feature = "gpu")]
mod sources;
pub mod sums;
#[cfg(feature = "gpu")]
mod timestamps;
pub mod tuning;
#[cfg(feature = "gpu")]
mod uploads;

#[cfg(not(feature = "gpu"))]
pub use absent::{Adapter, Gpu, GpuExecutor, adapters};
#[cfg(feature = "gpu")]
pub use adapter::{Adapter, adapters};
pub use capabilities::Capabilities;
pub use choice::{Options, check_plan, strategies};
#[cfg(feature = "gpu")]
pub use executor::GpuExecutor;
pub use faults::{DeviceLost, OutOfMemory};
#[cfg(feature = "gpu")]
pub use handle::Handle;
#[cfg(feature = "gpu")]
pub use open::Gpu;
pub use selector::Selection;
pub use tuning::Tuning;
