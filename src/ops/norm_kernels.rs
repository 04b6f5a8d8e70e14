//! The kernels of the norms.

use crate::tensor::{Dropout, Rows, TensorId};

use super::lanes::{Lanes, immediates};
use super::norm::{NORM_PARTIALS, Norm, NormGradient};
use super::{Candidate, Count, Dispatch, Grid, Kernels, Requirements};
use super::{read, write};

/// Which side of a norm is under dropout: the constant `DROPOUT` of the norm kernels.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Input = 1,
    Output = 2,
}

/// Dropout on a side, or none: the value of the constant.
pub(super) fn side(dropout: Dropout, side: Side) -> u32 {
    if dropout.is_on() { side as u32 } else { 0 }
}

/// Ways to lay rows over threads, best first: whole rows a thread for software adapters as long as a row fits
/// into a thread's memory, and a wave of 64 threads that share rows, which fits all.
pub(super) fn layouts(columns: usize) -> Vec<(&'static str, Lanes, Requirements)> {
    let mut layouts = Vec::new();
    if columns <= 1024 {
        let software = Requirements { software: true, ..Default::default() };
        layouts.push(("row_each", Lanes::row_each(columns, 8), software));
    }
    layouts.push(("shared_rows", Lanes::new(columns, 64, 64), Requirements::default()));
    layouts
}

/// The forward dispatch: of [`Norm`], and of `Embedding` after its look-ups.
pub(super) fn forward(norm: &Norm, dropout: (Dropout, Side), lanes: Lanes) -> Dispatch {
    let (dropout, at) = dropout;
    let mut constants = lanes.constants();
    constants.extend([
        ("PER_THREAD", lanes.per_thread() as u32),
        ("RESIDUAL", u32::from(norm.residual.is_some())),
        ("DROPOUT", side(dropout, at)),
    ]);
    let input = if norm.residual.is_some() { write(norm.input) } else { read(norm.input) };
    let mut bindings =
        vec![input, read(norm.weight), read(norm.bias), write(norm.statistics), write(norm.output)];
    bindings.extend(norm.residual.map(read));
    if dropout.is_on() {
        bindings.extend(norm.positions.map(read));
        bindings.extend(norm.sequences.map(read));
    }
    let mut immediates = immediates(norm.rows, norm.columns);
    immediates.push(norm.epsilon.to_bits());
    immediates.extend(dropout.immediates());
    Dispatch { shader: "norm_forward", constants, bindings, immediates, grid: lanes.grid(norm.rows) }
}

impl Kernels for Norm {
    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(strategy, lanes, requires)| Candidate {
            strategy,
            requires,
            dispatches: vec![forward(self, (self.dropout, Side::Input), lanes)],
        };
        layouts(self.columns).into_iter().map(candidate).collect()
    }
}

impl NormGradient {
    fn rows_dispatch(&self, lanes: Lanes) -> Dispatch {
        let (input, output) = (self.branch_dropout(), self.output_dropout);
        assert!(!(input.is_on() && output.is_on()), "norm_gradient: dropout on both sides has no kernel");
        let mut constants = lanes.constants();
        constants.extend([
            ("PER_THREAD", lanes.per_thread() as u32),
            ("BRANCH", u32::from(self.input_gradient.is_some())),
            ("DROPOUT", side(input, Side::Input) + side(output, Side::Output)),
        ]);
        let mut bindings = vec![read(self.output_gradient), read(self.sum), read(self.statistics)];
        bindings.extend([read(self.weight), write(self.sum_gradient)]);
        bindings.extend(self.input_gradient.map(write));
        let dropout = if input.is_on() { input } else { output };
        if dropout.is_on() {
            bindings.extend(self.positions.map(read));
            bindings.extend(self.sequences.map(read));
        }
        let mut immediates = immediates(self.rows, self.columns);
        immediates.extend(dropout.immediates());
        Dispatch { shader: "norm_gradient", constants, bindings, immediates, grid: lanes.grid(self.rows) }
    }

    fn parameters_dispatch(&self) -> Dispatch {
        let lanes = Lanes::new(self.columns, 16, 256);
        let dropout = self.output_dropout;
        let mut constants = lanes.constants();
        constants.push(("DROPOUT", u32::from(dropout.is_on())));
        let mut bindings = vec![read(self.output_gradient), read(self.sum), read(self.statistics)];
        bindings.push(write(self.partials));
        if dropout.is_on() {
            bindings.extend(self.positions.map(read));
            bindings.extend(self.sequences.map(read));
        }
        let mut immediates = immediates(self.rows, self.columns);
        immediates.push(NORM_PARTIALS as u32);
        immediates.extend(dropout.immediates());
        let grid = Grid(vec![Count::Fixed(NORM_PARTIALS), Count::Fixed(lanes.per_thread())]);
        Dispatch { shader: "norm_parameter_gradient", constants, bindings, immediates, grid }
    }
}

impl Kernels for NormGradient {
    fn candidates(&self) -> Vec<Candidate> {
        let sums = [self.weight_gradient, self.bias_gradient];
        let candidate = |(strategy, lanes, requires)| Candidate {
            strategy,
            requires,
            dispatches: vec![
                self.rows_dispatch(lanes),
                self.parameters_dispatch(),
                sum_partials(self.partials, NORM_PARTIALS, &sums, self.rows, 2 * self.columns),
            ],
        };
        layouts(self.columns).into_iter().map(candidate).collect()
    }
}

/// The second stage of a sum over rows: adds the `count` partial sums of `columns` columns to the targets, one,
/// or two that take half the columns each.
pub(super) fn sum_partials(
    partials: TensorId,
    count: usize,
    targets: &[TensorId],
    rows: Rows,
    columns: usize,
) -> Dispatch {
    const COLUMNS: usize = 16;
    let mut bindings = vec![read(partials)];
    bindings.extend(targets.iter().copied().map(write));
    let mut immediates = immediates(rows, columns);
    immediates.push(count as u32);
    Dispatch {
        shader: "sum_partials",
        constants: vec![("COLUMNS", COLUMNS as u32), ("PARTS", 16), ("OUTPUTS", targets.len() as u32)],
        bindings,
        immediates,
        grid: Grid(vec![Count::Fixed(columns.div_ceil(COLUMNS))]),
    }
}
