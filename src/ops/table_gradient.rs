//! Gradients of embedding tables: rows of the embeddings' gradient added up by id, position or segment.
//!
//! Without float atomics: every table row has one owner, which adds its rows in a fixed order.

use rayon::prelude::*;

use crate::tensor::{Rows, TensorId};

use super::Kind::{Activation, Exact, Uint};
use super::norm::{add_partials, partial_rows};
use super::tensor_use::{accumulate, read, scratch, starts, table};
use super::{CpuOp, Describe, Memory, Scalar, TensorUse, simd};

/// Partial sums of the segments' gradients: each sums one contiguous block of rows.
pub const SEGMENT_PARTIALS: usize = 128;

/// Table rows a task of the CPU takes at least.
const TASK_IDS: usize = 8;

/// Ends the list of distinct ids (`WordGradient::ids`).
pub use super::constants::NO_ID;

/// table[id] += Σ of the gradient's rows listed for that id.
///
/// The lists are made with the batch: sorted by id, the rows of an id in ascending order.
#[derive(Clone, Debug)]
pub struct WordGradient {
    /// `[T, E]`
    pub gradient: TensorId,
    /// `[V, E]`, accumulated.
    pub table: TensorId,
    /// u32 `[T]`: the distinct ids, then [`NO_ID`] (none behind the last row in use).
    pub ids: TensorId,
    /// u32 `[T + 1]`: where each id's rows start in `list`; one more behind the last id.
    pub starts: TensorId,
    /// u32 `[T]`: rows of `gradient`.
    pub list: TensorId,
    /// Tokens.
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for WordGradient {
    fn name(&self) -> &'static str {
        "word_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        vec![
            read("gradient", self.gradient, Activation, (rows, columns)),
            read("ids", self.ids, Uint, (rows, 1)),
            read("starts", self.starts, Uint, starts(rows)),
            read("list", self.list, Uint, (rows, 1)),
            accumulate("table", self.table, Exact, table(columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for WordGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let gradient = memory.read(self.gradient);
        let ids = &memory.read_uint(self.ids)[..rows];
        let distinct = ids.iter().position(|&id| id == NO_ID).unwrap_or(rows);
        let (starts, list) = (memory.read_uint(self.starts), memory.read_uint(self.list));
        let runs = (0..distinct).map(|i| (ids[i], &list[starts[i] as usize..starts[i + 1] as usize]));
        let table = memory.write(self.table);
        add_runs(table, self.columns, gradient, &runs.collect::<Vec<_>>());
    }
}

/// table[sampled[m]] += gradient[masked_rows[m]] over all masked slots in use: the rows of the discriminator's
/// input whose ids were drawn on the device, so that the batch cannot bring them sorted.
#[derive(Clone, Debug)]
pub struct SampledWordGradient {
    /// `[T, E]`
    pub gradient: TensorId,
    /// `[V, E]`, accumulated.
    pub table: TensorId,
    /// u32 `[M]`: ids.
    pub sampled: TensorId,
    /// u32 `[M]`: rows of `gradient`.
    pub masked_rows: TensorId,
    /// Masked slots.
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for SampledWordGradient {
    fn name(&self) -> &'static str {
        "sampled_word_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("gradient", self.gradient, Activation, table(self.columns)),
            read("sampled", self.sampled, Uint, (self.rows, 1)),
            read("masked_rows", self.masked_rows, Uint, (self.rows, 1)),
            accumulate("table", self.table, Exact, table(self.columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for SampledWordGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let slots = self.rows.count(&memory.extents());
        let sampled = &memory.read_uint(self.sampled)[..slots];
        let masked_rows = memory.read_uint(self.masked_rows);
        // A stable sort: the slots of an id stay in order, as the kernel adds them.
        let mut order: Vec<(u32, u32)> = sampled.iter().copied().zip(masked_rows.iter().copied()).collect();
        order.sort_by_key(|&(id, _)| id);
        let rows: Vec<u32> = order.iter().map(|&(_, row)| row).collect();
        let mut runs = Vec::new();
        let mut start = 0;
        for run in order.chunk_by(|a, b| a.0 == b.0) {
            runs.push((run[0].0, &rows[start..start + run.len()]));
            start += run.len();
        }
        add_runs(memory.write(self.table), self.columns, memory.read(self.gradient), &runs);
    }
}

/// table[id] += Σ gradient[row] for each (id, rows), ids ascending.
fn add_runs<S: Scalar>(table: &mut [S], columns: usize, gradient: &[S], runs: &[(u32, &[u32])]) {
    // Cuts the table between tasks; ids ascend, so that each task's part of it is contiguous.
    let mut tasks = Vec::with_capacity(runs.len().div_ceil(TASK_IDS));
    let (mut rest, mut first) = (table, 0);
    for runs in runs.chunks(TASK_IDS) {
        let end = runs[runs.len() - 1].0 as usize + 1;
        let (part, behind) = rest.split_at_mut((end - first) * columns);
        tasks.push((part, first, runs));
        (rest, first) = (behind, end);
    }
    tasks.into_par_iter().for_each(|(part, first, runs)| {
        simd(
            #[inline(always)]
            || {
                for &(id, rows) in runs {
                    let to = &mut part[(id as usize - first) * columns..][..columns];
                    add_rows(to, gradient, rows.iter().map(|&row| row as usize));
                }
            },
        )
    });
}

/// `to += Σ gradient[row]`, in blocks of 64 rows so that rounding errors grow with the blocks only.
#[inline(always)]
fn add_rows<S: Scalar>(to: &mut [S], gradient: &[S], rows: impl Iterator<Item = usize> + Clone) {
    const STRIP: usize = 64;
    const BLOCK: usize = 64;
    let columns = to.len();
    for (strip, to) in to.chunks_mut(STRIP).enumerate() {
        let mut partial = [S::ZERO; STRIP];
        let mut count = 0;
        for row in rows.clone() {
            let from = &gradient[row * columns + strip * STRIP..][..to.len()];
            for (sum, &x) in partial.iter_mut().zip(from) {
                *sum += x;
            }
            count += 1;
            if count % BLOCK == 0 {
                add(to, &partial);
                partial = [S::ZERO; STRIP];
            }
        }
        add(to, &partial);
    }
}

#[inline(always)]
fn add<S: Scalar>(to: &mut [S], from: &[S]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// table[p] += Σ of gradient[starts[b] + p] over the sequences b longer than p.
#[derive(Clone, Debug)]
pub struct PositionGradient {
    /// `[T, E]`
    pub gradient: TensorId,
    /// `[P, E]`, accumulated.
    pub table: TensorId,
    /// u32 `[B + 1]`: first row of each sequence (`cu_seqlens`).
    pub starts: TensorId,
    pub sequences: Rows,
    /// Rows of the table.
    pub positions: usize,
    pub columns: usize,
}

impl Describe for PositionGradient {
    fn name(&self) -> &'static str {
        "position_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("gradient", self.gradient, Activation, table(self.columns)),
            read("starts", self.starts, Uint, starts(self.sequences)),
            accumulate("table", self.table, Exact, (self.positions, self.columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for PositionGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let sequences = self.sequences.count(&memory.extents());
        let c = self.columns;
        let gradient = memory.read(self.gradient);
        let starts = &memory.read_uint(self.starts)[..sequences + 1];
        let table = &mut memory.write(self.table)[..self.positions * c];
        table.par_chunks_mut(TASK_IDS * c).enumerate().for_each(|(task, table)| {
            simd(
                #[inline(always)]
                || {
                    for (row, to) in table.chunks_exact_mut(c).enumerate() {
                        let position = task * TASK_IDS + row;
                        let at = |pair: &[u32]| {
                            let row = pair[0] as usize + position;
                            (row < pair[1] as usize).then_some(row)
                        };
                        add_rows(to, gradient, starts.windows(2).filter_map(at));
                    }
                },
            )
        });
    }
}

/// table[s] += Σ of the gradient's rows in segment s.
#[derive(Clone, Debug)]
pub struct SegmentGradient {
    /// `[T, E]`
    pub gradient: TensorId,
    /// `[2, E]`, accumulated.
    pub table: TensorId,
    /// u32 `[T]`: 0 or 1.
    pub segments: TensorId,
    /// Scratch `[SEGMENT_PARTIALS, 2E]`.
    pub partials: TensorId,
    /// Tokens.
    pub rows: Rows,
    pub columns: usize,
}

impl Describe for SegmentGradient {
    fn name(&self) -> &'static str {
        "segment_gradient"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, columns) = (self.rows, self.columns);
        vec![
            read("gradient", self.gradient, Activation, (rows, columns)),
            read("segments", self.segments, Uint, (rows, 1)),
            accumulate("table", self.table, Exact, (2, columns)),
            scratch("partials", self.partials, Exact, (SEGMENT_PARTIALS, 2 * columns)),
        ]
    }
}

impl<S: Scalar> CpuOp<S> for SegmentGradient {
    fn run(&self, memory: &Memory<'_, S>) {
        let rows = self.rows.count(&memory.extents());
        let c = self.columns;
        let block = partial_rows(rows, SEGMENT_PARTIALS);
        let gradient = memory.read(self.gradient)[..rows * c].par_chunks(block * c);
        let segments = memory.read_uint(self.segments)[..rows].par_chunks(block);
        let partials = &mut memory.write(self.partials)[..rows.div_ceil(block) * 2 * c];
        partials.par_chunks_mut(2 * c).zip(gradient).zip(segments).for_each(
            |((partial, gradient), segments)| {
                simd(
                    #[inline(always)]
                    || {
                        partial.fill(S::ZERO);
                        for (gradient, &segment) in gradient.chunks_exact(c).zip(segments) {
                            add(&mut partial[segment as usize * c..][..c], gradient);
                        }
                    },
                )
            },
        );
        add_partials(partials, 2 * c, 0, &mut memory.write(self.table)[..2 * c]);
    }
}
