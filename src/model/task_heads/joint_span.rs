//! The joint span head: the end depends on the start, and answerability on where the starts are likely.

use std::ops::Range;

use crate::model::finetune::{HeadTensors, place};
use crate::model::inputs::uint_input;
use crate::model::layers::linear;
use crate::model::parameters::DenseParameters as Dense;
use crate::ops::matmul::Epilogue;
use crate::ops::row_loss::RowLossKind;
use crate::ops::span_pair::{SpanPair, SpanPairGradient};
use crate::ops::span_pool::{SpanPool, SpanPoolGradient};
use crate::plan::PlanBuilder;
use crate::tensor::TensorId;

use super::{BuiltHead, HeadContext, Inner};

/// Weight of answerability beside the mean of start and end.
const ANSWERABILITY_WEIGHT: f32 = 0.5;

/// Answerability, on the way.
struct Answerability {
    pooled: TensorId,
    statistics: TensorId,
    inner: Inner,
    /// `[B, 1]`.
    logits: TensorId,
}

/// The end's logits given a start, on the way.
struct End {
    inner: Inner,
    /// `[T, 1]`.
    logits: TensorId,
    ops: Range<usize>,
}

impl HeadContext {
    pub(super) fn joint_span(&self, builder: &mut PlanBuilder, layers: &[Dense]) -> BuiltHead {
        let tokens = self.tokens();
        let start = &layers[0];
        let start_logits = builder.exact("start.logits", tokens, 1);
        let epilogue = Epilogue::Bias(start.bias.value);
        builder.push("start", linear(self.encoded, start, start_logits, tokens, epilogue));
        let allowed = uint_input(builder, "allowed", self.capacity.tokens);
        let chosen = uint_input(builder, "starts", self.capacity.sequences);
        let answerability =
            layers.get(3..5).map(|layers| self.answerability(builder, layers, start_logits, allowed));
        let end = self.end(builder, &layers[1..3], chosen);

        let mut tensors = HeadTensors {
            allowed: Some(allowed).filter(|_| self.train || answerability.is_some()),
            starts: Some(chosen),
            logits: Some(start_logits),
            end_logits: Some(end.logits),
            impossible_logits: answerability.as_ref().map(|answerability| answerability.logits),
            ..HeadTensors::default()
        };
        let end_ops = end.ops.clone();
        if !self.train {
            return BuiltHead { tensors, end_ops, ..BuiltHead::default() };
        }
        let ends = uint_input(builder, "ends", self.capacity.sequences);
        tensors.ends = Some(ends);
        let start_gradient =
            self.span_loss(builder, "start", (start_logits, allowed, chosen), 1, 0.5, place::FIRST);
        let end_gradient = self.span_loss(builder, "end", (end.logits, allowed, ends), 1, 0.5, place::SECOND);
        let residual = answerability.map(|answerability| {
            let impossible = self.float_input(builder, "impossible", self.capacity.sequences);
            tensors.impossible = Some(impossible);
            let starts = (start_logits, start_gradient, allowed);
            self.answerability_backward(builder, &layers[3..5], &answerability, impossible, starts)
        });
        let hidden_gradient =
            self.end_backward(builder, &layers[1..3], &end.inner, end_gradient, chosen, residual);
        let epilogue = Epilogue::Add(hidden_gradient);
        let encoded_gradient =
            self.linear_backward(builder, "start", self.encoded, start, start_gradient, tokens, epilogue);
        BuiltHead { tensors, encoded_gradient: Some(encoded_gradient), end_ops }
    }

    /// The first token and the mean of all, weighted by the starts' probabilities, through two layers.
    fn answerability(
        &self,
        builder: &mut PlanBuilder,
        layers: &[Dense],
        start_logits: TensorId,
        allowed: TensorId,
    ) -> Answerability {
        let (tokens, sequences) = (self.tokens(), self.sequences());
        let pooled = builder.activation("answerability.pooled", sequences, 2 * self.hidden);
        let statistics = builder.exact("answerability.statistics", sequences, 2);
        builder.push(
            "answerability.pool",
            SpanPool {
                hidden: self.encoded,
                logits: start_logits,
                allowed,
                starts: self.packed.starts,
                output: pooled,
                statistics,
                sequences,
                tokens,
                columns: self.hidden,
            },
        );
        let inner = self.inner(builder, "answerability.dense", pooled, &layers[0], sequences);
        let logits = builder.exact("answerability.logits", sequences, 1);
        let epilogue = Epilogue::Bias(layers[1].bias.value);
        builder.push("answerability", linear(inner.output, &layers[1], logits, sequences, epilogue));
        Answerability { pooled, statistics, inner, logits }
    }

    /// Its loss and way back: adds to the gradient of the starts' logits, returns that of the encoder's output `[T, H]`.
    fn answerability_backward(
        &self,
        builder: &mut PlanBuilder,
        layers: &[Dense],
        forward: &Answerability,
        impossible: TensorId,
        (start_logits, start_gradient, allowed): (TensorId, TensorId, TensorId),
    ) -> TensorId {
        let (tokens, sequences) = (self.tokens(), self.sequences());
        let rows = (forward.logits, impossible, sequences);
        let (loss, weight) = (RowLossKind::Sigmoid, ANSWERABILITY_WEIGHT);
        let gradient = self.row_loss(builder, "answerability", loss, rows, 1, weight, place::THIRD);
        let (label, none) = ("answerability.out_proj", Epilogue::None);
        let inner_gradient =
            self.linear_backward(builder, label, forward.inner.output, &layers[1], gradient, sequences, none);
        let label = "answerability.dense";
        let pooled_gradient =
            self.inner_backward(builder, label, &forward.inner, &layers[0], inner_gradient, sequences);
        let hidden_gradient = builder.gradient("answerability.hidden.gradient", tokens, self.hidden);
        builder.push(
            "answerability.pool.backward",
            SpanPoolGradient {
                hidden: self.encoded,
                logits: start_logits,
                allowed,
                starts: self.packed.starts,
                statistics: forward.statistics,
                output: forward.pooled,
                output_gradient: pooled_gradient,
                hidden_gradient,
                logits_gradient: start_gradient,
                sequences,
                tokens,
                columns: self.hidden,
            },
        );
        hidden_gradient
    }

    /// Each token beside the token where its sequence's answer starts, through two layers.
    fn end(&self, builder: &mut PlanBuilder, layers: &[Dense], chosen: TensorId) -> End {
        let (tokens, sequences) = (self.tokens(), self.sequences());
        let first = builder.op_count();
        let pair = builder.activation("end.pair", tokens, 2 * self.hidden);
        builder.push(
            "end.pair",
            SpanPair {
                hidden: self.encoded,
                starts: self.packed.starts,
                chosen,
                sequence_of_row: self.packed.sequences,
                output: pair,
                sequences,
                tokens,
                columns: self.hidden,
            },
        );
        let inner = self.inner(builder, "end.dense", pair, &layers[0], tokens);
        let logits = builder.exact("end.logits", tokens, 1);
        let epilogue = Epilogue::Bias(layers[1].bias.value);
        builder.push("end", linear(inner.output, &layers[1], logits, tokens, epilogue));
        End { inner, logits, ops: first..builder.op_count() }
    }

    /// The gradient of the encoder's output `[T, H]` through the end, and `residual`.
    fn end_backward(
        &self,
        builder: &mut PlanBuilder,
        layers: &[Dense],
        inner: &Inner,
        gradient: TensorId,
        chosen: TensorId,
        residual: Option<TensorId>,
    ) -> TensorId {
        let (tokens, sequences) = (self.tokens(), self.sequences());
        let (label, none) = ("end.out_proj", Epilogue::None);
        let inner_gradient =
            self.linear_backward(builder, label, inner.output, &layers[1], gradient, tokens, none);
        let pair_gradient =
            self.inner_backward(builder, "end.dense", inner, &layers[0], inner_gradient, tokens);
        let hidden_gradient = builder.gradient("end.hidden.gradient", tokens, self.hidden);
        builder.push(
            "end.pair.backward",
            SpanPairGradient {
                output_gradient: pair_gradient,
                starts: self.packed.starts,
                chosen,
                residual,
                hidden_gradient,
                sequences,
                tokens,
                columns: self.hidden,
            },
        );
        hidden_gradient
    }
}
