//! The heads of fine-tuning, forward, loss and backward (SPEC.md §5). Names are Hugging Face's where it has them.
//!
//! T tokens, B sequences, H hidden size, C classes.

use std::ops::Range;

use crate::ops::apply_dropout::ApplyDropout;
use crate::ops::gather::{Gather, GatherGradient};
use crate::ops::gelu::GeluGradient;
use crate::ops::matmul::Epilogue;
use crate::ops::metric_sums::MetricSums;
use crate::ops::row_loss::{RowLoss, RowLossKind};
use crate::ops::span_loss::SpanLoss;
use crate::plan::{Initial, PlanBuilder};
use crate::tensor::{Dropout, Element, Role, Rows, TensorId};

use super::BatchCapacity;
use super::finetune::{Head, HeadTensors, place};
use super::inputs::{Packed, uint_input};
use super::layers::{linear, linear_input_gradient, linear_weight_gradient};
use super::parameters::{DenseParameters as Dense, dense};

mod joint_span;

/// Width of the inner layer of the joint heads (the reference's).
const JOINT_SIZE: usize = 512;
/// Dense layers of a head, in the order of `parameters`.
pub struct HeadParameters {
    layers: Vec<Dense>,
}

/// Declares the parameters of a head over H = `hidden` channels.
pub fn parameters(builder: &mut PlanBuilder, head: Head, hidden: usize) -> HeadParameters {
    let layers: Vec<(&str, usize, usize)> = match head {
        Head::Span => vec![("qa_outputs", hidden, 2)],
        Head::JointSpan { answerability } => {
            let mut layers = vec![
                ("joint_start", hidden, 1),
                ("joint_end.dense", 2 * hidden, JOINT_SIZE),
                ("joint_end.out_proj", JOINT_SIZE, 1),
            ];
            if answerability {
                layers.push(("answerability.dense", 2 * hidden, JOINT_SIZE));
                layers.push(("answerability.out_proj", JOINT_SIZE, 1));
            }
            layers
        }
        Head::Classes(classes) => {
            vec![("classifier.dense", hidden, hidden), ("classifier.out_proj", hidden, classes)]
        }
        Head::Value => vec![("classifier.dense", hidden, hidden), ("classifier.out_proj", hidden, 1)],
        Head::Choice(_) => vec![("sequence_summary.summary", hidden, hidden), ("classifier", hidden, 1)],
        Head::Tags(classes) => vec![("classifier", hidden, classes)],
    };
    let layers = layers.into_iter().map(|(name, inputs, outputs)| {
        dense(builder, &[name.to_owned()], inputs, outputs, Initial::GlorotUniform)
    });
    HeadParameters { layers: layers.collect() }
}

/// What a head stands on.
pub struct HeadContext {
    pub hidden: usize,
    /// `[T, H]`, the encoder's output.
    pub encoded: TensorId,
    pub packed: Packed,
    pub capacity: BatchCapacity,
    /// Rows that carry a label, of heads that have neither one a token nor one a sequence.
    pub labelled: Rows,
    pub metrics: TensorId,
    pub train: bool,
    /// Dropout before the head, and between its layers.
    pub input_dropout: Dropout,
    pub inner_dropout: Dropout,
}

/// What a head leaves behind.
#[derive(Default)]
pub struct BuiltHead {
    pub tensors: HeadTensors,
    /// `[T, H]`, in training.
    pub encoded_gradient: Option<TensorId>,
    pub end_ops: Range<usize>,
}

/// A dense layer with GELU, on the way: what its backward pass needs.
struct Inner {
    input: TensorId,
    before_gelu: TensorId,
    output: TensorId,
}

impl HeadContext {
    pub fn build(&self, builder: &mut PlanBuilder, head: Head, parameters: &HeadParameters) -> BuiltHead {
        match head {
            Head::Span => self.span(builder, &parameters.layers[0]),
            Head::JointSpan { .. } => self.joint_span(builder, &parameters.layers),
            Head::Classes(classes) => {
                self.sequence(builder, &parameters.layers, SequenceLoss::Classes(classes))
            }
            Head::Value => self.sequence(builder, &parameters.layers, SequenceLoss::Value),
            Head::Choice(choices) => {
                self.sequence(builder, &parameters.layers, SequenceLoss::Choice(choices))
            }
            Head::Tags(classes) => self.tags(builder, &parameters.layers[0], classes),
        }
    }

    fn tokens(&self) -> Rows {
        self.packed.tokens
    }

    fn sequences(&self) -> Rows {
        self.packed.sequence_rows
    }

    fn float_input(&self, builder: &mut PlanBuilder, name: &str, rows: usize) -> TensorId {
        builder.tensor(name, Rows::fixed(rows), 1, Element::Float, Role::Batch)
    }

    /// Adds the sums of `results` to the metrics.
    fn sums(&self, builder: &mut PlanBuilder, results: TensorId, targets: [usize; 3], rows: Rows) {
        builder.push("metrics", MetricSums { source: results, metrics: self.metrics, targets, rows });
    }

    /// Two logits a token.
    fn span(&self, builder: &mut PlanBuilder, layer: &Dense) -> BuiltHead {
        let rows = self.tokens();
        let logits = builder.exact("logits", rows, 2);
        builder.push("logits", linear(self.encoded, layer, logits, rows, Epilogue::Bias(layer.bias.value)));
        let mut tensors = HeadTensors { logits: Some(logits), ..HeadTensors::default() };
        if !self.train {
            return BuiltHead { tensors, ..BuiltHead::default() };
        }
        let allowed = uint_input(builder, "allowed", self.capacity.tokens);
        let starts = uint_input(builder, "targets", 2 * self.capacity.sequences);
        (tensors.allowed, tensors.starts) = (Some(allowed), Some(starts));
        let gradient = self.span_loss(builder, "span", (logits, allowed, starts), 2, 1.0, place::FIRST);
        linear_weight_gradient(builder, "logits.weight", gradient, self.encoded, layer, rows);
        let encoded_gradient = builder.gradient("encoded.gradient", rows, self.hidden);
        let op = linear_input_gradient(gradient, layer, encoded_gradient, rows, Epilogue::None);
        builder.push("logits.input", op);
        BuiltHead { tensors, encoded_gradient: Some(encoded_gradient), ..BuiltHead::default() }
    }

    /// Loss of `[T, columns]` logits; returns their gradient.
    fn span_loss(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        (logits, allowed, targets): (TensorId, TensorId, TensorId),
        columns: usize,
        weight: f32,
        metrics: [usize; 3],
    ) -> TensorId {
        let (tokens, sequences) = (self.tokens(), self.sequences());
        let results = builder.exact(&format!("{label}.results"), sequences, 3);
        let gradient = builder.exact_gradient(&format!("{label}.logits.gradient"), tokens, columns);
        builder.push(
            &format!("{label}.loss"),
            SpanLoss {
                logits,
                allowed,
                starts: self.packed.starts,
                targets,
                results,
                gradient: Some(gradient),
                sequences,
                tokens,
                columns,
                weight,
            },
        );
        self.sums(builder, results, metrics, sequences);
        gradient
    }

    /// dense → GELU.
    fn inner(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        input: TensorId,
        layer: &Dense,
        rows: Rows,
    ) -> Inner {
        let before_gelu = builder.activation(&format!("{label}.before_gelu"), rows, layer.outputs);
        let output = builder.activation(label, rows, layer.outputs);
        let epilogue = Epilogue::BiasGelu { bias: layer.bias.value, before: before_gelu };
        builder.push(label, linear(input, layer, output, rows, epilogue));
        Inner { input, before_gelu, output }
    }

    /// The way back of [`HeadContext::inner`]: from the gradient of its output to that of its input.
    fn inner_backward(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        inner: &Inner,
        layer: &Dense,
        output_gradient: TensorId,
        rows: Rows,
    ) -> TensorId {
        let gradient = builder.gradient(&format!("{label}.gradient"), rows, layer.outputs);
        builder.push(
            &format!("{label}.gelu"),
            GeluGradient {
                input: inner.before_gelu,
                output_gradient,
                input_gradient: gradient,
                rows,
                columns: layer.outputs,
            },
        );
        self.linear_backward(builder, label, inner.input, layer, gradient, rows, Epilogue::None)
    }

    /// Gradients of a dense layer's parameters and, returned, of its input.
    #[allow(clippy::too_many_arguments)]
    fn linear_backward(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        input: TensorId,
        layer: &Dense,
        gradient: TensorId,
        rows: Rows,
        epilogue: Epilogue,
    ) -> TensorId {
        linear_weight_gradient(builder, &format!("{label}.weight"), gradient, input, layer, rows);
        let input_gradient = builder.gradient(&format!("{label}.input.gradient"), rows, layer.inputs);
        let op = linear_input_gradient(gradient, layer, input_gradient, rows, epilogue);
        builder.push(&format!("{label}.input"), op);
        input_gradient
    }

    /// Loss of logits by rows; returns their gradient.
    #[allow(clippy::too_many_arguments)]
    fn row_loss(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        kind: RowLossKind,
        (logits, targets, rows): (TensorId, TensorId, Rows),
        columns: usize,
        weight: f32,
        metrics: [usize; 3],
    ) -> TensorId {
        let results = builder.exact(&format!("{label}.results"), rows, 3);
        let gradient = builder.exact_gradient(&format!("{label}.logits.gradient"), rows, columns);
        builder.push(
            &format!("{label}.loss"),
            RowLoss { kind, logits, targets, results, gradient: Some(gradient), rows, columns, weight },
        );
        self.sums(builder, results, metrics, rows);
        gradient
    }

    fn dropped(
        &self,
        builder: &mut PlanBuilder,
        label: &str,
        input: TensorId,
        dropout: Dropout,
        rows: Rows,
        (positions, sequences): (TensorId, TensorId),
    ) -> TensorId {
        if !dropout.is_on() {
            return input;
        }
        let columns = self.hidden;
        let output = builder.activation(label, rows, columns);
        builder.push(label, ApplyDropout { input, output, positions, sequences, rows, columns, dropout });
        output
    }

    /// Heads that read the first token: [`dropout →`] dense → GELU → dropout → dense.
    fn sequence(&self, builder: &mut PlanBuilder, layers: &[Dense], loss: SequenceLoss) -> BuiltHead {
        let (rows, hidden, capacity) = (self.sequences(), self.hidden, &self.capacity);
        let (inner_layer, outer) = (&layers[0], &layers[1]);
        let first = builder.activation("first", rows, hidden);
        let list = self.packed.starts;
        builder.push("first", Gather { input: self.encoded, list, output: first, rows, columns: hidden });
        // Hugging Face drops out before the layers in classification, not in multiple choice.
        let input_dropout =
            if matches!(loss, SequenceLoss::Choice(_)) { Dropout::off() } else { self.input_dropout };
        let coordinates = (input_dropout.is_on() || self.inner_dropout.is_on()).then(|| {
            let positions = uint_input(builder, "first.positions", capacity.sequences);
            (positions, uint_input(builder, "first.sequences", capacity.sequences))
        });
        // Without dropout nothing reads the coordinates.
        let at = coordinates.unwrap_or((self.packed.positions, self.packed.sequences));
        let input = self.dropped(builder, "first.dropout", first, input_dropout, rows, at);
        let inner = self.inner(builder, "dense", input, inner_layer, rows);
        let activated = self.dropped(builder, "dense.dropout", inner.output, self.inner_dropout, rows, at);
        let logits = builder.exact("logits", rows, outer.outputs);
        builder.push("logits", linear(activated, outer, logits, rows, Epilogue::Bias(outer.bias.value)));
        let mut tensors = HeadTensors { logits: Some(logits), ..HeadTensors::default() };
        if !self.train {
            return BuiltHead { tensors, ..BuiltHead::default() };
        }
        if let Some((positions, sequences)) = coordinates {
            (tensors.first_positions, tensors.first_sequences) = (Some(positions), Some(sequences));
        }
        let first_of = uint_input(builder, "first_of", capacity.tokens);
        tensors.first_of = Some(first_of);
        let gradient = match loss {
            SequenceLoss::Value => {
                let targets = self.float_input(builder, "numbers", capacity.sequences);
                tensors.numbers = Some(targets);
                let kind = RowLossKind::Squared;
                self.row_loss(builder, "value", kind, (logits, targets, rows), 1, 1.0, place::FIRST)
            }
            SequenceLoss::Classes(columns) => {
                let targets = uint_input(builder, "classes", capacity.sequences);
                tensors.classes = Some(targets);
                let kind = RowLossKind::Softmax;
                self.row_loss(builder, "class", kind, (logits, targets, rows), columns, 1.0, place::FIRST)
            }
            SequenceLoss::Choice(columns) => {
                let rows = self.labelled;
                let targets = uint_input(builder, "choices", rows.capacity);
                tensors.classes = Some(targets);
                let kind = RowLossKind::Softmax;
                self.row_loss(builder, "choice", kind, (logits, targets, rows), columns, 1.0, place::FIRST)
            }
        };
        let gradient =
            self.linear_backward(builder, "logits", activated, outer, gradient, rows, Epilogue::None);
        let gradient =
            self.dropped(builder, "dense.dropout.backward", gradient, self.inner_dropout, rows, at);
        let gradient = self.inner_backward(builder, "dense", &inner, inner_layer, gradient, rows);
        let gradient = self.dropped(builder, "first.dropout.backward", gradient, input_dropout, rows, at);
        let encoded_gradient = builder.gradient("encoded.gradient", self.tokens(), hidden);
        builder.push(
            "first.backward",
            GatherGradient {
                gradient,
                slots: first_of,
                output: encoded_gradient,
                rows: self.tokens(),
                columns: hidden,
            },
        );
        BuiltHead { tensors, encoded_gradient: Some(encoded_gradient), ..BuiltHead::default() }
    }

    /// A class for every token.
    fn tags(&self, builder: &mut PlanBuilder, layer: &Dense, classes: usize) -> BuiltHead {
        let (rows, dropout) = (self.tokens(), self.input_dropout);
        let at = (self.packed.positions, self.packed.sequences);
        let input = self.dropped(builder, "dropout", self.encoded, dropout, rows, at);
        let logits = builder.exact("logits", rows, classes);
        builder.push("logits", linear(input, layer, logits, rows, Epilogue::Bias(layer.bias.value)));
        let mut tensors = HeadTensors { logits: Some(logits), ..HeadTensors::default() };
        if !self.train {
            return BuiltHead { tensors, ..BuiltHead::default() };
        }
        let targets = uint_input(builder, "classes", self.capacity.tokens);
        tensors.classes = Some(targets);
        let kind = RowLossKind::Softmax;
        let gradient =
            self.row_loss(builder, "tag", kind, (logits, targets, rows), classes, 1.0, place::FIRST);
        let gradient = self.linear_backward(builder, "logits", input, layer, gradient, rows, Epilogue::None);
        let gradient = self.dropped(builder, "dropout.backward", gradient, dropout, rows, at);
        BuiltHead { tensors, encoded_gradient: Some(gradient), ..BuiltHead::default() }
    }
}

/// What is learned from the first token.
enum SequenceLoss {
    Classes(usize),
    Value,
    Choice(usize),
}
