//! The kernels of the norms.

use crate::tensor::Dropout;

use super::immediates::{DropoutWords, RowsColumns, immediates};
use super::lanes::Lanes;
use super::norm::{self, Norm, NormGradient};
use super::{
    Binding, Candidate, Count, Dispatch, Grid, Kernels, Limit, PartialSums, Requirements, SumTarget, bind,
};

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

/// The most columns of a row that fit into a thread's memory.
const ROW_EACH: usize = 1024;

/// Ways to lay rows over threads, best first: whole rows a thread for software adapters as long as a row fits
/// into a thread's memory, and a wave of 64 threads that share rows, which fits all.
pub(super) fn layouts(columns: usize) -> Vec<(&'static str, Lanes, Requirements)> {
    let mut layouts = Vec::new();
    if columns <= ROW_EACH {
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
    struct GradientImmediates {
        shape: RowsColumns,
        /// Partial sums, each of a block of rows.
        partials: u32,
        dropout: DropoutWords,
    }
}

/// Storage buffers that WebGPU guarantees.
const GUARANTEED_BUFFERS: usize = 8;

impl NormGradient {
    /// What dropout draws at, where it is on.
    fn coordinates(&self, dropout: Dropout) -> Vec<Binding> {
        let coordinates = [self.positions, self.sequences].into_iter().flatten();
        coordinates.filter(|_| dropout.is_on()).map(Binding::from).collect()
    }

    /// The gradient of the sum, and of the branch; with `fused` the partial sums for weight and bias too.
    fn rows_dispatch(&self, lanes: Lanes, fused: bool) -> Dispatch {
        let (input, output) = (self.branch_dropout(), self.output_dropout);
        let mut bindings =
            bind([self.output_gradient, self.sum, self.statistics, self.weight, self.sum_gradient]);
        bindings.extend(fused.then_some(Binding::from(self.partials)));
        bindings.extend(self.input_gradient.map(Binding::from));
        let coordinates = bindings.len() as u32 + 1;
        let dropout = if input.is_on() { input } else { output };
        bindings.extend(self.coordinates(dropout));
        let mut constants = lanes.constants();
        constants.extend([
            ("PER_THREAD", lanes.per_thread() as u32),
            ("BRANCH", u32::from(self.input_gradient.is_some())),
            ("DROPOUT", side(input, Side::Input) + side(output, Side::Output)),
            ("PARTIALS", u32::from(fused)),
            ("AT", coordinates),
        ]);
        let grid =
            if fused { Grid(vec![Count::Fixed(norm::partials(self.rows))]) } else { lanes.grid(self.rows) };
        let immediates = self.immediates(dropout).into();
        Dispatch { shader: "norm_gradient", constants, bindings, immediates, grid }
    }

    /// The partial sums for weight and bias alone.
    fn parameters_dispatch(&self) -> Dispatch {
        let lanes = Lanes::new(self.columns, 16, 256);
        let dropout = self.output_dropout;
        let mut constants = lanes.constants();
        constants.push(("DROPOUT", u32::from(dropout.is_on())));
        let mut bindings = bind([self.output_gradient, self.sum, self.statistics, self.partials]);
        bindings.extend(self.coordinates(dropout));
        let immediates = self.immediates(dropout).into();
        let partials = norm::partials(self.rows);
        let grid = Grid(vec![Count::Fixed(partials), Count::Fixed(lanes.per_thread())]);
        Dispatch { shader: "norm_parameter_gradient", constants, bindings, immediates, grid }
    }

    fn immediates(&self, dropout: Dropout) -> GradientImmediates {
        GradientImmediates {
            shape: RowsColumns::new(self.rows, self.columns),
            partials: norm::partials(self.rows) as u32,
            dropout: dropout.into(),
        }
    }
}

impl Kernels for NormGradient {
    /// One kernel, or two where dropout of a branch needs more bindings than WebGPU guarantees. Software adapters take two:
    /// in a thread that takes whole rows the sums of all its lanes are too much for their compilers.
    fn candidates(&self) -> Vec<Candidate> {
        let two_kernels = |strategy, lanes, requires| Candidate {
            strategy,
            requires,
            dispatches: vec![self.rows_dispatch(lanes, false), self.parameters_dispatch()],
        };
        let mut candidates = Vec::new();
        if self.columns <= ROW_EACH {
            let software = Requirements { software: true, ..Requirements::default() };
            candidates.push(two_kernels("row_each", Lanes::row_each(self.columns, 8), software));
        }
        let fused = self.rows_dispatch(Lanes::new(self.columns, 64, 256), true);
        let beyond = fused.bindings.len() > GUARANTEED_BUFFERS;
        let storage_buffers = if beyond { fused.bindings.len() as u32 } else { 0 };
        let requires = Requirements { storage_buffers, ..Requirements::default() };
        candidates.push(Candidate { strategy: "shared_rows", requires, dispatches: vec![fused] });
        if beyond {
            let lanes = Lanes::new(self.columns, 64, 64);
            candidates.push(two_kernels("two_kernels", lanes, Requirements::default()));
        }
        candidates
    }

    fn sums(&self) -> Option<PartialSums> {
        let c = self.columns;
        let target = |(tensor, first)| SumTarget { tensor, at: 0, first, elements: c };
        let targets = [(self.weight_gradient, 0), (self.bias_gradient, c)].map(target).to_vec();
        let parts = norm::partials(self.rows);
        Some(PartialSums { partials: self.partials, parts, columns: 2 * c, targets })
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
