//! The ops of a plan, one file each: shapes, FLOPs, the CPU code, and the kernels as data.
//!
//! An op knows no device: it runs on the CPU over a [`Memory`], and for GPUs it lists [`Candidate`]s,
//! of which `gpu::selector` picks one. Adding an op touches four places: `shaders/`, here, its call in
//! `model/`, and `kernels-tests/`.
//!
//! Conventions: activations are packed rows `[tokens, width]`; parameter gradients are accumulated (`+=`)
//! into buffers cleared once a step; activation gradients are written (`=`).

use std::fmt::{self, Display};

use anyhow::Result;

use crate::tensor::{Extents, Rows, TensorId};

pub mod apply_dropout;
pub mod attention;
pub mod constants;
mod dropout;
pub mod embedding;
pub mod gather;
pub mod gelu;
pub mod immediates;
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
pub mod table_sum;
pub mod tensor_use;
pub mod vocabulary_loss;

pub use immediates::Immediates;
pub use memory::Memory;
pub use scalar::{Scalar, simd};
pub use tensor_use::{Kind, Shape, TensorUse, Touch};

/// What every op says of itself.
pub trait Describe {
    /// The kind of op, in snake case: `matmul`, `attention`, …
    fn name(&self) -> &'static str;
    /// Every tensor the op touches, once.
    ///
    /// Where an order matters (signatures, `--explain`), it is this one: those read, then those written, then those
    /// accumulated.
    fn tensors(&self) -> Vec<TensorUse>;
    /// Multiply-adds count two; look-ups and moves are free.
    fn flops(&self, _: &Extents) -> f64 {
        0.0
    }
    /// What the op needs besides the shapes of its tensors; `PlanBuilder::build` returns the error.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The op on the processor, in the scalar `S`: f32 is the product, f64 the reference.
pub trait CpuOp<S: Scalar> {
    fn run(&self, memory: &Memory<'_, S>);
}

/// The op on a GPU.
pub trait Kernels {
    /// Ways to compute this op, best first; the last one fits every adapter. Callers go through `Plan::candidates`,
    /// which checks the limits first.
    fn candidates(&self) -> Vec<Candidate>;
    /// What the kernels can take at most.
    fn limits(&self) -> Vec<Limit> {
        Vec::new()
    }
    /// What all candidates leave to be added up after their dispatches.
    fn sums(&self) -> Option<PartialSums> {
        None
    }
}

/// Partial sums that wait to be added to their targets: by `gpu::sums`, those of many ops in one dispatch
/// (`plan::SumGroup`), as each launch costs the time in which the device runs empty.
#[derive(Clone, Debug)]
pub struct PartialSums {
    /// `[parts, columns]`, scratch of the op. Every part is written, with zeros where there was nothing to sum.
    pub partials: TensorId,
    pub parts: usize,
    pub columns: usize,
    pub targets: Vec<SumTarget>,
}

/// What some columns of partial sums are added to.
#[derive(Clone, Copy, Debug)]
pub struct SumTarget {
    /// f32, accumulated by the op.
    pub tensor: TensorId,
    /// Its first element, and the first column.
    pub at: usize,
    pub first: usize,
    pub elements: usize,
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
    pub subgroup_barriers: bool,
    /// Rounds operands to f16: for plans in half precision only.
    pub half: bool,
    /// Size of the cooperative matrices (f16 · f16 → f32) it is made of, and the lanes of a subgroup it is made for.
    pub cooperative: Option<(u32, u32)>,
    /// Only worth choosing where workgroup memory is real memory: not on software adapters.
    pub hardware: bool,
    /// Only worth choosing on software adapters: no barriers, no workgroup memory.
    pub software: bool,
}

/// A bound of an op's kernels, with what this op needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In the plural: "columns of a head".
    pub what: &'static str,
    pub value: usize,
    pub most: usize,
    /// What to do where the value is beyond it.
    pub advice: &'static str,
}

impl Limit {
    pub fn is_kept(&self) -> bool {
        self.value <= self.most
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { what, value, most, advice } = self;
        write!(f, "{value} {what} are more than the {most} that GPU kernels take: {advice}")
    }
}

/// One way to compute an op: dispatches in order.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub strategy: &'static str,
    pub requires: Requirements,
    pub dispatches: Vec<Dispatch>,
}

impl Candidate {
    /// For ops with one way to compute them, a single dispatch that fits every adapter.
    pub fn only(strategy: &'static str, dispatch: Dispatch) -> Vec<Candidate> {
        vec![Candidate { strategy, requires: Requirements::default(), dispatches: vec![dispatch] }]
    }
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
    /// What `var<immediate>` holds, at most 32 words.
    pub immediates: Immediates,
    pub grid: Grid,
}

/// A tensor as a dispatch binds it: `plan::Plan::bound` finds the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// For reading where the op only reads the tensor, else for reading and writing.
    Declared(TensorId),
    /// For reading, though the op writes it: an earlier dispatch of this candidate has written it.
    ReadBack(TensorId),
}

impl Binding {
    pub fn tensor(self) -> TensorId {
        match self {
            Binding::Declared(tensor) | Binding::ReadBack(tensor) => tensor,
        }
    }
}

impl From<TensorId> for Binding {
    fn from(tensor: TensorId) -> Self {
        Binding::Declared(tensor)
    }
}

/// Binds tensors as the op declares them.
pub fn bind<const N: usize>(tensors: [TensorId; N]) -> Vec<Binding> {
    tensors.map(Binding::Declared).to_vec()
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
    /// The number with every row in use.
    pub fn most(&self) -> usize {
        let all = |count: &Count| match *count {
            Count::Fixed(n) => n,
            Count::Rows { rows, per } => rows.capacity.div_ceil(per),
        };
        self.0.iter().map(all).product()
    }

    pub fn workgroups(&self, extents: &Extents) -> usize {
        self.0.iter().map(|count| count.value(extents)).product()
    }
}
