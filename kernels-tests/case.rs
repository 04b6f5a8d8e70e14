//! What a kernel test says of its tensors: how they start, and what is compared how closely.

use inazuma::tensor::{Element, TensorId};

use crate::tolerances::Tolerance;

/// What outputs hold before they are written; exact in f32 and f64.
pub const POISON: f32 = 1.0e30;
/// The same in half precision, exact and beyond all results.
pub const POISON_HALF: f32 = 49152.0;
/// The same for integers: an index nobody can follow.
pub const POISON_UINT: u32 = 0x0bad_f00d;

/// What floats of this type hold before they are written.
pub fn poison(element: Element) -> f32 {
    if element == Element::Half { POISON_HALF } else { POISON }
}

/// Initial values of a tensor: random ones in its rows in use, given ones from its first element on. The rest
/// is poison.
#[derive(Clone, Debug)]
#[allow(dead_code)] // each op's tests use what they need
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f64),
    Uniform(f64, f64),
    Constant(f64),
    Floats(Vec<f32>),
    Integers(Vec<u32>),
    /// Uniform in 0..n.
    Below(u32),
}

/// Tensors of a test: how they start, and what is compared.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub fills: Vec<(TensorId, Fill)>,
    pub outputs: Vec<(TensorId, Tolerance)>,
    /// Outputs that an op computes from f16 which it has itself written.
    pub read_back: Vec<TensorId>,
    /// Outputs for which kernels on cooperative matrices multiply f16 that they have themselves rounded.
    pub rounded_probabilities: Vec<TensorId>,
}

impl Case {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn fill(mut self, tensor: TensorId, fill: Fill) -> Self {
        self.fills.push((tensor, fill));
        self
    }

    pub fn output(mut self, tensor: TensorId, tolerance: Tolerance) -> Self {
        self.outputs.push((tensor, tolerance));
        self
    }

    /// The output is computed from another that the op has written, and may have rounded.
    pub fn read_back(mut self, tensor: TensorId) -> Self {
        self.read_back.push(tensor);
        self
    }

    /// Kernels on cooperative matrices round what this output is a sum of.
    pub fn rounded_probabilities(mut self, tensor: TensorId) -> Self {
        self.rounded_probabilities.push(tensor);
        self
    }

    /// All tensors that need memory of their own.
    pub fn kept(&self) -> Vec<TensorId> {
        let filled = self.fills.iter().map(|(tensor, _)| *tensor);
        filled.chain(self.outputs.iter().map(|(tensor, _)| *tensor)).collect()
    }
}
