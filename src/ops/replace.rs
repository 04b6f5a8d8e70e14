//! What the discriminator reads: the original sequence with all chosen positions overwritten by samples.

use crate::tensor::{Rows, TensorId};

use super::Kind::Uint;
use super::gather::{NO_SLOT, PADDING};
use super::immediates::{RowWords, immediates};
use super::tensor_use::{read, table, write};
use super::{Candidate, Count, CpuOp, Describe, Dispatch, Grid, Kernels, Memory, Scalar, TensorUse, bind};

/// The label of padding.
pub use super::constants::IGNORED;

/// ids[t] = sampled[slot] at a masked slot, else input_ids[t]; labels[t] = 1 where that differs from the
/// original (docs/spec.md §3.4: a sample that hits the original is "real").
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

    fn tensors(&self) -> Vec<TensorUse> {
        vec![
            read("input_ids", self.input_ids, Uint, (self.rows, 1)),
            read("slots", self.slots, Uint, (self.rows, 1)),
            read("sampled", self.sampled, Uint, table(1)),
            read("masked_ids", self.masked_ids, Uint, table(1)),
            write("ids", self.ids, Uint, (self.rows, 1)),
            write("labels", self.labels, Uint, (self.rows, 1)),
        ]
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

immediates! {
    struct Immediates {
        rows: RowWords,
    }
}

impl Kernels for Replace {
    fn candidates(&self) -> Vec<Candidate> {
        let Replace { input_ids, slots, sampled, masked_ids, ids, labels, rows } = *self;
        let dispatch = Dispatch {
            shader: "replace",
            constants: vec![],
            bindings: bind([input_ids, slots, sampled, masked_ids, ids, labels]),
            immediates: Immediates { rows: rows.into() }.into(),
            grid: Grid(vec![Count::Rows { rows, per: 64 }]),
        };
        Candidate::only("row", dispatch)
    }
}
