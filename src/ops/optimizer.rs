//! Clearing, the global gradient norm, clipping, and Adam over ranges of the flat parameter buffers
//! (docs/spec.md §3.7 and §3.8).

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::tensor::{Element, Extents, Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::immediates::{Words, immediates};
use super::simd;
use super::tensor_use::{accumulate, flat, part, read, vector, write};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// Elements a workgroup (or a task of the CPU) treats at once; a partial sum of squares covers as many.
pub const BLOCK: usize = 4096;

/// Slots of the metrics tensor.
pub use super::constants::{
    METRIC_CLIP_FACTOR, METRIC_GRADIENT_NORM, METRIC_REFUSED, REFUSED_NORM, REFUSED_NOT_FINITE,
};

/// Tensors that one [`Clear`] takes at most: launches are few, and as many numbers are immediates of its kernel.
pub const CLEARED: usize = 4;

/// The first elements of tensors ← 0.
#[derive(Clone, Debug)]
pub struct Clear {
    /// [`CLEARED`] at most.
    pub tensors: Vec<Cleared>,
}

#[derive(Clone, Copy, Debug)]
pub struct Cleared {
    pub tensor: TensorId,
    pub elements: usize,
    pub element: Element,
}

impl Describe for Clear {
    fn name(&self) -> &'static str {
        "clear"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let use_of = |&Cleared { tensor, elements, element }: &Cleared| {
            let kind = if element == Element::Uint { Uint } else { Activation };
            write("tensors", tensor, kind, flat(elements))
        };
        self.tensors.iter().map(use_of).collect()
    }

    fn check(&self) -> Result<()> {
        let count = self.tensors.len();
        ensure!((1..=CLEARED).contains(&count), "{count} tensors to clear, 1 to {CLEARED} can be");
        Ok(())
    }
}

impl<S: Scalar> CpuOp<S> for Clear {
    fn run(&self, memory: &Memory<'_, S>) {
        for &Cleared { tensor, elements, element } in &self.tensors {
            match element {
                Element::Float | Element::Half => memory.write(tensor)[..elements].fill(S::ZERO),
                Element::Uint => memory.write_uint(tensor)[..elements].fill(0),
            }
        }
    }
}

immediates! {
    /// Elements of each tensor, 0 where there is none.
    struct ClearImmediates {
        elements_0: u32,
        elements_1: u32,
        elements_2: u32,
        elements_3: u32,
    }
}

impl Kernels for Clear {
    fn candidates(&self) -> Vec<Candidate> {
        let elements = |index| self.tensors.get(index).map_or(0, |cleared: &Cleared| cleared.elements as u32);
        let [elements_0, elements_1, elements_2, elements_3] = std::array::from_fn::<_, CLEARED, _>(elements);
        let blocks: usize = self.tensors.iter().map(|cleared| cleared.elements.div_ceil(BLOCK)).sum();
        let dispatch = Dispatch {
            shader: "clear",
            constants: vec![("TENSORS", self.tensors.len() as u32)],
            bindings: self.tensors.iter().map(|cleared| cleared.tensor.into()).collect(),
            immediates: ClearImmediates { elements_0, elements_1, elements_2, elements_3 }.into(),
            grid: Grid(vec![Count::Fixed(blocks)]),
        };
        Candidate::only("blocks", dispatch)
    }
}

/// A candidate of one dispatch with a fixed number of workgroups.
fn single(
    shader: &'static str,
    bindings: Vec<super::Binding>,
    immediates: impl Words,
    workgroups: usize,
) -> Vec<Candidate> {
    let grid = Grid(vec![Count::Fixed(workgroups)]);
    let dispatch = Dispatch { shader, constants: vec![], bindings, immediates: immediates.into(), grid };
    Candidate::only("blocks", dispatch)
}

/// partials[first + i] = Σ of squares of block i of a range of gradients.
#[derive(Clone, Debug)]
pub struct SquaredNorm {
    pub gradient: TensorId,
    pub elements: usize,
    /// `[blocks of all ranges]`.
    pub partials: TensorId,
    pub first: usize,
}

impl Describe for SquaredNorm {
    fn name(&self) -> &'static str {
        "squared_norm"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let blocks = Rows::fixed(self.elements.div_ceil(BLOCK));
        vec![
            read("gradient", self.gradient, Exact, vector(self.elements)),
            write("partials", self.partials, Exact, part(self.first, blocks, 1)),
        ]
    }

    fn flops(&self, _: &Extents) -> f64 {
        2.0 * self.elements as f64
    }
}

impl<S: Scalar> CpuOp<S> for SquaredNorm {
    fn run(&self, memory: &Memory<'_, S>) {
        let gradient = &memory.read(self.gradient)[..self.elements];
        let partials = &mut memory.write(self.partials)[self.first..];
        gradient.par_chunks(BLOCK).zip(partials).for_each(|(block, partial)| {
            *partial = simd(
                #[inline(always)]
                || {
                    let mut lanes = [S::ZERO; 32];
                    for chunk in block.chunks(32) {
                        for (lane, &g) in lanes.iter_mut().zip(chunk) {
                            *lane += g * g;
                        }
                    }
                    lanes.iter().fold(S::ZERO, |sum, &lane| sum + lane)
                },
            );
        });
    }
}

immediates! {
    struct SquaredNormImmediates {
        elements: u32,
        first: u32,
    }
}

impl Kernels for SquaredNorm {
    fn candidates(&self) -> Vec<Candidate> {
        let immediates = SquaredNormImmediates { elements: self.elements as u32, first: self.first as u32 };
        let blocks = self.elements.div_ceil(BLOCK);
        single("squared_norm", bind([self.gradient, self.partials]), immediates, blocks)
    }
}

/// Norm of all gradients, and the factor by which Adam multiplies them: min(1, clip / norm) / loss_scale.
/// A norm that is not finite, or larger than the step allows, sets the flag; Adam then changes nothing.
#[derive(Clone, Debug)]
pub struct ClipFactor {
    pub partials: TensorId,
    pub count: usize,
    /// `[METRICS]`: see `ops::constants`.
    pub metrics: TensorId,
    /// 0 switches clipping off.
    pub clip_norm: f32,
}

impl Describe for ClipFactor {
    fn name(&self) -> &'static str {
        "clip_factor"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("partials", self.partials, Exact, vector(self.count)),
            accumulate("metrics", self.metrics, Exact, flat(METRIC_REFUSED + 1)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for ClipFactor {
    fn run(&self, memory: &Memory<'_, S>) {
        let partials = &memory.read(self.partials)[..self.count];
        let metrics = memory.write(self.metrics);
        let sum: f64 = partials.iter().map(|p| p.to_f64()).sum();
        let scale = f64::from(memory.values.loss_scale);
        let norm = sum.sqrt() / scale;
        let clip = f64::from(self.clip_norm);
        let factor = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        metrics[METRIC_GRADIENT_NORM] = S::of(norm);
        metrics[METRIC_CLIP_FACTOR] = S::of(factor / scale);
        let limit = f64::from(memory.values.norm_limit);
        metrics[METRIC_REFUSED] = S::of(match norm.is_finite() {
            false => f64::from(REFUSED_NOT_FINITE),
            true if limit > 0.0 && norm > limit => f64::from(REFUSED_NORM),
            true => 0.0,
        });
    }
}

immediates! {
    struct ClipFactorImmediates {
        count: u32,
        clip_norm: f32,
    }
}

impl Kernels for ClipFactor {
    fn candidates(&self) -> Vec<Candidate> {
        let immediates = ClipFactorImmediates { count: self.count as u32, clip_norm: self.clip_norm };
        single("clip_factor", bind([self.partials, self.metrics]), immediates, 1)
    }
}

/// Adam with decoupled decay, on a range of the flat buffers; bias is corrected by the step's `moment_scale` and
/// `epsilon_scale`, if it is.
#[derive(Clone, Debug)]
pub struct Adam {
    pub value: TensorId,
    pub gradient: TensorId,
    pub first_moment: TensorId,
    pub second_moment: TensorId,
    pub metrics: TensorId,
    pub elements: usize,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// 0 for parameters that do not decay.
    pub weight_decay: f32,
    /// Factor on the step's learning rate: layer-wise decay.
    pub rate: f32,
}

impl Describe for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let shape = vector(self.elements);
        vec![
            read("gradient", self.gradient, Exact, shape),
            read("metrics", self.metrics, Exact, flat(METRIC_REFUSED + 1)),
            accumulate("value", self.value, Exact, shape),
            accumulate("first_moment", self.first_moment, Exact, shape),
            accumulate("second_moment", self.second_moment, Exact, shape),
        ]
    }

    fn flops(&self, _: &Extents) -> f64 {
        15.0 * self.elements as f64
    }
}

impl<S: Scalar> CpuOp<S> for Adam {
    fn run(&self, memory: &Memory<'_, S>) {
        let metrics = memory.read(self.metrics);
        if metrics[METRIC_REFUSED] > S::ZERO {
            return;
        }
        let factor = metrics[METRIC_CLIP_FACTOR];
        let of = |x: f32| S::of(f64::from(x));
        let (beta1, beta2) = (of(self.beta1), of(self.beta2));
        let scale = of(memory.values.moment_scale);
        let epsilon = of(memory.values.epsilon_scale) * of(self.epsilon);
        // 1 − β of the decimal number the user wrote, not of its nearest f32 (0.999 would lose 3 digits).
        let (rest1, rest2) = (S::of(rest(self.beta1)), S::of(rest(self.beta2)));
        let (rate, decay) = (of(memory.values.learning_rate) * of(self.rate), of(self.weight_decay));
        let gradient = &memory.read(self.gradient)[..self.elements];
        memory.write(self.value)[..self.elements]
            .par_chunks_mut(BLOCK)
            .zip(memory.write(self.first_moment).par_chunks_mut(BLOCK))
            .zip(memory.write(self.second_moment).par_chunks_mut(BLOCK))
            .zip(gradient.par_chunks(BLOCK))
            .for_each(|(((values, first), second), gradients)| {
                simd(
                    #[inline(always)]
                    || {
                        for (((p, m), v), &g) in values.iter_mut().zip(first).zip(second).zip(gradients) {
                            let g = g * factor;
                            *m = beta1 * *m + rest1 * g;
                            *v = beta2 * *v + rest2 * (g * g);
                            let update = scale * *m / (v.sqrt() + epsilon) + decay * *p;
                            *p -= rate * update;
                        }
                    },
                );
            });
    }
}

/// 1 − β, from the shortest decimal that denotes β in f32.
fn rest(beta: f32) -> f64 {
    let decimal: f64 = beta.to_string().parse().unwrap_or(f64::from(beta));
    1.0 - decimal
}

immediates! {
    struct AdamImmediates {
        elements: u32,
        beta1: f32,
        beta2: f32,
        rest1: f32,
        rest2: f32,
        epsilon: f32,
        weight_decay: f32,
        rate: f32,
    }
}

impl Kernels for Adam {
    fn candidates(&self) -> Vec<Candidate> {
        let immediates = AdamImmediates {
            elements: self.elements as u32,
            beta1: self.beta1,
            beta2: self.beta2,
            rest1: rest(self.beta1) as f32,
            rest2: rest(self.beta2) as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            rate: self.rate,
        };
        let moments = [self.first_moment, self.second_moment];
        let bindings = bind([self.value, self.gradient, moments[0], moments[1], self.metrics]);
        single("adam", bindings, immediates, self.elements.div_ceil(BLOCK))
    }
}
