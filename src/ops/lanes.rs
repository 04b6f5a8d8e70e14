//! How kernels lay rows of channels over the threads of a workgroup.

use crate::tensor::Rows;

use super::{Count, Grid};

/// `threads` threads across a row and `rows` rows at a time. A thread's unit is a lane: 4 channels where the
/// columns divide by 4, else 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    pub threads: usize,
    pub rows: usize,
    /// Lanes of a row.
    pub count: usize,
    vector: bool,
}

impl Lanes {
    /// At most `threads` threads a row (fewer where rows are short), `width` in all.
    pub fn new(columns: usize, threads: usize, width: usize) -> Self {
        let vector = columns.is_multiple_of(4);
        let count = if vector { columns / 4 } else { columns };
        let threads = count.next_power_of_two().min(threads);
        Lanes { threads, rows: width / threads, count, vector }
    }

    /// For ops that touch each element once.
    pub fn elementwise(columns: usize) -> Self {
        Lanes::new(columns, 256, 256)
    }

    /// A thread takes whole rows: for software adapters, where a barrier costs more than it saves.
    pub fn row_each(columns: usize, rows: usize) -> Self {
        Lanes { threads: 1, rows, ..Lanes::new(columns, 1, 1) }
    }

    pub fn constants(&self) -> Vec<(&'static str, u32)> {
        vec![("VEC", u32::from(self.vector)), ("THREADS", self.threads as u32), ("ROWS", self.rows as u32)]
    }

    /// Lanes each thread takes of a row.
    pub fn per_thread(&self) -> usize {
        self.count.div_ceil(self.threads)
    }

    /// A workgroup for each `self.rows` rows in use.
    pub fn grid(&self, rows: Rows) -> Grid {
        Grid(vec![Count::Rows { rows, per: self.rows }])
    }
}
