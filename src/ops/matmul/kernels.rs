//! The kernels of the matrix products.

use crate::ops::{Binding, Candidate, Count, Dispatch, Grid, Kernels, Requirements};
use crate::ops::{read, write};

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

impl MatMul {
    fn splits_of_k(&self) -> usize {
        self.partials.map_or(1, |(_, splits)| splits)
    }

    /// A product on cooperative matrices.
    fn cooperative(&self, (strategy, matrix, lanes): (&'static str, u32, u32)) -> Candidate {
        let wide = self.vector_tiles().bm == WIDE_VECTORS.bm;
        let (bm, bn) = if wide { (128, 64) } else { (64, 64) };
        let tiles = Tiles { shader: "matmul_cooperative", bm, bn, tm: 0, tn: 0, bk: 32 };
        let requires = Requirements {
            // Two tiles of halves with their padding, and a matrix of results for each of four subgroups.
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
