//! How far results may be from the f64 reference and from goldens, each with its reason: what the tests, `selftest`,
//! `bench kernels` and `parity` judge by.

/// `|Δ| ≤ relative · max|reference| + absolute`, the maximum over the elements of the tensor in use.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

const fn relative(relative: f64) -> Tolerance {
    Tolerance { relative, absolute: 0.0 }
}

/// Copies, integers, draws: nothing is rounded, or both sides round alike.
pub const EXACT: Tolerance = relative(0.0);

/// A few operations on each element, without a long sum: some units of f32's 6e-8, and the 2e-7 of our
/// polynomial elementary functions.
pub const ELEMENTWISE: Tolerance = relative(1e-6);

/// Matrix products. A running f32 sum of k terms of random sign errs by about 6e-8·√k of its own size; the
/// largest output is some times that size. 1e-5 holds up to k = 1000 with a margin of five and would not hide
/// a lost term (1/k of the sum).
pub const MATMUL: Tolerance = relative(1e-5);

/// Norms: a sum over the columns (in a tree or 16 lanes: a few units), a root, and about six more operations.
/// Statistics count the same, mean and 1/σ against the larger of the two.
pub const NORM: Tolerance = relative(3e-6);

/// Backward of norms, and sums over rows (parameter and table gradients): blocks of at most a few
/// hundred f32 terms of random sign, about 6e-8·√n of their size.
pub const NORM_GRADIENT: Tolerance = relative(5e-6);

/// Central differences in f64 with a five-point stencil err by less than 1e-9; what is left is the backward
/// pass in f64. The polynomials of the f32 path are not used there.
pub const GRADIENT_CHECK: f64 = 1e-6;

/// Attention: scores of some units err by 1e-7 of their size, exp passes that on to the probabilities, and up
/// to five products of at most some hundred terms follow each other; scores of hundreds (the largest tested) err
/// by 3e-5 before exp, so this stands at the rounding of those.
pub const ATTENTION: Tolerance = relative(2e-5);

/// Losses, their gradients and sums of some hundred of them: exp and ln err by 2e-7 of their result each, and
/// an argument of ±10 brings 10 · 6e-8 more.
pub const LOSS: Tolerance = relative(3e-6);

/// What storing a result in half precision adds: one unit in its 11 bits, since drivers may round either way; the
/// smallest number there is where it has fewer.
pub const HALF_ROUNDING: Tolerance = Tolerance { relative: 1.0 / 1024.0, absolute: 6e-8 };

/// The same where an op reads f16 that another op of the same plan has rounded: some of those units.
pub const HALF_CHAIN: Tolerance = Tolerance { relative: 4.0 / 1024.0, absolute: 24e-8 };

/// What kernels on cooperative matrices add where they round operands that are f32 to f16 (weights, gradients of logits),
/// relative to the largest element of the result. Rounding an operand errs by up to 2⁻¹¹ of each product, so two by
/// 2⁻¹⁰, which is the bound at k = 1. Over more terms the roundings average as the terms themselves do: both grow with
/// √k, and a rounding is 2⁻¹¹/√3 in the mean square at most, so that 2⁻¹⁰ is 2.4 times what two operands come to (one
/// gave 2.7e-4 on an H100). A term lost from k changes elements by the size of one product, some 1/√k of the result: 1.6 %
/// at k = 4,000.
pub const HALF_OPERANDS: f64 = 1.0 / 1024.0;

/// What kernels on cooperative matrices add where they round what they have computed to f16, to multiply it:
/// probabilities of attention, and their gradients. Each term of a sum is off by a unit of its 11 bits at most (drivers
/// may round either way), so is the sum if all err alike, and by less if not.
pub const HALF_PROBABILITIES: Tolerance = relative(1.0 / 1024.0);

/// Whole-step gradients under another grouping of the same sums (docs/architecture.md: a split changes only the
/// order of sums).
pub const REGROUPED: f64 = 1e-5;

/// Samples of two executors that differ where the two best scores are this close in f64.
pub const NEAR_TIE: f64 = 1e-4;

/// One op of a real step, on a device beside the CPU executor: relative to the largest element of the tensor. Sums of
/// some hundred to thousands of products in f32 in another order.
pub const OP: f64 = 5e-5;

/// The same for a result in half precision.
pub const HALF_OP: f64 = OP + HALF_ROUNDING.relative;

/// The share of an op's integers that may differ: samples at near-ties, and counts beside the border of a bin.
pub const OP_INTEGERS: f64 = 0.03;

/// Gradients of a micro-batch on a device beside the CPU executor's (`pretrain --cross-check`), relative to the largest of
/// the parameter. Fifty times what a golden allows: a run of days must not end for the roundings of a model that training
/// has made harder to compute, and what a kernel does wrong is a lost or doubled term, some hundredths of the result.
pub const CROSS_CHECK: f64 = 1e-3;

/// The same in half precision: five times what `StepTolerances::HALF` allows. `query.bias`, to which it allows more, is
/// measured together with the biases of keys and values: they are one parameter.
pub const HALF_CROSS_CHECK: f64 = 5e-2;

/// A whole step beside a golden.
#[derive(Clone, Copy, Debug)]
pub struct StepTolerances {
    /// Losses and the norm of the gradients, relative.
    pub scalars: f64,
    /// Absolute.
    pub logits: f64,
    /// And moments, relative to the largest of the tensor.
    pub gradients: f64,
    /// Of `query.bias`: what all keys share cancels in it, and leaves what was rounded.
    pub query_bias: f64,
    /// Absolute: a softmax does not change where all its arguments move alike, so the gradient of `key.bias` is zero.
    pub key_bias: f64,
    /// Of an update, relative to it; and of a parameter, relative to it.
    pub update: f64,
    pub parameter: f64,
}

impl StepTolerances {
    pub const CPU: Self = StepTolerances { gradients: 1e-5, query_bias: 1e-5, ..Self::GPU };

    pub const GPU: Self = StepTolerances {
        scalars: 2e-6,
        logits: 5e-6,
        gradients: 2e-5,
        query_bias: 2e-5,
        key_bias: 1e-8,
        update: 1e-4,
        parameter: 2.4e-7,
    };

    /// With f16, on lavapipe, five goldens of 2 to 12 layers at lengths 16 to 512 were off by at most: scalars 2.1e-5,
    /// logits 3.7e-4, moments 6.6e-4 (docs/precision.md). Adam makes full steps of the smallest gradients, so that an
    /// element whose gradient is all rounding may go the other way.
    pub const HALF: Self = StepTolerances {
        scalars: 1e-4,
        logits: 2e-3,
        gradients: 1e-2,
        query_bias: 0.2,
        key_bias: 1e-7,
        update: 2.0,
        parameter: 2.4e-7,
    };

    /// How far a parameter may be from `expected`, which the update made of `before`.
    pub fn updated(&self, before: f64, expected: f64) -> f64 {
        self.parameter * before.abs() + self.update * (expected - before).abs() + 1e-9
    }
}
