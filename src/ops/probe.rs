//! Two ops that are there to be measured: how many multiply-adds and how many bytes a device does in a second.
//!
//! What kernels reach is judged against these, not against a table of what the maker promises.

use rayon::prelude::*;

use crate::tensor::{Extents, Rows, TensorId};

use super::Kind::Exact;
use super::immediates::immediates;
use super::simd;
use super::tensor_use::{read, vector, write};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// Elements that a task of the CPU, or a thread of the GPU, holds in registers.
const CPU_ELEMENTS: usize = 96;
const GPU_ELEMENTS: usize = 32;
const THREADS: usize = 256;

/// output\[i\] = x after `rounds` times x ← a·x + b, from x = i / elements: nothing but multiply-adds, all in
/// registers, so many side by side that none waits for the one before.
#[derive(Clone, Debug)]
pub struct MultiplyAdd {
    /// `[N, 1]`, written.
    pub output: TensorId,
    /// N: a multiple of 24,576.
    pub elements: usize,
    pub rounds: u32,
}

impl MultiplyAdd {
    /// The smallest number of elements that both executors divide evenly.
    pub const UNIT: usize = 3 * GPU_ELEMENTS * THREADS;
    /// x tends to b / (1 − a) = 1, slowly and without overflow.
    const A: f64 = 1.0 - 1.0 / 4096.0;
    const B: f64 = 1.0 / 4096.0;
}

impl Describe for MultiplyAdd {
    fn name(&self) -> &'static str {
        "probe_multiply_add"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![write("output", self.output, Exact, vector(self.elements))]
    }

    fn flops(&self, _: &Extents) -> f64 {
        2.0 * self.elements as f64 * f64::from(self.rounds)
    }
}

impl<S: Scalar> CpuOp<S> for MultiplyAdd {
    fn run(&self, memory: &Memory<'_, S>) {
        let (a, b) = (S::of(Self::A), S::of(Self::B));
        let factor = 1.0 / self.elements as f64;
        let output = memory.write(self.output)[..self.elements].par_chunks_mut(CPU_ELEMENTS);
        output.enumerate().for_each(|(chunk, output)| {
            simd(
                #[inline(always)]
                || {
                    let mut x = [S::ZERO; CPU_ELEMENTS];
                    for (index, x) in x.iter_mut().enumerate() {
                        *x = S::of((chunk * CPU_ELEMENTS + index) as f64 * factor);
                    }
                    for _ in 0..self.rounds {
                        for x in &mut x {
                            *x = x.multiply_add(a, b);
                        }
                    }
                    output.copy_from_slice(&x[..output.len()]);
                },
            )
        });
    }
}

immediates! {
    struct MultiplyAddImmediates {
        elements: u32,
        rounds: u32,
    }
}

impl Kernels for MultiplyAdd {
    fn candidates(&self) -> Vec<Candidate> {
        let immediates = MultiplyAddImmediates { elements: self.elements as u32, rounds: self.rounds };
        let dispatch = Dispatch {
            shader: "probe_multiply_add",
            constants: vec![("THREADS", THREADS as u32)],
            bindings: bind([self.output]),
            immediates: immediates.into(),
            grid: Grid(vec![Count::Fixed(self.elements / (GPU_ELEMENTS * THREADS))]),
        };
        Candidate::only("registers", dispatch)
    }
}

/// output = input, read and written once.
#[derive(Clone, Debug)]
pub struct Copy {
    /// `[N, 4]`
    pub input: TensorId,
    /// `[N, 4]`, written.
    pub output: TensorId,
    /// N
    pub rows: usize,
}

impl Describe for Copy {
    fn name(&self) -> &'static str {
        "probe_copy"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("input", self.input, Exact, (self.rows, 4)),
            write("output", self.output, Exact, (self.rows, 4)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for Copy {
    fn run(&self, memory: &Memory<'_, S>) {
        const TASK: usize = 1 << 16;
        let input = memory.read(self.input)[..4 * self.rows].par_chunks(TASK);
        let output = memory.write(self.output)[..4 * self.rows].par_chunks_mut(TASK);
        output.zip(input).for_each(|(output, input)| output.copy_from_slice(input));
    }
}

immediates! {
    struct CopyImmediates {
        rows: u32,
    }
}

impl Kernels for Copy {
    fn candidates(&self) -> Vec<Candidate> {
        let dispatch = Dispatch {
            shader: "probe_copy",
            constants: vec![("THREADS", THREADS as u32)],
            bindings: bind([self.input, self.output]),
            immediates: CopyImmediates { rows: self.rows as u32 }.into(),
            grid: Grid(vec![Count::Rows { rows: Rows::fixed(self.rows), per: 4 * THREADS }]),
        };
        Candidate::only("vectors", dispatch)
    }
}
