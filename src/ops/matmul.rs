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

use rayon::prelude::*;

use crate::tensor::{Extents, Rows, TensorId};

use super::scalar::Strided;
use super::{
    Binding, Candidate, Count, CpuOp, Describe, Dispatch, Grid, Io, Kernels, Memory, Requirements, Scalar,
};
use super::{read, simd, write};

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
    /// C = AB · gelu′(before): the way back through `BiasGelu`.
    GeluGradient {
        before: TensorId,
    },
    /// C = AB + residual: the join of two gradients.
    Add(TensorId),
}

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
    /// `Nn` without epilogue and `Tn`: partial sums for split-K, `[splits, m·n]` and `[splits, m·n + m]`; the number
    /// of splits is fixed by the shapes, so that the order of summation is the same on every device.
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

    fn k(&self, extents: &Extents) -> usize {
        match self.form {
            Form::Tn => self.rows.count(extents),
            _ => self.inner,
        }
    }

    /// How many parts of K a product of this shape is split into: enough tiles of 64×64 to fill a GPU (8 for each of
    /// 60 compute units), never parts of fewer than 256.
    pub fn splits(m: usize, n: usize, k: usize) -> usize {
        let tiles = m.div_ceil(64) * n.div_ceil(64);
        (512 / tiles.max(1)).min(k / 256).clamp(1, 32)
    }
}

impl Describe for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn io(&self) -> Io {
        let mut io = Io { reads: vec![self.a.tensor, self.b.tensor], ..Io::default() };
        match self.form {
            Form::Tn => io.updates.push(self.c.tensor),
            _ => io.writes.push(self.c.tensor),
        }
        match self.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(tensor) | Epilogue::Add(tensor) => io.reads.push(tensor),
            Epilogue::BiasGelu { bias, before } => {
                io.reads.push(bias);
                io.writes.push(before);
            }
            Epilogue::GeluGradient { before } => io.reads.push(before),
        }
        io.updates.extend(self.bias_gradient);
        io.scratch.extend(self.partials.map(|(tensor, _)| tensor));
        io
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

/// A matrix that tasks write disjoint rectangles of.
#[derive(Clone, Copy)]
struct Shared<S> {
    pointer: *mut S,
    /// Elements from row to row.
    columns: usize,
}

// SAFETY: see `row`.
unsafe impl<S: Send> Send for Shared<S> {}
unsafe impl<S: Sync> Sync for Shared<S> {}

impl<S> Shared<S> {
    fn at(&self, row: usize, column: usize) -> *mut S {
        self.pointer.wrapping_add(row * self.columns + column)
    }

    /// # Safety
    /// The elements must exist, and nobody else may touch them meanwhile.
    #[inline(always)]
    unsafe fn row<'a>(&self, row: usize, columns: &Range<usize>) -> &'a mut [S] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, columns.start), columns.len()) }
    }
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
        let c = &mut memory.write(self.c.tensor)[self.c.first_row * n..][..m * n];
        let c = Shared { pointer: c.as_mut_ptr(), columns: n };
        let before = match self.epilogue {
            Epilogue::BiasGelu { before, .. } => memory.write(before)[..m * n].as_mut_ptr(),
            _ => std::ptr::null_mut(),
        };
        let before = Shared { pointer: before, columns: n };
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
            // SAFETY: the slices cover the extents these strides reach, and of what is written this task's
            // rectangle is its own.
            unsafe {
                if k == 0 && self.form != Form::Tn {
                    rows.clone().for_each(|row| c.row(row, &columns).fill(S::ZERO));
                } else {
                    let add = self.form == Form::Tn;
                    S::gemm([rows.len(), columns.len(), k], c.at(row, column), n, add, a, b);
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
    /// The epilogue on a rectangle of C.
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
        c: Shared<S>,
        before: Shared<S>,
    ) {
        let n = self.n;
        match self.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) => {
                let bias = &memory.read(bias)[columns.clone()];
                for row in rows {
                    // SAFETY: the caller's promise.
                    for (c, &b) in unsafe { c.row(row, &columns) }.iter_mut().zip(bias) {
                        *c += b;
                    }
                }
            }
            Epilogue::BiasGelu { bias, .. } => {
                let bias = &memory.read(bias)[columns.clone()];
                for row in rows {
                    // SAFETY: the caller's promise.
                    let (c, before) = unsafe { (c.row(row, &columns), before.row(row, &columns)) };
                    for ((c, before), &b) in c.iter_mut().zip(before).zip(bias) {
                        *before = *c + b;
                        *c = before.gelu();
                    }
                }
            }
            Epilogue::GeluGradient { before } => {
                let before = memory.read(before);
                for row in rows {
                    let before = &before[row * n..][columns.clone()];
                    // SAFETY: the caller's promise.
                    for (c, &x) in unsafe { c.row(row, &columns) }.iter_mut().zip(before) {
                        *c *= x.gelu_derivative();
                    }
                }
            }
            Epilogue::Add(residual) => {
                let residual = memory.read(residual);
                for row in rows {
                    let residual = &residual[row * n..][columns.clone()];
                    // SAFETY: the caller's promise.
                    for (c, &r) in unsafe { c.row(row, &columns) }.iter_mut().zip(residual) {
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

impl Kernels for MatMul {
    fn candidates(&self) -> Vec<Candidate> {
        let hardware = Requirements { hardware: true, ..Default::default() };
        let mut candidates = Vec::new();
        if self.n.is_multiple_of(4) && self.inner.is_multiple_of(4) {
            candidates.push(self.candidate("vectors", self.vector_tiles(), hardware));
        }
        candidates.push(self.candidate("tiled", TILED, hardware));
        candidates.push(self.candidate("registers", REGISTERS, Requirements::default()));
        candidates
    }
}

/// Tile sizes of a strategy: C tiles of `bm × bn` per workgroup, `tm × tn` per thread, k in steps of `bk`.
struct Tiles {
    shader: &'static str,
    bm: usize,
    bn: usize,
    tm: usize,
    tn: usize,
    bk: usize,
}

const WIDE_VECTORS: Tiles = Tiles { shader: "matmul_vectors", bm: 128, bn: 64, tm: 8, tn: 4, bk: 16 };
const VECTORS: Tiles = Tiles { shader: "matmul_vectors", bm: 64, bn: 64, tm: 8, tn: 4, bk: 8 };
const TILED: Tiles = Tiles { shader: "matmul_tiled", bm: 64, bn: 64, tm: 4, tn: 4, bk: 16 };
const REGISTERS: Tiles = Tiles { shader: "matmul_registers", bm: 32, bn: 32, tm: 8, tn: 8, bk: 16 };

/// Wide tiles need half as much of the cache; fewer than this many leave compute units without work at the end.
const WIDE_TILES: usize = 240;

impl MatMul {
    fn splits_of_k(&self) -> usize {
        self.partials.map_or(1, |(_, splits)| splits)
    }

    /// The tiles of the strategy "vectors" that suit the shape.
    fn vector_tiles(&self) -> Tiles {
        let m = if self.form == Form::Tn { self.inner } else { self.rows.capacity };
        let wide = m.div_ceil(WIDE_VECTORS.bm) * self.n.div_ceil(WIDE_VECTORS.bn) * self.splits_of_k();
        if wide >= WIDE_TILES { WIDE_VECTORS } else { VECTORS }
    }

    fn candidate(&self, strategy: &'static str, tiles: Tiles, requires: Requirements) -> Candidate {
        let (epilogue, extra): (u32, Vec<Binding>) = match self.epilogue {
            Epilogue::None => (0, vec![]),
            Epilogue::Bias(bias) => (1, vec![read(bias)]),
            Epilogue::BiasGelu { bias, before } => (2, vec![read(bias), write(before)]),
            Epilogue::GeluGradient { before } => (3, vec![read(before)]),
            Epilogue::Add(residual) => (4, vec![read(residual)]),
        };
        let splits = self.splits_of_k();
        let mut constants = vec![
            ("FORM", self.form as u32),
            ("EPILOGUE", epilogue),
            ("SPLIT", u32::from(self.partials.is_some())),
            ("BIAS_GRADIENT", u32::from(self.bias_gradient.is_some())),
            ("BM", tiles.bm as u32),
            ("BN", tiles.bn as u32),
            ("TM", tiles.tm as u32),
            ("BK", tiles.bk as u32),
        ];
        // The columns of a thread are one vector there.
        if tiles.shader != WIDE_VECTORS.shader {
            constants.push(("TN", tiles.tn as u32));
        }
        let [extent, offset, capacity] = self.rows.immediates();
        let first = |operand: Operand, columns: usize| (operand.first_row * columns) as u32;
        let (a_columns, b_columns) = match self.form {
            Form::Nt => (self.inner, self.inner),
            Form::Nn => (self.inner, self.n),
            Form::Tn => (self.inner, self.n),
        };
        // Immediates: the varying dimension (3 words), n, inner, first elements of A, B and C, splits.
        let immediates = vec![
            extent,
            offset,
            capacity,
            self.n as u32,
            self.inner as u32,
            first(self.a, a_columns),
            first(self.b, b_columns),
            first(self.c, self.n),
            splits as u32,
        ];
        let rows_of_c = match self.form {
            Form::Tn => Count::Fixed(self.inner.div_ceil(tiles.bm)),
            _ => Count::Rows { rows: self.rows, per: tiles.bm },
        };
        let mut bindings = vec![read(self.a.tensor), read(self.b.tensor)];
        let mut dispatches = Vec::new();
        match self.partials {
            Some((partials, _)) => bindings.push(write(partials)),
            None => {
                bindings.push(write(self.c.tensor));
                bindings.extend(extra);
                bindings.extend(self.bias_gradient.map(write));
            }
        }
        dispatches.push(Dispatch {
            shader: tiles.shader,
            constants,
            bindings,
            immediates: immediates.clone(),
            grid: Grid(vec![rows_of_c, Count::Fixed(self.n.div_ceil(tiles.bn)), Count::Fixed(splits)]),
        });
        if let Some((partials, _)) = self.partials {
            // Adds the parts up in order: C += Σ partials (= in `Nn`), and the bias gradient behind them.
            let mut bindings = vec![read(partials), write(self.c.tensor)];
            bindings.extend(self.bias_gradient.map(write));
            let grid = match self.form {
                Form::Tn => vec![Count::Fixed((self.inner * self.n + self.inner).div_ceil(256))],
                _ => vec![Count::Rows { rows: self.rows, per: 1 }, Count::Fixed(self.n.div_ceil(256))],
            };
            dispatches.push(Dispatch {
                shader: "matmul_sum_splits",
                constants: vec![
                    ("FORM", self.form as u32),
                    ("BIAS_GRADIENT", u32::from(self.bias_gradient.is_some())),
                ],
                bindings,
                immediates,
                grid: Grid(grid),
            });
        }
        Candidate { strategy, requires, dispatches }
    }
}
