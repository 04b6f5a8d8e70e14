//! Word, position and segment embeddings, their sum normalised and under dropout: the first op of the model.

use rayon::prelude::*;

use crate::tensor::{Dropout, Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::dropout::RowDropout;
use super::immediates::RowsColumns;
use super::lanes::Lanes;
use super::norm::{Norm, TASK_ROWS, normalise};
use super::norm_kernels::{self, Side};
use super::simd;
use super::tensor_use::{read, table, vector, write};
use super::{Binding, Candidate, CpuOp, Describe, Dispatch, Kernels, Memory, Scalar, TensorUse, bind};

/// sum = word[id] + position[p] + segment[s]; output = dropout(LayerNorm(sum)·weight + bias).
#[derive(Clone, Debug)]
pub struct Embedding {
    /// u32 `[T]`: row of `word`.
    pub ids: TensorId,
    /// u32 `[T]`: position in its sequence, row of `position`.
    pub positions: TensorId,
    /// u32 `[T]`: 0 or 1, row of `segment`.
    pub segments: TensorId,
    /// u32 `[T]`: sequence of each row, for the draws of dropout.
    pub sequences: TensorId,
    /// `[V, E]`
    pub word: TensorId,
    /// `[P, E]`
    pub position: TensorId,
    /// `[2, E]`
    pub segment: TensorId,
    /// `[E]`
    pub weight: TensorId,
    /// `[E]`
    pub bias: TensorId,
    /// `[T, E]`, written; `NormGradient` needs it.
    pub sum: TensorId,
    /// `[T, 2]`, written: mean and 1/σ of each row.
    pub statistics: TensorId,
    /// `[T, E]`, written.
    pub output: TensorId,
    pub rows: Rows,
    pub columns: usize,
    pub epsilon: f32,
    pub dropout: Dropout,
}

impl Describe for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        let mut tensors = vec![
            read("ids", self.ids, Uint, (rows, 1)),
            read("positions", self.positions, Uint, (rows, 1)),
            read("segments", self.segments, Uint, (rows, 1)),
            read("word", self.word, Exact, table(columns)),
            read("position", self.position, Exact, table(columns)),
            read("segment", self.segment, Exact, (2, columns)),
            read("weight", self.weight, Exact, vector(columns)),
            read("bias", self.bias, Exact, vector(columns)),
            write("sum", self.sum, Activation, (rows, columns)),
            write("statistics", self.statistics, Exact, (rows, 2)),
            write("output", self.output, Activation, (rows, columns)),
        ];
        if self.dropout.is_on() {
            tensors.push(read("sequences", self.sequences, Uint, (rows, 1)));
        }
        tensors
    }
}

impl<S: Scalar> CpuOp<S> for Embedding {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let tables = [self.word, self.position, self.segment].map(|id| memory.read(id));
        let indices = [self.ids, self.positions, self.segments].map(|id| memory.read_uint(id));
        let scale_shift = [&memory.read(self.weight)[..c], &memory.read(self.bias)[..c]];
        let epsilon = S::of(f64::from(self.epsilon));
        let dropout = RowDropout::new(memory, self.dropout, Some(self.positions), Some(self.sequences));
        let sum = memory.write(self.sum)[..rows * c].par_chunks_mut(c * TASK_ROWS);
        let statistics = memory.write(self.statistics)[..rows * 2].par_chunks_mut(2 * TASK_ROWS);
        let output = memory.write(self.output)[..rows * c].par_chunks_mut(c * TASK_ROWS);
        sum.zip(statistics).zip(output).enumerate().for_each(|(task, ((sum, statistics), output))| {
            simd(
                #[inline(always)]
                || {
                    let outputs = statistics.chunks_exact_mut(2).zip(output.chunks_exact_mut(c));
                    for (row, (sum, (statistics, output))) in sum.chunks_exact_mut(c).zip(outputs).enumerate()
                    {
                        let at = task * TASK_ROWS + row;
                        let looked_up = |table: usize| &tables[table][indices[table][at] as usize * c..][..c];
                        let [word, position, segment] = [looked_up(0), looked_up(1), looked_up(2)];
                        for (((x, &w), &p), &s) in sum.iter_mut().zip(word).zip(position).zip(segment) {
                            *x = w + p + s;
                        }
                        statistics.copy_from_slice(&normalise(sum, scale_shift, epsilon, output));
                        if let Some(dropout) = dropout {
                            dropout.apply(at, output);
                        }
                    }
                },
            )
        });
    }
}

impl Embedding {
    /// The norm of the sum, on its own.
    fn norm(&self) -> Norm {
        Norm {
            input: self.sum,
            residual: None,
            weight: self.weight,
            bias: self.bias,
            statistics: self.statistics,
            output: self.output,
            rows: self.rows,
            columns: self.columns,
            epsilon: self.epsilon,
            dropout: Dropout::off(),
            positions: Some(self.positions),
            sequences: Some(self.sequences),
        }
    }
}

impl Kernels for Embedding {
    /// Look-ups and norm in two kernels: together they would need twelve bindings of WebGPU's eight.
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let tables = [self.word, self.position, self.segment];
        let mut bindings = bind([self.ids, self.positions, self.segments]);
        bindings.extend(bind(tables));
        bindings.push(self.sum.into());
        let look_up = Dispatch {
            shader: "embedding_forward",
            constants: lanes.constants(),
            bindings,
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: lanes.grid(self.rows),
        };
        // The second kernel normalises what the first has written.
        let sum = Binding::ReadBack(self.sum);
        let candidate = |(strategy, lanes, requires)| Candidate {
            strategy,
            requires,
            dispatches: vec![
                look_up.clone(),
                norm_kernels::forward(&self.norm(), sum, (self.dropout, Side::Output), lanes),
            ],
        };
        norm_kernels::layouts(self.columns).into_iter().map(candidate).collect()
    }
}
