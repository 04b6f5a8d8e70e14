//! The ops of a plan, one file each: shapes, FLOPs, the CPU code, and the kernels as data.
//!
//! An op knows no device: it runs on the CPU over a [`Memory`], and for GPUs it lists [`Candidate`]s,
//! of which `gpu::selector` picks one. Adding an op touches four places: `shaders/`, here, its call in
//! `model/`, and `kernels-tests/`.
//!
//! Conventions: activations are packed rows `[tokens, width]`; parameter gradients are accumulated (`+=`)
//! into buffers cleared once a step; activation gradients are written (`=`).

use crate::tensor::{Extents, Rows, TensorId};

pub mod apply_dropout;
pub mod attention;
pub mod constants;
mod dropout;
pub mod embedding;
pub mod gather;
pub mod gelu;
mod lanes;
pub mod loss_scaling;
pub mod matmul;
pub mod memory;
pub mod metric_sums;
pub mod norm;
mod norm_kernels;
pub mod optimizer;
pub mod probe;
pub mod replace;
pub mod replaced_token;
pub mod row_loss;
pub mod scalar;
pub mod span_loss;
pub mod span_pair;
pub mod span_pool;
mod spans;
mod strip;
pub mod table_gradient;
mod table_gradient_kernels;
pub mod vocabulary_loss;

pub use memory::Memory;
pub use scalar::{Scalar, simd};

/// Which tensors an op touches, and how.
#[derive(Clone, Debug, Default)]
pub struct Io {
    /// Only read.
    pub reads: Vec<TensorId>,
    /// Written without being read: what was there before is gone.
    pub writes: Vec<TensorId>,
    /// Read and written in place (accumulated gradients, in-place forms).
    pub updates: Vec<TensorId>,
    /// Used by this op alone.
    pub scratch: Vec<TensorId>,
}

/// What every op says of itself.
pub trait Describe {
    /// The kind of op, in snake case: `matmul`, `attention`, …
    fn name(&self) -> &'static str;
    fn io(&self) -> Io;
    /// Multiply-adds count two; look-ups and moves are free.
    fn flops(&self, extents: &Extents) -> f64;
}

/// The op on the processor, in the scalar `S`: f32 is the product, f64 the reference.
pub trait CpuOp<S: Scalar> {
    fn run(&self, memory: &Memory<'_, S>);
}

/// The op on a GPU.
pub trait Kernels {
    /// Ways to compute this op, best first; the last one fits every adapter.
    fn candidates(&self) -> Vec<Candidate>;
}

/// An op of a plan.
pub trait Op: Describe + CpuOp<f32> + CpuOp<f64> + Kernels + Send + Sync {}
impl<T: Describe + CpuOp<f32> + CpuOp<f64> + Kernels + Send + Sync> Op for T {}

/// What a candidate needs of an adapter. All zero or false: WebGPU's defaults suffice
/// (8 storage buffers, 16 KiB of workgroup memory, 256 invocations).
#[derive(Clone, Copy, Debug, Default)]
pub struct Requirements {
    pub workgroup_memory: u32,
    pub invocations: u32,
    pub storage_buffers: u32,
    pub subgroups: bool,
    /// Rounds operands to halves: for plans in half precision only.
    pub half: bool,
    /// Size of the cooperative matrices (f16 · f16 → f32) it is made of, and the lanes of a subgroup it is made for.
    pub cooperative: Option<(u32, u32)>,
    /// Only worth choosing where workgroup memory is real memory: not on software adapters.
    pub hardware: bool,
    /// Only worth choosing on software adapters: no barriers, no workgroup memory.
    pub software: bool,
}

/// One way to compute an op: dispatches in order.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub strategy: &'static str,
    pub requires: Requirements,
    pub dispatches: Vec<Dispatch>,
}

/// One kernel launch, as data.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// File name in `shaders/`, without `.wgsl`.
    pub shader: &'static str,
    /// Textual constants (`const NAME: u32 = value;` is put before the source; `#if NAME` reads them too).
    pub constants: Vec<(&'static str, u32)>,
    /// Tensors at bindings 1, 2, … of group 0. Binding 0 is the step uniform.
    pub bindings: Vec<Binding>,
    /// Words of `var<immediate>`, at most 32.
    pub immediates: Vec<u32>,
    pub grid: Grid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub tensor: TensorId,
    pub access: Access,
}

/// Binds a tensor as `var<storage, read>`.
pub fn read(tensor: TensorId) -> Binding {
    Binding { tensor, access: Access::Read }
}

/// Binds a tensor as `var<storage, read_write>`.
pub fn write(tensor: TensorId) -> Binding {
    Binding { tensor, access: Access::ReadWrite }
}

/// A factor of the number of workgroups.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Fixed(usize),
    /// `ceil(rows in use / per)`.
    Rows {
        rows: Rows,
        per: usize,
    },
}

impl Count {
    pub fn value(&self, extents: &Extents) -> usize {
        match *self {
            Count::Fixed(n) => n,
            Count::Rows { rows, per } => rows.count(extents).div_ceil(per),
        }
    }
}

/// The number of workgroups: the product of the factors.
///
/// The executor folds it into two dimensions (65,535 each); a kernel gets its flat number from
/// `workgroup_index` of the prelude and must return where that is not below its own total.
#[derive(Clone, Debug)]
pub struct Grid(pub Vec<Count>);

impl Grid {
    pub fn workgroups(&self, extents: &Extents) -> usize {
        self.0.iter().map(|count| count.value(extents)).product()
    }
}
