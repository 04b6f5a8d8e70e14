//! The kernels of the embedding tables' gradients.

use crate::tensor::Rows;

use super::immediates::{RowsColumns, Words, immediates};
use super::lanes::Lanes;
use super::table_gradient::{
    PositionGradient, SEGMENT_PARTIALS, SampledWordGradient, SegmentGradient, WordGradient,
};
use super::{Binding, Candidate, Count, Dispatch, Grid, Kernels, PartialSums, Requirements, SumTarget, bind};

/// Threads of a workgroup, across a table row and over the rows added to it: frequent ids have thousands.
const WIDTH: usize = 256;

/// Threads across a table row: narrow enough that several rows are added at a time.
const ACROSS: usize = 64;

/// One workgroup for each table row, `grid` of them. Software adapters get one that has no barriers.
fn table_rows(
    shader: &'static str,
    columns: usize,
    bindings: Vec<Binding>,
    immediates: impl Words,
    grid: Grid,
) -> Vec<Candidate> {
    let across = Lanes::new(columns, ACROSS, 1).threads;
    let software = Requirements { software: true, ..Default::default() };
    let layouts = [
        ("no_barriers", Lanes::new(columns, ACROSS, across), software),
        ("shared_rows", Lanes::new(columns, ACROSS, WIDTH), Requirements::default()),
    ];
    let candidate = |(strategy, lanes, requires): (_, Lanes, _)| Candidate {
        strategy,
        requires,
        dispatches: vec![Dispatch {
            shader,
            constants: lanes.constants(),
            bindings: bindings.clone(),
            immediates: immediates.into(),
            grid: grid.clone(),
        }],
    };
    layouts.into_iter().map(candidate).collect()
}

/// A workgroup for each row in use.
fn each(rows: Rows) -> Grid {
    Grid(vec![Count::Rows { rows, per: 1 }])
}

impl Kernels for WordGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let bindings = bind([self.gradient, self.table, self.ids, self.starts, self.list]);
        let immediates = RowsColumns::new(self.rows, self.columns);
        table_rows("word_gradient", self.columns, bindings, immediates, each(self.rows))
    }
}

impl Kernels for SampledWordGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::new(self.columns, ACROSS, WIDTH);
        let dispatch = Dispatch {
            shader: "sampled_word_gradient",
            constants: lanes.constants(),
            bindings: bind([self.gradient, self.table, self.sampled, self.masked_rows]),
            immediates: RowsColumns::new(self.rows, self.columns).into(),
            grid: each(self.rows),
        };
        Candidate::only("shared_rows", dispatch)
    }
}

immediates! {
    struct PositionImmediates {
        shape: RowsColumns,
        positions: u32,
    }
}

impl Kernels for PositionGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let bindings = bind([self.gradient, self.table, self.starts]);
        let immediates = PositionImmediates {
            shape: RowsColumns::new(self.sequences, self.columns),
            positions: self.positions as u32,
        };
        let grid = Grid(vec![Count::Fixed(self.positions)]);
        table_rows("position_gradient", self.columns, bindings, immediates, grid)
    }
}

immediates! {
    struct SegmentImmediates {
        shape: RowsColumns,
        /// Partial sums, each of a block of rows.
        partials: u32,
    }
}

impl Kernels for SegmentGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let lanes = Lanes::new(self.columns, 16, WIDTH);
        let shape = RowsColumns::new(self.rows, self.columns);
        let immediates = SegmentImmediates { shape, partials: SEGMENT_PARTIALS as u32 }.into();
        let blocks = Dispatch {
            shader: "segment_gradient",
            constants: lanes.constants(),
            bindings: bind([self.gradient, self.segments, self.partials]),
            immediates,
            grid: Grid(vec![Count::Fixed(SEGMENT_PARTIALS), Count::Fixed(lanes.per_thread())]),
        };
        Candidate::only("two_stages", blocks)
    }

    fn sums(&self) -> Option<PartialSums> {
        let (partials, parts, columns) = (self.partials, SEGMENT_PARTIALS, 2 * self.columns);
        let target = SumTarget { tensor: self.table, at: 0, first: 0, elements: columns };
        Some(PartialSums { partials, parts, columns, targets: vec![target] })
    }
}
