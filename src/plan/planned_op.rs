//! An op of a plan, and what it touches by how it touches it.

use crate::ops::{Kind, Op, TensorUse, Touch};
use crate::tensor::{Element, TensorId, TensorInfo};

use super::Phase;

/// An op in its place.
pub struct PlannedOp {
    pub phase: Phase,
    /// Where in the model: `discriminator.layer.3.attention.output`.
    pub label: String,
    pub op: Box<dyn Op>,
    /// What the op declares.
    pub tensors: Vec<TensorUse>,
}

impl PlannedOp {
    fn touched(&self, touch: Touch) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.tensors.iter().filter(move |used| used.touch == touch).map(|used| used.tensor)
    }

    /// What the op only reads.
    pub fn reads(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.touched(Touch::Read)
    }

    /// What it writes without reading it.
    pub fn writes(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.touched(Touch::Write)
    }

    /// What it reads and writes in place.
    pub fn accumulates(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.touched(Touch::Accumulate)
    }

    /// What it alone uses.
    pub fn scratch(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.touched(Touch::Scratch)
    }

    /// Its inputs: what it reads, then what it accumulates into.
    pub fn inputs(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.reads().chain(self.accumulates())
    }

    /// Its results: what it writes, then what it accumulates into.
    pub fn results(&self) -> impl Iterator<Item = TensorId> + Clone + '_ {
        self.writes().chain(self.accumulates())
    }

    /// Whether it reads an operand that is f32 among `tensors`, the plan's, but of a kind that may be f16: weights, and
    /// gradients of logits. (What is `Exact` is added to sums, not multiplied.)
    pub fn reads_exact_operands(&self, tensors: &[TensorInfo]) -> bool {
        self.tensors.iter().any(|used| {
            let exact = tensors[used.tensor.0 as usize].element == Element::Float;
            used.touch == Touch::Read && used.kind == Kind::Activation && exact
        })
    }
}
