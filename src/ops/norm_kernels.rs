//! The kernels of the norms.

use crate::tensor::{Dropout, Rows, TensorId};

use super::immediates::{DropoutWords, RowsColumns, immediates};
use super::lanes::Lanes;
use super::norm::{NORM_PARTIALS, Norm, NormGradient};
use super::{Binding, Candidate, Count, Dispatch, Grid, Kernels, Limit, Requirements, bind};

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

immediates! {
    struct ForwardImmediates {
        shape: RowsColumns,
        epsilon: f32,
        dropout: DropoutWords,
    }
}

/// The forward dispatch: of [`Norm`], and of `Embedding` after its look-ups. `input` binds the norm's input.
pub(super) fn forward(norm: &Norm, input: Binding, dropout: (Dropout, Side), lanes: Lanes) -> Dispatch {
    let (dropout, at) = dropout;
    let mut constants = lanes.constants();
    constants.extend([
        ("PER_THREAD", lanes.per_thread() as u32),
        ("RESIDUAL", u32::from(norm.residual.is_some())),
        ("DROPOUT", side(dropout, at)),
    ]);
    let mut bindings = vec![input];
    bindings.extend(bind([norm.weight, norm.bias, norm.statistics, norm.output]));
    bindings.extend(norm.residual.map(Binding::from));
    if dropout.is_on() {
        bindings.extend(norm.positions.map(Binding::from));
        bindings.extend(norm.sequences.map(Binding::from));
    }
    let shape = RowsColumns::new(norm.rows, norm.columns);
    let immediates = ForwardImmediates { shape, epsilon: norm.epsilon, dropout: dropout.into() }.into();
    Dispatch { shader: "norm_forward", constants, bindings, immediates, grid: lanes.grid(norm.rows) }
}

impl Kernels for Norm {
    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(strategy, lanes, requires)| Candidate {
            strategy,
            requires,
            dispatches: vec![forward(self, self.input.into(), (self.dropout, Side::Input), lanes)],
        };
        layouts(self.columns).into_iter().map(candidate).collect()
    }
}

immediates! {
    struct RowsImmediates {
        shape: RowsColumns,
        dropout: DropoutWords,
    }
}

immediates! {
    struct ParametersImmediates {
        shape: RowsColumns,
        partials: u32,
        dropout: DropoutWords,
    }
}

immediates! {
    /// Of the kernels of a sum over rows in two stages: the first stage leaves so many partial sums.
    pub(super) struct PartialsImmediates {
        shape: RowsColumns,
        partials: u32,
    }
}

impl NormGradient {
    /// What dropout draws at, where it is on.
    fn coordinates(&self, dropout: Dropout) -> Vec<Binding> {
        let coordinates = [self.positions, self.sequences].into_iter().flatten();
        coordinates.filter(|_| dropout.is_on()).map(Binding::from).collect()
    }

    fn rows_dispatch(&self, lanes: Lanes) -> Dispatch {
        let (input, output) = (self.branch_dropout(), self.output_dropout);
        let mut constants = lanes.constants();
        constants.extend([
            ("PER_THREAD", lanes.per_thread() as u32),
            ("BRANCH", u32::from(self.input_gradient.is_some())),
            ("DROPOUT", side(input, Side::Input) + side(output, Side::Output)),
        ]);
        let mut bindings =
            bind([self.output_gradient, self.sum, self.statistics, self.weight, self.sum_gradient]);
        bindings.extend(self.input_gradient.map(Binding::from));
        let dropout = if input.is_on() { input } else { output };
        bindings.extend(self.coordinates(dropout));
        let shape = RowsColumns::new(self.rows, self.columns);
        let immediates = RowsImmediates { shape, dropout: dropout.into() }.into();
        Dispatch { shader: "norm_gradient", constants, bindings, immediates, grid: lanes.grid(self.rows) }
    }

    fn parameters_dispatch(&self) -> Dispatch {
        let lanes = Lanes::new(self.columns, 16, 256);
        let dropout = self.output_dropout;
        let mut constants = lanes.constants();
        constants.push(("DROPOUT", u32::from(dropout.is_on())));
        let mut bindings = bind([self.output_gradient, self.sum, self.statistics, self.partials]);
        bindings.extend(self.coordinates(dropout));
        let immediates = ParametersImmediates {
            shape: RowsColumns::new(self.rows, self.columns),
            partials: NORM_PARTIALS as u32,
            dropout: dropout.into(),
        };
        let immediates = immediates.into();
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

    fn limits(&self) -> Vec<Limit> {
        let sides = [self.branch_dropout(), self.output_dropout];
        vec![Limit {
            what: "sides of a norm under dropout",
            value: sides.iter().filter(|side| side.is_on()).count(),
            most: 1,
            advice: "use --device cpu",
        }]
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
    let mut bindings = vec![Binding::ReadBack(partials)];
    bindings.extend(targets.iter().copied().map(Binding::from));
    let shape = RowsColumns::new(rows, columns);
    let immediates = PartialsImmediates { shape, partials: count as u32 }.into();
    Dispatch {
        shader: "sum_partials",
        constants: vec![("COLUMNS", COLUMNS as u32), ("PARTS", 16), ("OUTPUTS", targets.len() as u32)],
        bindings,
        immediates,
        grid: Grid(vec![Count::Fixed(columns.div_ceil(COLUMNS))]),
    }
}
