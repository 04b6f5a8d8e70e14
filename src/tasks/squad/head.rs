//! The plain span head: two logits a token, for the start and the end of the answer.

use std::ops::Range;

use crate::model::feed::{Feed, Labelled};
use crate::model::finetune::{Built, Head, HeadPlace, place};
use crate::model::layers::DenseLayer;
use crate::model::parameters::DenseParameters;
use crate::ops::matmul::Epilogue;
use crate::ops::span_loss::SpanLoss;
use crate::plan::PlanBuilder;
use crate::tasks::layers::{Logits, add_up, head_layer};
use crate::tensor::TensorId;

/// What is known of a window. Positions are those of its ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The first and last position of the answer (both 0: none here).
    pub first: u32,
    pub last: u32,
    /// Positions that may win beside `[CLS]`.
    pub context: Range<u32>,
    pub impossible: bool,
}

/// Start and end of an answer: two logits a token.
#[derive(Clone, Copy, Debug)]
pub struct Span;

impl Head for Span {
    type Label = Target;
    type Outputs = Logits;

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        vec![head_layer(builder, "qa_outputs", hidden, 2)]
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<Target>,
    ) -> Built<Logits> {
        let rows = place.packed.tokens;
        let layer = DenseLayer { label: "logits", parameters: &layers[0], rows };
        let (tensor, layer) = layer.logits(builder, place.encoded, "logits");
        let logits = Logits { tensor, columns: 2, by_token: true };
        if !place.train {
            return logits.built(None);
        }
        let allowed = feed.uint(builder, "allowed", (rows, 1), allowed);
        let targets = feed.uint(builder, "targets", (place.packed.sequence_rows, 2), both_ends);
        let loss = SpanTargets { label: "span", logits: tensor, allowed, targets, columns: 2, weight: 1.0 };
        let gradient = loss.push(builder, place, place::FIRST);
        logits.built(Some(layer.backward(builder, gradient, "encoded.gradient", Epilogue::None)))
    }
}

/// u32 `[T]`: 1 where a token may begin or end an answer.
pub fn allowed(labelled: &Labelled<'_, Target>) -> Vec<u32> {
    let lengths = labelled.batch.starts.windows(2).map(|ends| ends[1] - ends[0]);
    let positions = labelled.labels.iter().zip(lengths).flat_map(|(target, length)| {
        let may = |position| position == 0 || target.context.contains(&position);
        (0..length).map(move |position| u32::from(may(position)))
    });
    positions.collect()
}

/// u32 `[B, 2]`: the answers' first and last positions.
fn both_ends(labelled: &Labelled<'_, Target>) -> Vec<u32> {
    labelled.labels.iter().flat_map(|target| [target.first, target.last]).collect()
}

/// A loss of `[T, columns]` logits by sequences.
pub struct SpanTargets<'a> {
    pub label: &'a str,
    pub logits: TensorId,
    pub allowed: TensorId,
    /// u32 `[B, columns]`: positions.
    pub targets: TensorId,
    pub columns: usize,
    pub weight: f32,
}

impl SpanTargets<'_> {
    /// Pushes the loss and its sums; returns the gradient of the logits.
    pub fn push(self, builder: &mut PlanBuilder, place: &HeadPlace, sums: [usize; 3]) -> TensorId {
        let SpanTargets { label, logits, allowed, targets, columns, weight } = self;
        let (tokens, sequences) = (place.packed.tokens, place.packed.sequence_rows);
        let results = builder.exact(&format!("{label}.results"), sequences, 3);
        let gradient = builder.exact_gradient(&format!("{label}.logits.gradient"), tokens, columns);
        builder.push(
            &format!("{label}.loss"),
            SpanLoss {
                logits,
                allowed,
                starts: place.packed.starts,
                targets,
                results,
                gradient: Some(gradient),
                sequences,
                tokens,
                columns,
                weight,
            },
        );
        add_up(builder, place, results, sums, sequences);
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::super::joint_head::{ends, impossible, starts};
    use super::*;
    use crate::batch::{MaskedExample, PackedBatch};

    #[test]
    fn targets_stand_where_the_heads_look() {
        let targets = [
            Target { first: 3, last: 4, context: 2..5, impossible: false },
            Target { first: 0, last: 0, context: 2..2, impossible: true },
        ];
        let example = |length: u32| MaskedExample::new((0..length).collect(), 2, Vec::new());
        let batch = PackedBatch::pack(7, &[example(6), example(3)]);
        assert_eq!((batch.first_sequence, batch.starts.clone()), (7, vec![0, 6, 9]));
        let labels = targets.each_ref();
        let labelled = Labelled { batch: &batch, labels: &labels };
        assert_eq!(allowed(&labelled), [1, 0, 1, 1, 1, 0, 1, 0, 0]);
        assert_eq!(both_ends(&labelled), [3, 4, 0, 0]);
        assert_eq!((starts(&labelled), ends(&labelled)), (vec![3, 0], vec![4, 0]));
        assert_eq!(impossible(&labelled), [0.0, 1.0]);
        assert_eq!(Span.weight(&targets[0]), 1);
    }
}
