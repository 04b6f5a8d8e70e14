//! The kernels of the matrix products.

use crate::ops::immediates::{RowWords, immediates};
use crate::ops::{
    Binding, Candidate, Count, Dispatch, Grid, Kernels, PartialSums, Requirements, SumTarget, bind,
};
use crate::tensor::TensorId;

use super::{Epilogue, Form, MatMul, Operand};

impl Kernels for MatMul {
    fn candidates(&self) -> Vec<Candidate> {
        let hardware = Requirements { hardware: true, ..Default::default() };
        let mut candidates = Vec::new();
        if self.n.is_multiple_of(4) && self.inner.is_multiple_of(4) {
            candidates.extend(self.cooperative());
            candidates.push(self.candidate("vectors", &self.vector_tiles(), hardware));
        }
        candidates.push(self.candidate("tiled", &TILED.tiles(), hardware));
        candidates.push(self.candidate("registers", &REGISTERS.tiles(), Requirements::default()));
        candidates
    }

    fn sums(&self) -> Option<PartialSums> {
        let (partials, parts) = self.partials.filter(|_| self.form == Form::Tn)?;
        let (m, n) = (self.inner, self.n);
        let (tensor, at) = (self.c.tensor, self.c.first_row * n);
        let mut targets = vec![SumTarget { tensor, at, first: 0, elements: m * n }];
        let bias = |tensor| SumTarget { tensor, at: 0, first: m * n, elements: m };
        targets.extend(self.bias_gradient.map(bias));
        Some(PartialSums { partials, parts, columns: m * n + m, targets })
    }
}

/// Tile sizes of a strategy: C tiles of `bm × bn` per workgroup, k in steps of `bk`.
pub(super) struct Tiles {
    pub shader: &'static str,
    pub bm: usize,
    pub bn: usize,
    pub bk: usize,
    /// What else the shader is made from.
    pub constants: Vec<(&'static str, u32)>,
}

/// Tiles of which a thread computes `tm × tn`.
struct Threads {
    shader: &'static str,
    bm: usize,
    bn: usize,
    tm: u32,
    /// 0: one vector.
    tn: u32,
    bk: usize,
}

const WIDE_VECTORS: Threads = Threads { shader: "matmul_vectors", bm: 128, bn: 64, tm: 8, tn: 0, bk: 16 };
const VECTORS: Threads = Threads { shader: "matmul_vectors", bm: 64, bn: 64, tm: 8, tn: 0, bk: 8 };
const TILED: Threads = Threads { shader: "matmul_tiled", bm: 64, bn: 64, tm: 4, tn: 4, bk: 16 };
const REGISTERS: Threads = Threads { shader: "matmul_registers", bm: 32, bn: 32, tm: 8, tn: 8, bk: 16 };

impl Threads {
    fn tiles(&self) -> Tiles {
        let &Threads { shader, bm, bn, tm, tn, bk } = self;
        let constants = [("TM", tm), ("TN", tn)].into_iter().filter(|&(_, size)| size > 0).collect();
        Tiles { shader, bm, bn, bk, constants }
    }
}

/// Wide tiles need half as much of the cache; fewer than this many leave compute units without work at the end.
const WIDE_TILES: usize = 240;

immediates! {
    /// All dimensions of a product, in elements.
    struct Immediates {
        /// The dimension that varies.
        rows: RowWords,
        n: u32,
        inner: u32,
        first_a: u32,
        first_b: u32,
        first_c: u32,
        splits: u32,
    }
}

impl MatMul {
    fn immediates(&self) -> Immediates {
        let first = |operand: Operand, columns: usize| (operand.first_row * columns) as u32;
        let b_columns = if self.form == Form::Nt { self.inner } else { self.n };
        Immediates {
            rows: self.rows.into(),
            n: self.n as u32,
            inner: self.inner as u32,
            first_a: first(self.a, self.inner),
            first_b: first(self.b, b_columns),
            first_c: first(self.c, self.n),
            splits: self.splits_of_k() as u32,
        }
    }

    fn splits_of_k(&self) -> usize {
        self.partials.map_or(1, |(_, splits)| splits)
    }

    /// The tiles of the strategy "vectors" that suit the shape.
    fn vector_tiles(&self) -> Tiles {
        let m = if self.form == Form::Tn { self.inner } else { self.rows.capacity };
        let wide = m.div_ceil(WIDE_VECTORS.bm) * self.n.div_ceil(WIDE_VECTORS.bn) * self.splits_of_k();
        if wide >= WIDE_TILES { WIDE_VECTORS.tiles() } else { VECTORS.tiles() }
    }

    pub(super) fn candidate(
        &self,
        strategy: &'static str,
        tiles: &Tiles,
        requires: Requirements,
    ) -> Candidate {
        let mut dispatches = vec![self.product(tiles)];
        let split_rows = self.partials.filter(|_| self.form != Form::Tn);
        dispatches.extend(split_rows.map(|(partials, _)| self.sum_splits(partials)));
        Candidate { strategy, requires, dispatches }
    }

    /// What the epilogue is in the shaders, and what it binds.
    fn epilogue(&self) -> (u32, Vec<Binding>) {
        match self.epilogue {
            Epilogue::None => (0, vec![]),
            Epilogue::Bias(bias) => (1, bind([bias])),
            Epilogue::BiasGelu { bias, before } => (2, bind([bias, before])),
            Epilogue::GeluGradient { before } => (3, bind([before])),
            Epilogue::Add(residual) => (4, bind([residual])),
        }
    }

    /// The product, or its parts.
    fn product(&self, tiles: &Tiles) -> Dispatch {
        let mut bindings = bind([self.a.tensor, self.b.tensor]);
        let mut epilogue = 0;
        match self.partials {
            Some((partials, _)) => bindings.push(partials.into()),
            None => {
                let of_epilogue;
                (epilogue, of_epilogue) = self.epilogue();
                bindings.push(self.c.tensor.into());
                bindings.extend(of_epilogue);
                bindings.extend(self.bias_gradient.map(Binding::from));
            }
        }
        let mut constants = vec![
            ("FORM", self.form as u32),
            ("EPILOGUE", epilogue),
            ("SPLIT", u32::from(self.partials.is_some())),
            ("BIAS_GRADIENT", u32::from(self.bias_gradient.is_some())),
            ("BM", tiles.bm as u32),
            ("BN", tiles.bn as u32),
            ("BK", tiles.bk as u32),
        ];
        constants.extend(&tiles.constants);
        let rows = match self.form {
            Form::Tn => Count::Fixed(self.inner.div_ceil(tiles.bm)),
            _ => Count::Rows { rows: self.rows, per: tiles.bm },
        };
        let (columns, splits) = (Count::Fixed(self.n.div_ceil(tiles.bn)), Count::Fixed(self.splits_of_k()));
        let grid = Grid(vec![rows, columns, splits]);
        Dispatch { shader: tiles.shader, constants, bindings, immediates: self.immediates().into(), grid }
    }

    /// Adds the parts up in order, and does what follows: C = Σ partials and the epilogue. (In `Tn`, C += Σ partials is
    /// what `sums` describes.)
    fn sum_splits(&self, partials: TensorId) -> Dispatch {
        let (epilogue, of_epilogue) = self.epilogue();
        let mut bindings = vec![Binding::ReadBack(partials), self.c.tensor.into()];
        bindings.extend(of_epilogue);
        let grid = vec![Count::Rows { rows: self.rows, per: 1 }, Count::Fixed(self.n.div_ceil(256))];
        Dispatch {
            shader: "matmul_sum_splits",
            constants: vec![("EPILOGUE", epilogue)],
            bindings,
            immediates: self.immediates().into(),
            grid: Grid(grid),
        }
    }
}
