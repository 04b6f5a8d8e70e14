//! What the heads of the tasks are made of beside the model's layers: losses by row, and logits to be read.

use crate::model::finetune::{Built, HeadPlace};
use crate::model::parameters::{DenseParameters, dense};
use crate::ops::metric_sums::MetricSums;
use crate::ops::row_loss::{RowLoss, RowLossKind};
use crate::plan::{Initial, PlanBuilder};
use crate::tensor::{Rows, TensorId};

/// Declares a dense layer of a head.
pub fn head_layer(builder: &mut PlanBuilder, name: &str, inputs: usize, outputs: usize) -> DenseParameters {
    dense(builder, &[name.to_owned()], inputs, outputs, Initial::GlorotUniform)
}

/// Logits that are all a head says: `[T, columns]` or `[B, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Logits {
    pub tensor: TensorId,
    pub columns: usize,
    pub by_token: bool,
}

impl Logits {
    /// What a head leaves behind that says no more than these.
    pub fn built(self, encoded_gradient: Option<TensorId>) -> Built<Logits> {
        Built { outputs: self, read: vec![self.tensor], encoded_gradient }
    }
}

/// A loss of `[rows, columns]` logits by rows.
pub struct Loss<'a> {
    pub label: &'a str,
    pub kind: RowLossKind,
    pub logits: TensorId,
    /// u32 or f32 `[rows]`, as the kind says.
    pub targets: TensorId,
    pub rows: Rows,
    pub columns: usize,
    pub weight: f32,
    /// Where its sums go; see `model::finetune::place`.
    pub sums: [usize; 3],
}

impl Loss<'_> {
    /// Pushes the loss and its sums; returns the gradient of the logits.
    pub fn push(self, builder: &mut PlanBuilder, place: &HeadPlace) -> TensorId {
        let Loss { label, kind, logits, targets, rows, columns, weight, sums } = self;
        let results = builder.exact(&format!("{label}.results"), rows, 3);
        let gradient = builder.exact_gradient(&format!("{label}.logits.gradient"), rows, columns);
        builder.push(
            &format!("{label}.loss"),
            RowLoss { kind, logits, targets, results, gradient: Some(gradient), rows, columns, weight },
        );
        add_up(builder, place, results, sums, rows);
        gradient
    }
}

/// Adds the columns of `[rows, 3]` results to the metrics.
pub fn add_up(
    builder: &mut PlanBuilder,
    place: &HeadPlace,
    results: TensorId,
    targets: [usize; 3],
    rows: Rows,
) {
    builder.push("metrics", MetricSums { source: results, metrics: place.metrics, targets, rows });
}
