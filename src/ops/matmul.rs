//! Matrix products, with what follows them in the model fused into the epilogue.
//!
//! Three forms cover forward and backward of a dense layer y = x·Wᵀ + b with W `[out, in]`:
//!
//! | form | product | use |
//! |---|---|---|
//! | `Nt` | C[m,n] = A[m,k] · B[n,k]ᵀ | y = x·Wᵀ |
//! | `Nn` | C[m,n] = A[m,k] · B[k,n]  | dx = dy·W |
//! | `Tn` | C[m,n] += A[k,m]ᵀ · B[k,n] | dW += dyᵀ·x, and db += column sums of dy |

use std::ops::Range;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::tensor::{Extents, Rows, TensorId};

use super::Kind::{Activation, Exact};
use super::scalar::Strided;
use super::strip::Strip;
use super::tensor_use::{accumulate, part, read, scratch, vector, write};
use super::{CpuOp, Describe, Memory, Scalar, TensorUse, simd};

mod cooperative;
mod kernels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Nt,
    Nn,
    Tn,
}

/// A tensor, from one of its rows on.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub tensor: TensorId,
    pub first_row: usize,
}

impl From<TensorId> for Operand {
    fn from(tensor: TensorId) -> Self {
        Operand { tensor, first_row: 0 }
    }
}

/// What is done to the product before it is written. The bias has n elements; the other tensors have C's shape.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue {
    None,
    /// C = AB + bias.
    Bias(TensorId),
    /// before = AB + bias, C = gelu(before).
    BiasGelu {
        bias: TensorId,
        before: TensorId,
    },
    /// C = AB · gelu′(before), before = gelu(before): backward of `BiasGelu`. The product that follows, for the
    /// gradient of the weights behind the GELU, takes its output from there; nothing else kept it.
    GeluGradient {
        before: TensorId,
    },
    /// C = AB + residual: the join of two gradients.
    Add(TensorId),
}

/// Tiles of 64 × 64 that split products are to make together, and the most parts.
///
/// More fill larger cards and cost memory: partial sums take up to 16 KiB a tile, 16 MiB a product here, and fewer products
/// then wait to be added up together (`plan::sums`). On an H100, gradients of weights of 64 × 64 to 256 × 64 take 5.4 ms of a step of `small` with 512
/// tiles in at most 32 parts and 2.6 ms with 128 parts; 1,024 tiles save another half a millisecond in all products.
pub const FILL: usize = 1024;
const MOST_SPLITS: usize = 128;

/// One matrix product.
#[derive(Clone, Debug)]
pub struct MatMul {
    pub form: Form,
    pub a: Operand,
    pub b: Operand,
    pub c: Operand,
    /// The dimension that varies from step to step: m for `Nt` and `Nn`, k for `Tn`.
    pub rows: Rows,
    /// Columns of C.
    pub n: usize,
    /// k for `Nt` and `Nn`, m for `Tn`.
    pub inner: usize,
    pub epilogue: Epilogue,
    /// `Tn` only: gradient of the bias, += column sums of A.
    pub bias_gradient: Option<TensorId>,
    /// Partial sums of k in parts, `[splits, m·n]` (`Tn`: `[splits, m·n + m]`), and how many: fixed by the shapes (see
    /// `splits`), so that the order of summation is the same on every device. `PlanBuilder::product` sets them.
    pub partials: Option<(TensorId, usize)>,
}

impl MatMul {
    /// Rows of C in use: m of the product.
    fn m(&self, extents: &Extents) -> usize {
        match self.form {
            Form::Tn => self.inner,
            _ => self.rows.count(extents),
        }
    }

    /// Rows of C.
    fn rows_of_c(&self) -> Rows {
        match self.form {
            Form::Tn => Rows::fixed(self.inner),
            _ => self.rows,
        }
    }

    fn k(&self, extents: &Extents) -> usize {
        match self.form {
            Form::Tn => self.rows.count(extents),
            _ => self.inner,
        }
    }

    /// Elements of C: those of a part of k, with the sums for the bias behind them.
    pub fn part(&self) -> usize {
        match self.form {
            Form::Tn => self.inner * self.n + self.inner,
            _ => self.rows.capacity * self.n,
        }
    }

    /// Into how many parts of k this product is split, for `fill` tiles of 64 × 64 in all: a GPU is idle where C has few
    /// tiles, and where the loop over k is long it waits for that loop.
    ///
    /// - Gradients of weights (`Tn`): parts of at least 256.
    /// - Products of rows: parts of at least 128, where there are so few rows that eight parts and more do not fill the
    ///   GPU, and the loop is long enough (512) to pay for another dispatch. On an H100 16 rows take 25 µs at k = 256 and
    ///   82 µs at k = 1024, 75 ns for each k; a small dispatch takes 6 to 13.
    pub fn splits(&self, fill: usize) -> usize {
        let (m, k) = match self.form {
            Form::Tn => (self.inner, self.rows.capacity),
            _ => (self.rows.capacity, self.inner),
        };
        let tiles = m.div_ceil(64) * self.n.div_ceil(64);
        let parts = fill / tiles.max(1);
        let most = match self.form {
            Form::Tn => k / 256,
            _ if parts >= 8 && k >= 512 => k / 128,
            _ => 1,
        };
        parts.min(most).clamp(1, MOST_SPLITS)
    }
}

impl Describe for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn tensors(&self) -> Vec<TensorUse> {
        let (rows, n, inner) = (self.rows, self.n, self.inner);
        let (weights, of_c) = (Rows::fixed, self.rows_of_c());
        let (b_rows, b_columns, a_columns) = match self.form {
            Form::Nt => (weights(n), inner, inner),
            Form::Nn => (weights(inner), n, inner),
            Form::Tn => (rows, n, inner),
        };
        let operand = |operand: Operand, rows, columns| part(operand.first_row, rows, columns);
        let mut tensors = vec![
            read("a", self.a.tensor, Activation, operand(self.a, rows, a_columns)),
            read("b", self.b.tensor, Activation, operand(self.b, b_rows, b_columns)),
        ];
        let of_c_part = operand(self.c, of_c, n);
        tensors.push(match self.form {
            Form::Tn => accumulate("c", self.c.tensor, Exact, of_c_part),
            _ => write("c", self.c.tensor, Activation, of_c_part),
        });
        match self.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) => tensors.push(read("bias", bias, Exact, vector(n))),
            Epilogue::BiasGelu { bias, before } => {
                tensors.push(read("bias", bias, Exact, vector(n)));
                tensors.push(write("before", before, Activation, (of_c, n)));
            }
            Epilogue::GeluGradient { before } => {
                tensors.push(accumulate("before", before, Activation, (of_c, n)));
            }
            Epilogue::Add(residual) => tensors.push(read("residual", residual, Activation, (of_c, n))),
        }
        if let Some(bias) = self.bias_gradient {
            tensors.push(accumulate("bias_gradient", bias, Exact, vector(inner)));
        }
        if let Some((partials, splits)) = self.partials {
            tensors.push(scratch("partials", partials, Exact, (splits, self.part())));
        }
        tensors
    }

    fn check(&self) -> Result<()> {
        let epilogue = self.form != Form::Tn || matches!(self.epilogue, Epilogue::None);
        ensure!(epilogue, "{:?} has no epilogue, and this one has {:?}", self.form, self.epilogue);
        let rows_of_a = self.form == Form::Tn || self.bias_gradient.is_none();
        ensure!(rows_of_a, "{:?} has no gradient of a bias", self.form);
        Ok(())
    }

    fn flops(&self, extents: &Extents) -> f64 {
        2.0 * self.m(extents) as f64 * self.n as f64 * self.k(extents) as f64
    }
}

/// Rows and columns of C that a task of the CPU computes: from the shapes alone, so that results do not depend on
/// the threads.
///
/// A task packs its part of both operands for itself, which costs less the larger the tile is on both sides: at 64
/// rows and all columns a third of the time went into that. A few tasks for each core must be left.
fn task_tile(m: usize, n: usize) -> [usize; 2] {
    const TASKS: usize = 8;
    let tasks = |[rows, columns]: [usize; 2]| m.div_ceil(rows) * n.div_ceil(columns);
    // At least 16, also where there are no rows.
    let mut tile = [m, n].map(|size| size.next_multiple_of(16).clamp(16, 256));
    while tasks(tile) < TASKS && tile != [32.min(tile[0]), 32.min(tile[1])] {
        let longer = usize::from(tile[1] >= tile[0]);
        tile[longer] = (tile[longer] / 2).next_multiple_of(16);
    }
    tile
}

impl<S: Scalar> CpuOp<S> for MatMul {
    fn run(&self, memory: &Memory<'_, S>) {
        let extents = memory.extents();
        let (m, n, k) = (self.m(&extents), self.n, self.k(&extents));
        let (a_columns, b_columns) = match self.form {
            Form::Nt => (k, k),
            Form::Nn => (k, n),
            Form::Tn => (m, n),
        };
        let a = &memory.read(self.a.tensor)[self.a.first_row * a_columns..][..m * k];
        let b = &memory.read(self.b.tensor)[self.b.first_row * b_columns..][..n * k];
        let c = memory.write(self.c.tensor)[self.c.first_row * n..][..m * n].as_mut_ptr();
        let c = Strip::new(c, n, 0, n);
        let before = match self.epilogue {
            Epilogue::BiasGelu { before, .. } | Epilogue::GeluGradient { before } => {
                memory.write(before)[..m * n].as_mut_ptr()
            }
            _ => std::ptr::null_mut(),
        };
        let before = Strip::new(before, n, 0, n);
        let [rows, columns] = task_tile(m, n);
        let across = n.div_ceil(columns);
        (0..m.div_ceil(rows) * across).into_par_iter().for_each(|task| {
            let (row, column) = (task / across * rows, task % across * columns);
            let (rows, columns) = (row..m.min(row + rows), column..n.min(column + columns));
            let a = match self.form {
                Form::Tn => Strided { pointer: a.as_ptr().wrapping_add(row), row: 1, column: m },
                _ => Strided { pointer: a.as_ptr().wrapping_add(row * k), row: k, column: 1 },
            };
            let b = match self.form {
                Form::Nt => Strided { pointer: b.as_ptr().wrapping_add(column * k), row: 1, column: k },
                _ => Strided { pointer: b.as_ptr().wrapping_add(column), row: n, column: 1 },
            };
            let [c, before] = [c, before].map(|matrix| Strip::new(matrix.at(0), n, column, columns.len()));
            // SAFETY: the slices cover the extents these strides reach, and of what is written this task's
            // rectangle is its own.
            unsafe {
                if k == 0 && self.form != Form::Tn {
                    rows.clone().for_each(|row| c.row_mut(row).fill(S::ZERO));
                } else {
                    let add = self.form == Form::Tn;
                    S::gemm([rows.len(), columns.len(), k], c.at(row), n, add, a, b);
                }
            }
            simd(
                #[inline(always)]
                || {
                    // SAFETY: as above.
                    unsafe { self.finish(memory, rows, columns, c, before) }
                },
            );
        });
        if let Some(bias) = self.bias_gradient {
            add_column_sums(a, m, memory.write(bias));
        }
    }
}

impl MatMul {
    /// The epilogue on a rectangle of C: rows `rows` of the strips, which hold columns `columns`.
    ///
    /// # Safety
    /// The rectangle of `c`, and of `before` where the epilogue has it, must exist, and nobody else may touch it
    /// meanwhile.
    #[inline(always)]
    unsafe fn finish<S: Scalar>(
        &self,
        memory: &Memory<'_, S>,
        rows: Range<usize>,
        columns: Range<usize>,
        c: Strip<S>,
        before: Strip<S>,
    ) {
        let n = self.n;
        match self.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) => {
                let bias = &memory.read(bias)[columns.clone()];
                for row in rows {
                    // SAFETY: the caller's promise.
                    for (c, &b) in unsafe { c.row_mut(row) }.iter_mut().zip(bias) {
                        *c += b;
                    }
                }
            }
            Epilogue::BiasGelu { bias, .. } => {
                let bias = &memory.read(bias)[columns.clone()];
                for row in rows {
                    // SAFETY: the caller's promise.
                    let (c, before) = unsafe { (c.row_mut(row), before.row_mut(row)) };
                    for ((c, before), &b) in c.iter_mut().zip(before).zip(bias) {
                        *before = *c + b;
                        *c = before.gelu();
                    }
                }
            }
            Epilogue::GeluGradient { .. } => {
                for row in rows {
                    // SAFETY: the caller's promise.
                    let (c, before) = unsafe { (c.row_mut(row), before.row_mut(row)) };
                    for (c, x) in c.iter_mut().zip(before) {
                        let (value, derivative) = x.gelu_and_derivative();
                        *c *= derivative;
                        *x = value;
                    }
                }
            }
            Epilogue::Add(residual) => {
                let residual = memory.read(residual);
                for row in rows {
                    let residual = &residual[row * n..][columns.clone()];
                    // SAFETY: the caller's promise.
                    for (c, &r) in unsafe { c.row_mut(row) }.iter_mut().zip(residual) {
                        *c += r;
                    }
                }
            }
        }
    }
}

/// `sums[j] += Σ_i rows[i, j]`, in blocks of 128 rows so that rounding errors grow with √ of the blocks only.
pub(super) fn add_column_sums<S: Scalar>(rows: &[S], columns: usize, sums: &mut [S]) {
    const STRIP: usize = 64;
    sums[..columns].par_chunks_mut(STRIP).enumerate().for_each(|(strip, sums)| {
        simd(
            #[inline(always)]
            || {
                let first = strip * STRIP;
                for block in rows.chunks(128 * columns) {
                    let mut partial = [S::ZERO; STRIP];
                    for row in block.chunks_exact(columns) {
                        for (p, &x) in partial.iter_mut().zip(&row[first..first + sums.len()]) {
                            *p += x;
                        }
                    }
                    for (sum, &p) in sums.iter_mut().zip(&partial) {
                        *sum += p;
                    }
                }
            },
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Extent;

    fn splits(form: Form, rows: usize, n: usize, inner: usize) -> usize {
        let rows = Rows::of(Extent::Tokens, rows);
        let [a, b, c] = [0, 1, 2].map(|id| TensorId(id).into());
        let (epilogue, bias_gradient, partials) = (Epilogue::None, None, None);
        MatMul { form, a, b, c, rows, n, inner, epilogue, bias_gradient, partials }.splits(FILL)
    }

    #[test]
    fn gradients_of_weights_are_split_until_they_fill_a_gpu() {
        for (n, inner, expected) in
            [(1024, 256, 16), (256, 256, 64), (64, 256, 128), (64, 64, 128), (32, 8, 128)]
        {
            assert_eq!(splits(Form::Tn, 32_768, n, inner), expected, "{inner}×{n}");
        }
        // A vocabulary fills it; 511 rows are one part.
        assert_eq!(splits(Form::Tn, 5_056, 128, 32_000), 1);
        assert_eq!(splits(Form::Tn, 511, 64, 64), 1);
        assert_eq!(splits(Form::Tn, 2_048, 64, 64), 8);
    }

    #[test]
    fn few_rows_are_split_and_many_are_not() {
        for form in [Form::Nt, Form::Nn] {
            for (rows, n, inner, expected) in [
                (16, 256, 1024, 8),
                (16, 256, 768, 6),
                (16, 256, 512, 4),
                (16, 1024, 256, 1),
                (2_048, 256, 1024, 8),
                (2_049, 256, 1024, 1),
                (32_768, 256, 1024, 1),
                (8_192, 768, 3072, 1),
                // The gradient of the input of a chunk of logits.
                (262, 128, 32_000, 102),
            ] {
                assert_eq!(splits(form, rows, n, inner), expected, "{rows}×{n}, k = {inner}");
            }
        }
    }
}
