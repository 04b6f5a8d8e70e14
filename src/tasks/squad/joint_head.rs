//! The joint span head: the end depends on the start, and answerability on where the starts are likely.

use std::ops::Range;

use crate::model::feed::{Feed, Labelled};
use crate::model::finetune::{Built, Head, HeadPlace, Sums, mean, place};
use crate::model::layers::{DenseLayer, DenseTape, GeluTape};
use crate::model::parameters::DenseParameters;
use crate::ops::matmul::Epilogue;
use crate::ops::row_loss::RowLossKind;
use crate::ops::span_pair::{SpanPair, SpanPairGradient};
use crate::ops::span_pool::{SpanPool, SpanPoolGradient};
use crate::plan::PlanBuilder;
use crate::tasks::layers::{Loss, head_layer};
use crate::tensor::TensorId;

use super::head::{SpanTargets, Target, allowed};

/// Width of the inner layers (the reference's).
const INNER: usize = 512;

/// Weight of answerability beside the mean of start and end.
const ANSWERABILITY_WEIGHT: f32 = 0.5;

/// Start, then end given the start; with answerability for SQuAD 2.0.
#[derive(Clone, Copy, Debug)]
pub struct JointSpan {
    pub answerability: bool,
}

/// What prediction reads, and how the ends are asked for.
#[derive(Clone, Debug)]
pub struct JointOutputs {
    /// `[T]`.
    pub start_logits: TensorId,
    /// `[T]`: given the starts in `starts`.
    pub end_logits: TensorId,
    /// `[B]`: positive where impossible.
    pub impossible_logits: Option<TensorId>,
    /// u32 `[B]`: positions.
    pub starts: TensorId,
    /// The ops that give the ends for the starts uploaded before.
    pub end_ops: Range<usize>,
}

/// The starts' logits, their gradient, and where they may be.
#[derive(Clone, Copy)]
struct Starts {
    logits: TensorId,
    gradient: TensorId,
    allowed: TensorId,
}

/// Answerability that went forward.
struct Answerability<'a> {
    pooled: TensorId,
    statistics: TensorId,
    dense: GeluTape<'a>,
    output: DenseTape<'a>,
    /// `[B, 1]`.
    logits: TensorId,
}

/// The end's logits given a start, forward.
struct End<'a> {
    dense: GeluTape<'a>,
    output: DenseTape<'a>,
    /// u32 `[B]`.
    chosen: TensorId,
    /// `[T, 1]`.
    logits: TensorId,
    ops: Range<usize>,
}

impl Head for JointSpan {
    type Label = Target;
    type Outputs = JointOutputs;

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        let mut layers = vec![("joint_start", hidden, 1)];
        layers.extend([("joint_end.dense", 2 * hidden, INNER), ("joint_end.out_proj", INNER, 1)]);
        if self.answerability {
            layers.extend([("answerability.dense", 2 * hidden, INNER), ("answerability.out_proj", INNER, 1)]);
        }
        let layers = layers.into_iter();
        layers.map(|(name, inputs, outputs)| head_layer(builder, name, inputs, outputs)).collect()
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<Target>,
    ) -> Built<JointOutputs> {
        let (tokens, sequences) = (place.packed.tokens, place.packed.sequence_rows);
        let start = DenseLayer { label: "start", parameters: &layers[0], rows: tokens };
        let (start_logits, start) = start.logits(builder, place.encoded, "start.logits");
        let allowed = feed.uint(builder, "allowed", (tokens, 1), allowed);
        let chosen = feed.uint(builder, "starts", (sequences, 1), starts);
        let answerability =
            layers.get(3..5).map(|layers| answer(builder, place, layers, start_logits, allowed));
        let end = end(builder, place, &layers[1..3], chosen);
        let impossible_logits = answerability.as_ref().map(|answerability| answerability.logits);
        let outputs = JointOutputs {
            start_logits,
            end_logits: end.logits,
            impossible_logits,
            starts: chosen,
            end_ops: end.ops.clone(),
        };
        let read = [start_logits, end.logits].into_iter().chain(impossible_logits).collect();
        if !place.train {
            return Built { outputs, read, encoded_gradient: None };
        }
        let ends = feed.uint(builder, "ends", (sequences, 1), ends);
        let loss =
            |label, logits, targets| SpanTargets { label, logits, allowed, targets, columns: 1, weight: 0.5 };
        let gradient = loss("start", start_logits, chosen).push(builder, place, place::FIRST);
        let end_gradient = loss("end", end.logits, ends).push(builder, place, place::SECOND);
        let start_scores = Starts { logits: start_logits, gradient, allowed };
        let residual = answerability.map(|answerability| {
            let impossible = feed.float(builder, "impossible", (sequences, 1), impossible);
            answerability.backward(builder, place, impossible, start_scores)
        });
        let hidden_gradient = end.backward(builder, place, end_gradient, residual);
        let epilogue = Epilogue::Add(hidden_gradient);
        let encoded_gradient = start.backward(builder, gradient, "start.input.gradient", epilogue);
        Built { outputs, read, encoded_gradient: Some(encoded_gradient) }
    }

    fn loss(&self, sums: &Sums) -> f64 {
        let [first, second, third] = sums.map(mean);
        0.5 * (first + second) + 0.5 * third
    }
}

/// u32 `[B]`: the answers' first positions.
pub(super) fn starts(labelled: &Labelled<'_, Target>) -> Vec<u32> {
    labelled.labels.iter().map(|target| target.first).collect()
}

/// u32 `[B]`: the answers' last positions.
pub(super) fn ends(labelled: &Labelled<'_, Target>) -> Vec<u32> {
    labelled.labels.iter().map(|target| target.last).collect()
}

/// f32 `[B]`: 1 where the window does not answer the question.
pub(super) fn impossible(labelled: &Labelled<'_, Target>) -> Vec<f32> {
    labelled.labels.iter().map(|target| f32::from(u8::from(target.impossible))).collect()
}

/// The first token and the mean of all, weighted by the starts' probabilities, through two layers.
fn answer<'a>(
    builder: &mut PlanBuilder,
    place: &HeadPlace,
    layers: &'a [DenseParameters],
    start_logits: TensorId,
    allowed: TensorId,
) -> Answerability<'a> {
    let (tokens, sequences, columns) = (place.packed.tokens, place.packed.sequence_rows, place.hidden);
    let pooled = builder.activation("answerability.pooled", sequences, 2 * columns);
    let statistics = builder.exact("answerability.statistics", sequences, 2);
    builder.push(
        "answerability.pool",
        SpanPool {
            hidden: place.encoded,
            logits: start_logits,
            allowed,
            starts: place.packed.starts,
            output: pooled,
            statistics,
            sequences,
            tokens,
            columns,
        },
    );
    let dense = DenseLayer { label: "answerability.dense", parameters: &layers[0], rows: sequences };
    let (inner, dense) = dense.gelu(builder, pooled);
    let output = DenseLayer { label: "answerability.out_proj", parameters: &layers[1], rows: sequences };
    let (logits, output) = output.logits(builder, inner, "answerability.logits");
    Answerability { pooled, statistics, dense, output, logits }
}

impl Answerability<'_> {
    /// Its loss and backward: adds to the gradient of the starts' logits, returns that of the encoder's output
    /// `[T, H]`. `impossible`: f32 `[B]`, 1 where the window does not answer.
    fn backward(
        self,
        builder: &mut PlanBuilder,
        place: &HeadPlace,
        impossible: TensorId,
        starts: Starts,
    ) -> TensorId {
        let (tokens, sequences, columns) = (place.packed.tokens, place.packed.sequence_rows, place.hidden);
        let loss = Loss {
            label: "answerability",
            kind: RowLossKind::Sigmoid,
            logits: self.logits,
            targets: impossible,
            rows: sequences,
            columns: 1,
            weight: ANSWERABILITY_WEIGHT,
            sums: place::THIRD,
        };
        let gradient = loss.push(builder, place);
        let inner = "answerability.out_proj.input.gradient";
        let gradient = self.output.backward(builder, gradient, inner, Epilogue::None);
        let output_gradient = self.dense.backward(builder, gradient, "answerability.dense.input.gradient");
        let hidden_gradient = builder.gradient("answerability.hidden.gradient", tokens, columns);
        builder.push(
            "answerability.pool.backward",
            SpanPoolGradient {
                hidden: place.encoded,
                logits: starts.logits,
                allowed: starts.allowed,
                starts: place.packed.starts,
                statistics: self.statistics,
                output: self.pooled,
                output_gradient,
                hidden_gradient,
                logits_gradient: starts.gradient,
                sequences,
                tokens,
                columns,
            },
        );
        hidden_gradient
    }
}

/// Each token beside the token where its sequence's answer starts, through two layers.
fn end<'a>(
    builder: &mut PlanBuilder,
    place: &HeadPlace,
    layers: &'a [DenseParameters],
    chosen: TensorId,
) -> End<'a> {
    let (tokens, sequences, columns) = (place.packed.tokens, place.packed.sequence_rows, place.hidden);
    let first = builder.op_count();
    let pair = builder.activation("end.pair", tokens, 2 * columns);
    builder.push(
        "end.pair",
        SpanPair {
            hidden: place.encoded,
            starts: place.packed.starts,
            chosen,
            sequence_of_row: place.packed.sequences,
            output: pair,
            sequences,
            tokens,
            columns,
        },
    );
    let dense = DenseLayer { label: "end.dense", parameters: &layers[0], rows: tokens };
    let (inner, dense) = dense.gelu(builder, pair);
    let output = DenseLayer { label: "end.out_proj", parameters: &layers[1], rows: tokens };
    let (logits, output) = output.logits(builder, inner, "end.logits");
    End { dense, output, chosen, logits, ops: first..builder.op_count() }
}

impl End<'_> {
    /// The gradient of the encoder's output `[T, H]` through the end, and `residual`.
    fn backward(
        self,
        builder: &mut PlanBuilder,
        place: &HeadPlace,
        gradient: TensorId,
        residual: Option<TensorId>,
    ) -> TensorId {
        let (tokens, sequences, columns) = (place.packed.tokens, place.packed.sequence_rows, place.hidden);
        let inner = "end.out_proj.input.gradient";
        let gradient = self.output.backward(builder, gradient, inner, Epilogue::None);
        let output_gradient = self.dense.backward(builder, gradient, "end.dense.input.gradient");
        let hidden_gradient = builder.gradient("end.hidden.gradient", tokens, columns);
        builder.push(
            "end.pair.backward",
            SpanPairGradient {
                output_gradient,
                starts: place.packed.starts,
                chosen: self.chosen,
                residual,
                hidden_gradient,
                sequences,
                tokens,
                columns,
            },
        );
        hidden_gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_that_of_both_ends_and_answerability() {
        let sums = [[6.0, 1.0, 2.0], [2.0, 2.0, 2.0], [4.0, 0.0, 2.0]];
        assert_eq!(JointSpan { answerability: true }.loss(&sums), 0.5 * (3.0 + 1.0) + 0.5 * 2.0);
    }
}
