//! Layer normalisation, with the residual and the dropout before it.

use crate::ops::norm::{self, Norm, NormGradient};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Rows, TensorId};

use crate::model::inputs::Coordinates;
use crate::model::parameters::NormParameters;

/// `docs/spec.md` §2.
pub const NORM_EPSILON: f32 = 1e-12;

/// output = LayerNorm(residual + dropout(input)), `[R, C]`.
#[derive(Clone, Copy)]
pub struct NormLayer<'a> {
    /// Of the op, and of its output.
    pub label: &'a str,
    pub parameters: &'a NormParameters,
    pub rows: Rows,
    pub columns: usize,
    /// Of the input; off where there is no residual.
    pub dropout: Dropout,
    /// Needed where dropout is on.
    pub at: Option<Coordinates>,
}

/// A norm that went forward.
#[derive(Clone, Copy)]
pub struct NormTape<'a> {
    pub(super) layer: NormLayer<'a>,
    /// `[R, C]`: what was normalised.
    pub(super) sum: TensorId,
    /// `[R, 2]`.
    pub(super) statistics: TensorId,
    /// Of the norm's output; only the embeddings have one.
    pub(super) output_dropout: Dropout,
}

/// Gradients of what went into a norm.
#[derive(Clone, Copy)]
pub struct NormGradients {
    pub residual: TensorId,
    /// Of the input before its dropout; the residual's where there is none.
    pub input: TensorId,
}

impl<'a> NormLayer<'a> {
    /// Where there is a residual, `input` is overwritten with the sum.
    pub fn forward(
        &self,
        builder: &mut PlanBuilder,
        input: TensorId,
        residual: Option<TensorId>,
    ) -> (TensorId, NormTape<'a>) {
        let NormLayer { label, parameters, rows, columns, dropout, at } = *self;
        let statistics = builder.exact(&format!("{label}.statistics"), rows, 2);
        let output = builder.activation(label, rows, columns);
        builder.push(
            label,
            Norm {
                input,
                residual,
                weight: parameters.weight.value,
                bias: parameters.bias.value,
                statistics,
                output,
                rows,
                columns,
                epsilon: NORM_EPSILON,
                dropout,
                positions: at.map(|at| at.positions),
                sequences: at.map(|at| at.sequences),
            },
        );
        let output_dropout = Dropout::off();
        (output, NormTape { layer: *self, sum: input, statistics, output_dropout })
    }
}

impl NormTape<'_> {
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId) -> NormGradients {
        let NormLayer { label, parameters, rows, columns, dropout: input_dropout, at } = self.layer;
        let label = format!("{label}.backward");
        let sum_gradient = builder.gradient(&format!("{label}.sum.gradient"), rows, columns);
        let input_gradient = input_dropout
            .is_on()
            .then(|| builder.gradient(&format!("{label}.input.gradient"), rows, columns));
        let parts = Rows::fixed(norm::partials(rows));
        let partials = builder.scratch(&format!("{label}.partials"), parts, 2 * columns);
        builder.push(
            &label,
            NormGradient {
                output_gradient,
                sum: self.sum,
                statistics: self.statistics,
                weight: parameters.weight.value,
                sum_gradient,
                input_gradient,
                weight_gradient: parameters.weight.gradient,
                bias_gradient: parameters.bias.gradient,
                partials,
                rows,
                columns,
                output_dropout: self.output_dropout,
                input_dropout,
                positions: at.map(|at| at.positions),
                sequences: at.map(|at| at.sequences),
            },
        );
        NormGradients { residual: sum_gradient, input: input_gradient.unwrap_or(sum_gradient) }
    }
}
