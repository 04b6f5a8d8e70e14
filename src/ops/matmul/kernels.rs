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
            for matrix in COOPERATIVE {
                candidates.push(self.cooperative(matrix));
            }
            candidates.push(self.candidate("vectors", self.vector_tiles(), hardware));
        }
        candidates.push(self.candidate("tiled", TILED, hardware));
        candidates.push(self.candidate("registers", REGISTERS, Requirements::default()));
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

/// Cooperative matrices there are candidates for: strategy, size, lanes of a subgroup. NVIDIA's and RDNA's have 16,
/// Apple's 8; lavapipe's subgroups have 8 lanes or 4.
const COOPERATIVE: [(&str, u32, u32); 5] = [
    ("cooperative 16, 32 lanes", 16, 32),
    ("cooperative 8, 32 lanes", 8, 32),
    ("cooperative 16, 64 lanes", 16, 64),
    ("cooperative 16, 8 lanes", 16, 8),
    ("cooperative 8, 8 lanes", 8, 8),
];

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

    /// A product on cooperative matrices.
    fn cooperative(&self, (strategy, matrix, lanes): (&'static str, u32, u32)) -> Candidate {
        let wide = self.vector_tiles().bm == WIDE_VECTORS.bm;
        let (bm, bn) = if wide { (128, 64) } else { (64, 64) };
        let tiles = Tiles { shader: "matmul_cooperative", bm, bn, tm: 0, tn: 0, bk: 32 };
        let requires = Requirements {
            // Two tiles of f16 with their padding, and a matrix of results for each of four subgroups.
            workgroup_memory: ((bm.max(bn) * 40 + bn * 40) * 2 + 4 * 256 * 4) as u32,
            subgroups: true,
            half: true,
            cooperative: Some((matrix, lanes)),
            hardware: true,
            ..Requirements::default()
        };
        let mut candidate = self.candidate(strategy, tiles, requires);
        let constants = &mut candidate.dispatches[0].constants;
        constants.retain(|(name, _)| !matches!(*name, "TM" | "TN"));
        constants.extend([("MATRIX", matrix), ("LANES", lanes)]);
        candidate
    }

    /// The tiles of the strategy "vectors" that suit the shape.
    fn vector_tiles(&self) -> Tiles {
        let m = if self.form == Form::Tn { self.inner } else { self.rows.capacity };
        let wide = m.div_ceil(WIDE_VECTORS.bm) * self.n.div_ceil(WIDE_VECTORS.bn) * self.splits_of_k();
        if wide >= WIDE_TILES { WIDE_VECTORS } else { VECTORS }
    }

    fn candidate(&self, strategy: &'static str, tiles: Tiles, requires: Requirements) -> Candidate {
        let mut dispatches = vec![self.product(&tiles)];
        let split_rows = self.partials.filter(|_| self.form != Form::Tn);
        dispatches.extend(split_rows.map(|(partials, _)| self.sum_splits(partials)));
        Candidate { strategy, requires, dispatches }
    }

    /// The product, or its parts.
    fn product(&self, tiles: &Tiles) -> Dispatch {
        let (epilogue, of_epilogue): (u32, Vec<Binding>) = match self.epilogue {
            Epilogue::None => (0, vec![]),
            Epilogue::Bias(bias) => (1, bind([bias])),
            Epilogue::BiasGelu { bias, before } => (2, bind([bias, before])),
            Epilogue::GeluGradient { before } => (3, bind([before])),
            Epilogue::Add(residual) => (4, bind([residual])),
        };
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
        let mut bindings = bind([self.a.tensor, self.b.tensor]);
        match self.partials {
            Some((partials, _)) => bindings.push(partials.into()),
            None => {
                bindings.push(self.c.tensor.into());
                bindings.extend(of_epilogue);
                bindings.extend(self.bias_gradient.map(Binding::from));
            }
        }
        let rows = match self.form {
            Form::Tn => Count::Fixed(self.inner.div_ceil(tiles.bm)),
            _ => Count::Rows { rows: self.rows, per: tiles.bm },
        };
        let (columns, splits) = (Count::Fixed(self.n.div_ceil(tiles.bn)), Count::Fixed(self.splits_of_k()));
        let grid = Grid(vec![rows, columns, splits]);
        Dispatch { shader: tiles.shader, constants, bindings, immediates: self.immediates().into(), grid }
    }

    /// Adds the parts up in order: C = Σ partials. (In `Tn`, C += Σ partials is what `sums` describes.)
    fn sum_splits(&self, partials: TensorId) -> Dispatch {
        let bindings = vec![Binding::ReadBack(partials), self.c.tensor.into()];
        let grid = vec![Count::Rows { rows: self.rows, per: 1 }, Count::Fixed(self.n.div_ceil(256))];
        Dispatch {
            shader: "matmul_sum_splits",
            constants: vec![],
            bindings,
            immediates: self.immediates().into(),
            grid: Grid(grid),
        }
    }
}
