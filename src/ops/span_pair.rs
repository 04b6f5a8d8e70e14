//! Each token beside one chosen token of its sequence: what the end of an answer is judged by, given its start.

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::{Activation, Uint};
use super::immediates::{RowsColumns, immediates};
use super::lanes::Lanes;
use super::simd;
use super::spans::by_sequence;
use super::tensor_use::{read, starts, write};
use super::{
    Binding, Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind,
};

/// Rows a task of the CPU copies.
const TASK_ROWS: usize = 64;

/// output[t] = hidden[starts[b] + chosen[b]] ‖ hidden[t], b the sequence of row t.
#[derive(Clone, Debug)]
pub struct SpanPair {
    /// `[T, H]`
    pub hidden: TensorId,
    /// u32 `[B + 1]`: first packed row of each sequence, and T.
    pub starts: TensorId,
    /// u32 `[B]`: a position within each sequence.
    pub chosen: TensorId,
    /// u32 `[T]`: the local sequence of each row.
    pub sequence_of_row: TensorId,
    /// `[T, 2H]`, written.
    pub output: TensorId,
    pub sequences: Rows,
    pub tokens: Rows,
    /// H
    pub columns: usize,
}

/// With c_t ‖ h_t the gradient of row t of the output: hidden_gradient[t] = residual[t] + h_t, and Σ c_t′ over
/// the rows t′ of the sequence besides, where t is its chosen row.
#[derive(Clone, Debug)]
pub struct SpanPairGradient {
    /// `[T, 2H]`
    pub output_gradient: TensorId,
    pub starts: TensorId,
    pub chosen: TensorId,
    /// `[T, H]`, added: what else flows back into the hidden rows.
    pub residual: Option<TensorId>,
    /// `[T, H]`, written for every row in use.
    pub hidden_gradient: TensorId,
    pub sequences: Rows,
    pub tokens: Rows,
    /// H
    pub columns: usize,
}

impl Describe for SpanPair {
    fn name(&self) -> &'static str {
        "span_pair"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, columns) = (self.tokens, self.columns);
        vec![
            read("hidden", self.hidden, Activation, (tokens, columns)),
            read("starts", self.starts, Uint, starts(self.sequences)),
            read("chosen", self.chosen, Uint, (self.sequences, 1)),
            read("sequence_of_row", self.sequence_of_row, Uint, (tokens, 1)),
            write("output", self.output, Activation, (tokens, 2 * columns)),
        ]
    }
}

impl Describe for SpanPairGradient {
    fn name(&self) -> &'static str {
        "span_pair_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (tokens, columns) = (self.tokens, self.columns);
        let mut tensors = vec![
            read("output_gradient", self.output_gradient, Activation, (tokens, 2 * columns)),
            read("starts", self.starts, Uint, starts(self.sequences)),
            read("chosen", self.chosen, Uint, (self.sequences, 1)),
            write("hidden_gradient", self.hidden_gradient, Activation, (tokens, columns)),
        ];
        tensors
            .extend(self.residual.map(|residual| read("residual", residual, Activation, (tokens, columns))));
        tensors
    }
}

impl<S: Scalar> CpuOp<S> for SpanPair {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.tokens.count(&memory.extents()), self.columns);
        let hidden = memory.read(self.hidden);
        let (starts, chosen) = (memory.read_uint(self.starts), memory.read_uint(self.chosen));
        let sequences = memory.read_uint(self.sequence_of_row)[..count].par_chunks(TASK_ROWS);
        let hidden_rows = hidden[..count * c].par_chunks(TASK_ROWS * c);
        let output = memory.write(self.output)[..count * 2 * c].par_chunks_mut(TASK_ROWS * 2 * c);
        output.zip(hidden_rows).zip(sequences).for_each(|((output, rows), sequences)| {
            let rows = rows.chunks_exact(c).zip(sequences);
            for (to, (row, &sequence)) in output.chunks_exact_mut(2 * c).zip(rows) {
                let chosen = (starts[sequence as usize] + chosen[sequence as usize]) as usize;
                to[..c].copy_from_slice(&hidden[chosen * c..][..c]);
                to[c..].copy_from_slice(row);
            }
        });
    }
}

impl<S: Scalar> CpuOp<S> for SpanPairGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let (count, c) = (self.sequences.count(&memory.extents()), self.columns);
        let starts = &memory.read_uint(self.starts)[..=count];
        let chosen = &memory.read_uint(self.chosen)[..count];
        let gradient = memory.read(self.output_gradient);
        let residual = self.residual.map(|residual| memory.read(residual));
        let parts = by_sequence(memory.write(self.hidden_gradient), starts, c);
        parts.into_par_iter().zip(starts.par_windows(2)).zip(chosen).for_each(|((to, span), &chosen)| {
            let (first, end) = (span[0] as usize, span[1] as usize);
            let residual = residual.map(|residual| &residual[first * c..end * c]);
            simd(
                #[inline(always)]
                || sequence_gradient(to, &gradient[first * 2 * c..end * 2 * c], residual, chosen as usize, c),
            )
        });
    }
}

/// The rows of one sequence: `to` and `residual` `[t, c]`, `gradient` `[t, 2c]`.
#[inline(always)]
fn sequence_gradient<S: Scalar>(
    to: &mut [S],
    gradient: &[S],
    residual: Option<&[S]>,
    chosen: usize,
    c: usize,
) {
    match residual {
        Some(residual) => to.copy_from_slice(residual),
        None => to.fill(S::ZERO),
    }
    for (to, gradient) in to.chunks_exact_mut(c).zip(gradient.chunks_exact(2 * c)) {
        for (to, &g) in to.iter_mut().zip(&gradient[c..]) {
            *to += g;
        }
    }
    let target = &mut to[chosen * c..][..c];
    for gradient in gradient.chunks_exact(2 * c) {
        for (to, &g) in target.iter_mut().zip(&gradient[..c]) {
            *to += g;
        }
    }
}

immediates! {
    /// Of kernels whose workgroups take a block of the channels of a sequence.
    pub(super) struct BlockImmediates {
        shape: RowsColumns,
        blocks: u32,
    }
}

impl BlockImmediates {
    pub(super) fn new(sequences: Rows, columns: usize, lanes: Lanes) -> Self {
        BlockImmediates { shape: RowsColumns::new(sequences, columns), blocks: lanes.per_thread() as u32 }
    }
}

impl Kernels for SpanPair {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::elementwise(self.columns);
        let dispatch = Dispatch {
            shader: "span_pair",
            constants: lanes.constants(),
            bindings: bind([self.hidden, self.starts, self.chosen, self.sequence_of_row, self.output]),
            immediates: RowsColumns::new(self.tokens, self.columns).into(),
            grid: lanes.grid(self.tokens),
        };
        Candidate::only("rows", dispatch)
    }
}

impl Kernels for SpanPairGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::new(self.columns, 16, 256);
        let mut constants = lanes.constants();
        constants.push(("RESIDUAL", u32::from(self.residual.is_some())));
        let mut bindings = bind([self.output_gradient, self.starts, self.chosen, self.hidden_gradient]);
        bindings.extend(self.residual.map(Binding::from));
        let immediates = BlockImmediates::new(self.sequences, self.columns, lanes).into();
        let blocks = Count::Fixed(lanes.per_thread());
        let dispatch = Dispatch {
            shader: "span_pair_gradient",
            constants,
            bindings,
            immediates,
            grid: Grid(vec![Count::Rows { rows: self.sequences, per: 1 }, blocks]),
        };
        Candidate::only("blocks of channels", dispatch)
    }
}
