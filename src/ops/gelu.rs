//! GELU in its exact form x·Φ(x), element by element: where no matrix product has it in its epilogue.

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::Activation;
use super::immediates::RowsColumns;
use super::lanes::Lanes;
use super::simd;
use super::tensor_use::{read, write};
use super::{Candidate, CpuOp, Describe, Dispatch, Kernels, Memory, Scalar, TensorUse, bind};

/// Elements a task of the CPU computes.
const TASK_ELEMENTS: usize = 8192;

/// output = gelu(input).
#[derive(Clone, Debug)]
pub struct Gelu {
    /// `[R, C]`
    pub input: TensorId,
    /// `[R, C]`, written.
    pub output: TensorId,
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let shape = (self.rows, self.columns);
        vec![read("input", self.input, Activation, shape), write("output", self.output, Activation, shape)]
    }
}

impl<S: Scalar> CpuOp<S> for Gelu {
    fn run(&self, memory: &Memory<'_, S>) {
        let elements = self.rows.count(&memory.extents()) * self.columns;
        let input = memory.read(self.input)[..elements].par_chunks(TASK_ELEMENTS);
        let output = memory.write(self.output)[..elements].par_chunks_mut(TASK_ELEMENTS);
        output.zip(input).for_each(|(output, input)| {
            simd(
                #[inline(always)]
                || {
                    for (y, &x) in output.iter_mut().zip(input) {
                        *y = x.gelu();
                    }
                },
            )
        });
    }
}

/// input_gradient = output_gradient · gelu′(input).
#[derive(Clone, Debug)]
pub struct GeluGradient {
    /// `[R, C]`
    pub input: TensorId,
    /// `[R, C]`
    pub output_gradient: TensorId,
    /// `[R, C]`, written.
    pub input_gradient: TensorId,
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for GeluGradient {
    fn name(&self) -> &'static str {
        "gelu_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let shape = (self.rows, self.columns);
        vec![
            read("input", self.input, Activation, shape),
            read("output_gradient", self.output_gradient, Activation, shape),
            write("input_gradient", self.input_gradient, Activation, shape),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for GeluGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let elements = self.rows.count(&memory.extents()) * self.columns;
        let input = memory.read(self.input)[..elements].par_chunks(TASK_ELEMENTS);
        let gradient = memory.read(self.output_gradient)[..elements].par_chunks(TASK_ELEMENTS);
        let output = memory.write(self.input_gradient)[..elements].par_chunks_mut(TASK_ELEMENTS);
        output.zip(input).zip(gradient).for_each(|((output, input), gradient)| {
            simd(
                #[inline(always)]
                || {
                    for ((y, &x), &g) in output.iter_mut().zip(input).zip(gradient) {
                        *y = g * x.gelu_derivative();
                    }
                },
            )
        });
    }
}

impl Kernels for Gelu {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let mut constants = lanes.constants();
        constants.push(("GRADIENT", 0));
        let dispatch = Dispatch {
            shader: "gelu",
            constants,
            bindings: bind([self.input, self.output]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}

impl Kernels for GeluGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let mut constants = lanes.constants();
        constants.push(("GRADIENT", 1));
        let dispatch = Dispatch {
            shader: "gelu",
            constants,
            bindings: bind([self.input, self.input_gradient, self.output_gradient]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        Candidate::only("rows", dispatch)
    }
}
