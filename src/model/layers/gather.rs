//! Some rows of the encoder's output: masked slots, first tokens.

use crate::ops::gather::{Gather, GatherGradient};
use crate::plan::PlanBuilder;
use crate::tensor::{Rows, TensorId};

use crate::model::inputs::Packed;

/// output[r] = input[list[r]]: `[T, C]` to `[R, C]`.
#[derive(Clone, Copy)]
pub struct GatherLayer<'a> {
    /// Of the ops.
    pub label: &'a str,
    /// u32 `[R]`: rows of the input, none twice.
    pub list: TensorId,
    pub rows: Rows,
    /// Rows of the input.
    pub tokens: Rows,
    pub columns: usize,
}

/// Rows that were gathered.
#[derive(Clone, Copy)]
pub struct GatherTape<'a> {
    layer: GatherLayer<'a>,
}

impl<'a> GatherLayer<'a> {
    /// The first token of every sequence: R is B.
    pub fn first_tokens(label: &'a str, packed: &Packed, columns: usize) -> Self {
        let (rows, tokens) = (packed.sequence_rows, packed.tokens);
        GatherLayer { label, list: packed.starts, rows, tokens, columns }
    }

    /// The output is called `output`.
    pub fn forward(
        &self,
        builder: &mut PlanBuilder,
        input: TensorId,
        output: &str,
    ) -> (TensorId, GatherTape<'a>) {
        let GatherLayer { list, rows, columns, .. } = *self;
        let output = builder.activation(output, rows, columns);
        builder.push(self.label, Gather { input, list, output, rows, columns });
        (output, GatherTape { layer: *self })
    }
}

impl GatherTape<'_> {
    /// From the gradient of the output to that of the input, called `input_gradient`: zero in rows that were not
    /// gathered. `slots` is the list turned round, u32 `[T]`: the gathered row of each row, or `gather::NO_SLOT`.
    pub fn backward(
        self,
        builder: &mut PlanBuilder,
        output_gradient: TensorId,
        slots: TensorId,
        input_gradient: &str,
    ) -> TensorId {
        let GatherLayer { tokens: rows, columns, .. } = self.layer;
        let output = builder.gradient(input_gradient, rows, columns);
        builder.push(
            &format!("{}.backward", self.layer.label),
            GatherGradient { gradient: output_gradient, slots, output, rows, columns },
        );
        output
    }
}
