//! What the discriminator reads: the original sequence with all chosen positions overwritten by samples.

use crate::tensor::{Extents, Rows, TensorId};

use super::gather::{NO_SLOT, PADDING};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Io, Kernels, Memory, Requirements, Scalar};
use super::{read, write};

/// The label of padding.
pub use super::constants::IGNORED;

/// ids[t] = sampled[slot] at a masked slot, else input_ids[t]; labels[t] = 1 where that differs from the
/// original (SPEC.md §3.4: a sample that hits the original is "real").
#[derive(Clone, Debug)]
pub struct Replace {
    /// `[T]`, after masking.
    pub input_ids: TensorId,
    /// `[T]`: the masked slot of each row, `NO_SLOT` or `PADDING`.
    pub slots: TensorId,
    /// `[M]`.
    pub sampled: TensorId,
    /// `[M]`.
    pub masked_ids: TensorId,
    /// `[T]`, written.
    pub ids: TensorId,
    /// `[T]`, written.
    pub labels: TensorId,
    pub rows: Rows,
}

impl Describe for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }

    fn io(&self) -> Io {
        Io {
            reads: vec![self.input_ids, self.slots, self.sampled, self.masked_ids],
            writes: vec![self.ids, self.labels],
            ..Io::default()
        }
    }

    fn flops(&self, _: &Extents) -> f64 {
        0.0
    }
}

impl<S: Scalar> CpuOp<S> for Replace {
    fn run(&self, memory: &Memory<'_, S>) {
        let input_ids = memory.read_uint(self.input_ids);
        let slots = memory.read_uint(self.slots);
        let sampled = memory.read_uint(self.sampled);
        let masked_ids = memory.read_uint(self.masked_ids);
        let ids = memory.write_uint(self.ids);
        let labels = memory.write_uint(self.labels);
        for row in 0..self.rows.count(&memory.extents()) {
            (ids[row], labels[row]) = match slots[row] {
                NO_SLOT => (input_ids[row], 0),
                PADDING => (input_ids[row], IGNORED),
                slot => {
                    let id = sampled[slot as usize];
                    (id, u32::from(id != masked_ids[slot as usize]))
                }
            };
        }
    }
}

impl Kernels for Replace {
    fn candidates(&self) -> Vec<Candidate> {
        vec![Candidate {
            strategy: "row",
            requires: Requirements::default(),
            dispatches: vec![Dispatch {
                shader: "replace",
                constants: vec![],
                bindings: vec![
                    read(self.input_ids),
                    read(self.slots),
                    read(self.sampled),
                    read(self.masked_ids),
                    write(self.ids),
                    write(self.labels),
                ],
                immediates: self.rows.immediates().to_vec(),
                grid: Grid(vec![Count::Rows { rows: self.rows, per: 64 }]),
            }],
        }]
    }
}
