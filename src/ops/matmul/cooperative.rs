//! Products on cooperative matrices: which tiles for which shape.
//!
//! Measured on an H100 (matrices of 16, 32 lanes), TFLOP/s, at 64 × 512 tokens of `small`
//! (docs/rejected.md#products-on-cooperative-matrices has the shapes that lost):
//!
//! | product | wide | narrow |
//! |---|---|---|
//! | `Nt` and `Nn`, k and n ≥ 128 | 57–103 | 57–97 |
//! | `Tn`, C of 256 columns or rows and more | 70–121 | 65–104 |
//! | `Tn`, C of 64 columns or rows | 6–20 | 5–19 |
//! | n = 64: T×256 → T×64, T×192 → T×64, T×64 → T×64 | 27, 20, 13 | 35, 27, 20 |
//! | k = 64: T×64 → T×192, T×64 → T×256 with GELU, without | 27, 25, 19 | 36, 29, 18 |
//!
//! Narrow products have little arithmetic for each byte: what counts is how many workgroups a compute unit holds, and a
//! step as long as k has nothing to hide its fetches behind.

use crate::ops::{Candidate, Requirements};

use super::kernels::Tiles;
use super::{Form, MatMul};

/// A size of cooperative matrices, and what the candidates for it are called.
struct Matrices {
    wide: &'static str,
    narrow: &'static str,
    /// Rows and columns of a matrix.
    size: u32,
    /// Of a subgroup.
    lanes: u32,
}

/// What there are candidates for. NVIDIA's and RDNA's matrices have 16 rows, Apple's 8, and so have those of lavapipe,
/// whose subgroups have 8 lanes.
const MATRICES: [Matrices; 4] = [
    Matrices { wide: "cooperative wide 16/32", narrow: "cooperative narrow 16/32", size: 16, lanes: 32 },
    Matrices { wide: "cooperative wide 8/32", narrow: "cooperative narrow 8/32", size: 8, lanes: 32 },
    Matrices { wide: "cooperative wide 16/64", narrow: "cooperative narrow 16/64", size: 16, lanes: 64 },
    Matrices { wide: "cooperative wide 8/8", narrow: "cooperative narrow 8/8", size: 8, lanes: 8 },
];

/// How a workgroup divides its tile, down and across: subgroups, and matrices of each. And matrices of k a step.
#[derive(Clone, Copy)]
struct Shape {
    subgroups: [u32; 2],
    matrices: [u32; 2],
    steps: u32,
}

/// 128 × 64 with matrices of 16, steps of 32: 19 KiB, so that many workgroups fit a compute unit, and all adapters.
const NARROW: Shape = Shape { subgroups: [2, 2], matrices: [4, 2], steps: 2 };

/// 128 × 128 with matrices of 16, steps of 64: 44 KiB. Smaller where C has few rows or columns.
fn wide(few_rows: bool, few_columns: bool) -> Shape {
    let (subgroups, matrices) = match (few_rows, few_columns) {
        (false, false) => ([2, 4], [4, 2]),
        (false, true) => ([4, 1], [2, 4]),
        (true, false) => ([1, 4], [4, 2]),
        (true, true) => ([2, 2], [2, 2]),
    };
    Shape { subgroups, matrices, steps: 4 }
}

impl MatMul {
    /// Candidates for every size of matrices, for each size the better one first. Where workgroup memory does not hold
    /// the wide tiles (32 KiB, with matrices of 16), the narrow ones are left.
    pub(super) fn cooperative(&self) -> Vec<Candidate> {
        let candidates = |matrices: &Matrices| {
            // Four matrices: half a wide tile, and a whole step of k.
            let few = |size: usize| size <= 4 * matrices.size as usize;
            let rows = if self.form == Form::Tn { self.inner } else { self.rows.capacity };
            // Metal loads matrices from scalars. Lavapipe takes both, and one each way, so that tests run both.
            let [metal, lavapipe] = [32, 8].map(|lanes| matrices.size == 8 && matrices.lanes == lanes);
            let wide = self.on_matrices(matrices.wide, matrices, wide(few(rows), few(self.n)), metal);
            let narrow = self.on_matrices(matrices.narrow, matrices, NARROW, metal || lavapipe);
            if self.form != Form::Tn && (few(self.n) || few(self.inner)) {
                [narrow, wide]
            } else {
                [wide, narrow]
            }
        };
        MATRICES.iter().flat_map(candidates).collect()
    }

    fn on_matrices(&self, strategy: &'static str, of: &Matrices, shape: Shape, scalar: bool) -> Candidate {
        let Shape { subgroups: [subgroups_down, subgroups_across], matrices: [down, across], steps } = shape;
        let (bm, bn) = (subgroups_down * down * of.size, subgroups_across * across * of.size);
        let bk = steps * of.size;
        let subgroups = subgroups_down * subgroups_across;
        let threads = subgroups * of.lanes;
        // Bytes of an operand's tile, whose rows are padded by 8; and of the matrices that leave, or of as many vectors
        // as there are threads.
        let tile = |side: u32, along: bool| 2 * if along { side * (bk + 8) } else { bk * (side + 8) };
        let tiles = tile(bm, self.form != Form::Tn) + tile(bn, self.form == Form::Nt);
        let leaving = 16 * threads.max(subgroups * of.size * of.size / 4);
        let requires = Requirements {
            workgroup_memory: tiles + leaving,
            invocations: threads,
            subgroups: true,
            half: true,
            cooperative: Some((of.size, of.lanes)),
            hardware: true,
            ..Requirements::default()
        };
        let tiles = Tiles {
            shader: "matmul_cooperative",
            bm: bm as usize,
            bn: bn as usize,
            bk: bk as usize,
            constants: vec![
                ("MATRIX", of.size),
                ("LANES", of.lanes),
                ("SUBGROUPS_DOWN", subgroups_down),
                ("SUBGROUPS_ACROSS", subgroups_across),
                ("DOWN", down),
                ("ACROSS", across),
                ("KSTEPS", steps),
                ("SCALAR", u32::from(scalar)),
                // Vectors that each thread fetches of a tile, and that each lane takes of a matrix of results.
                ("A_LOADS", bm * bk / 4 / threads),
                ("B_LOADS", bn * bk / 4 / threads),
                ("READS", (of.size * of.size / 4).div_ceil(of.lanes)),
            ],
        };
        self.candidate(strategy, &tiles, requires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::Epilogue;
    use crate::tensor::{Extent, Rows, TensorId};

    fn candidates(form: Form, n: usize, inner: usize) -> Vec<Candidate> {
        let rows = Rows::of(Extent::Tokens, 32_768);
        let [a, b, c] = [0, 1, 2].map(|id| TensorId(id).into());
        let (epilogue, bias_gradient, partials) = (Epilogue::None, None, None);
        let product = MatMul { form, a, b, c, rows, n, inner, epilogue, bias_gradient, partials };
        product.cooperative().into_iter().filter(|c| c.requires.cooperative == Some((16, 32))).collect()
    }

    /// The order that the table above asks for, at the shapes of a step of `small`.
    #[test]
    fn the_better_form_for_a_shape_goes_first() {
        for (form, n, inner, first) in [
            (Form::Nt, 256, 1024, "wide"),
            (Form::Nn, 1024, 256, "wide"),
            (Form::Nt, 32_000, 128, "wide"),
            (Form::Nt, 64, 256, "narrow"),
            (Form::Nn, 64, 192, "narrow"),
            (Form::Nt, 192, 64, "narrow"),
            (Form::Nn, 64, 64, "narrow"),
            (Form::Tn, 256, 1024, "wide"),
            (Form::Tn, 64, 256, "wide"),
            (Form::Tn, 64, 64, "wide"),
        ] {
            let strategy = candidates(form, n, inner)[0].strategy;
            assert_eq!(strategy, format!("cooperative {first} 16/32"), "{form:?}, n {n}, inner {inner}");
        }
    }

    /// NVIDIA has 48 KiB; the narrow form does with 32.
    #[test]
    fn a_form_is_left_where_there_is_little_memory() {
        for form in [Form::Nt, Form::Nn, Form::Tn] {
            let all = candidates(form, 256, 1024);
            assert!(all.iter().all(|c| c.requires.workgroup_memory <= 48 << 10));
            assert!(all.iter().any(|c| c.requires.workgroup_memory <= 32 << 10));
        }
    }
}
