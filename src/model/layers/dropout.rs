//! Dropout: its places in the model, and as a layer where no norm takes it along.

use crate::ops::apply_dropout::ApplyDropout;
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Rows, TensorId};

use crate::model::inputs::Coordinates;

pub use crate::tensor::draws::site;

/// output = input × factor, `[R, C]`; nothing at all where dropout is off.
#[derive(Clone, Copy)]
pub struct DropoutLayer<'a> {
    /// Of the op, and of its output.
    pub label: &'a str,
    pub dropout: Dropout,
    pub at: Coordinates,
    pub rows: Rows,
    pub columns: usize,
}

/// Dropout that went forward: backward draws the same factors again.
#[derive(Clone, Copy)]
pub struct DropoutTape<'a> {
    layer: DropoutLayer<'a>,
}

impl<'a> DropoutLayer<'a> {
    pub fn forward(&self, builder: &mut PlanBuilder, input: TensorId) -> (TensorId, DropoutTape<'a>) {
        (self.apply(builder, self.label, input), DropoutTape { layer: *self })
    }

    fn apply(&self, builder: &mut PlanBuilder, label: &str, input: TensorId) -> TensorId {
        let DropoutLayer { dropout, rows, columns, at: Coordinates { positions, sequences }, .. } = *self;
        if !dropout.is_on() {
            return input;
        }
        let output = builder.activation(label, rows, columns);
        builder.push(label, ApplyDropout { input, output, positions, sequences, rows, columns, dropout });
        output
    }
}

impl DropoutTape<'_> {
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId) -> TensorId {
        self.layer.apply(builder, &format!("{}.backward", self.layer.label), output_gradient)
    }
}
