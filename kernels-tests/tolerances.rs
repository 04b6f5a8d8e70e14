//! How far results may be from the f64 reference, each with its reason.

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
#[allow(dead_code)]
pub const EXACT: Tolerance = relative(0.0);

/// A few operations on each element, without a long sum: some units of f32's 6e-8, and the 2e-7 of our
/// polynomial elementary functions.
#[allow(dead_code)]
pub const ELEMENTWISE: Tolerance = relative(1e-6);

/// Matrix products. A running f32 sum of k terms of random sign errs by about 6e-8·√k of its own size; the
/// largest output is some times that size. 1e-5 holds up to k = 1000 with a margin of five and would not hide
/// a lost term (1/k of the sum).
pub const MATMUL: Tolerance = relative(1e-5);

/// Norms: a sum over the columns (in a tree or 16 lanes: a few units), a root, and about six more operations.
/// Statistics count the same, mean and 1/σ against the larger of the two.
pub const NORM: Tolerance = relative(3e-6);

/// The way back through norms, and sums over rows (parameter and table gradients): blocks of at most a few
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

/// The same where an op reads halves that another op of the same plan has rounded: some of those units.
pub const HALF_CHAIN: Tolerance = Tolerance { relative: 4.0 / 1024.0, absolute: 24e-8 };

/// Whole-step gradients under another grouping of the same sums (docs/architecture.md: a split changes only the order of sums).
pub const REGROUPED: f64 = 1e-5;
