//! Heads that read the first token of every sequence: [dropout →] dense → GELU → dropout → dense.

use crate::model::feed::{Feed, Labelled};
use crate::model::finetune::{Built, HeadPlace};
use crate::model::inputs::Coordinates;
use crate::model::layers::{DenseLayer, DropoutLayer, GatherLayer};
use crate::model::parameters::DenseParameters;
use crate::ops::gather::NO_SLOT;
use crate::ops::matmul::Epilogue;
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, TensorId};

use super::layers::Logits;

/// Pushes the layers and, in training, `loss`, which returns the gradient of the logits `[B, C]`, and the backward
/// pass. `layers` are the inner and the outer one; `input_dropout` stands before them.
pub fn build<L>(
    builder: &mut PlanBuilder,
    layers: &[DenseParameters],
    place: &HeadPlace,
    feed: &mut Feed<L>,
    input_dropout: Dropout,
    loss: impl FnOnce(&mut PlanBuilder, &mut Feed<L>, TensorId) -> TensorId,
) -> Built<Logits> {
    let (rows, hidden, packed) = (place.packed.sequence_rows, place.hidden, &place.packed);
    let gather = GatherLayer::first_tokens("first", packed, hidden);
    let (first, gather) = gather.forward(builder, place.encoded, "first");
    let at = match input_dropout.is_on() || place.inner_dropout.is_on() {
        true => coordinates(builder, place, feed),
        // Without dropout nothing reads the coordinates.
        false => packed.coordinates(),
    };
    let dropout = |label, dropout| DropoutLayer { label, dropout, at, rows, columns: hidden };
    let (input, before) = dropout("first.dropout", input_dropout).forward(builder, first);
    let inner = DenseLayer { label: "dense", parameters: &layers[0], rows };
    let (activated, inner) = inner.gelu(builder, input);
    let (activated, between) = dropout("dense.dropout", place.inner_dropout).forward(builder, activated);
    let outer = DenseLayer { label: "logits", parameters: &layers[1], rows };
    let (tensor, outer) = outer.logits(builder, activated, "logits");
    let logits = Logits { tensor, columns: layers[1].outputs, by_token: false };
    if !place.train {
        return logits.built(None);
    }
    let slots = feed.uint(builder, "first_of", (packed.tokens, 1), sequence_of_first);
    let gradient = loss(builder, feed, tensor);
    let gradient = outer.backward(builder, gradient, "logits.input.gradient", Epilogue::None);
    let gradient = between.backward(builder, gradient);
    let gradient = inner.backward(builder, gradient, "dense.input.gradient");
    let gradient = before.backward(builder, gradient);
    logits.built(Some(gather.backward(builder, gradient, slots, "encoded.gradient")))
}

/// Where first tokens stand, for dropout: at position 0 of their sequences.
fn coordinates<L>(builder: &mut PlanBuilder, place: &HeadPlace, feed: &mut Feed<L>) -> Coordinates {
    let shape = (place.packed.sequence_rows, 1);
    let positions = feed.uint(builder, "first.positions", shape, |l| vec![0; l.batch.sequence_count()]);
    let sequences =
        feed.uint(builder, "first.sequences", shape, |l| (0..l.batch.sequence_count() as u32).collect());
    Coordinates { positions, sequences }
}

/// For every row the sequence it is the first of, or `NO_SLOT`.
fn sequence_of_first<L>(labelled: &Labelled<'_, L>) -> Vec<u32> {
    let batch = labelled.batch;
    let mut first_of = vec![NO_SLOT; batch.tokens()];
    for (sequence, &row) in batch.starts[..batch.sequence_count()].iter().enumerate() {
        first_of[row as usize] = sequence as u32;
    }
    first_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{MaskedExample, PackedBatch};

    #[test]
    fn first_tokens_know_their_sequence() {
        let example = |length: u32| MaskedExample::new((0..length).collect(), 2, Vec::new());
        let batch = PackedBatch::pack(7, &[example(6), example(3)]);
        let labels: [&(); 0] = [];
        let first_of = sequence_of_first(&Labelled { batch: &batch, labels: &labels });
        assert_eq!(first_of[6], 1);
        assert_eq!((first_of[0], first_of[1], first_of.len()), (0, NO_SLOT, 9));
    }
}
