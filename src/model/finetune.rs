//! The plan of a fine-tuning step, or of prediction: the pre-trained encoder (the discriminator's) with the head of
//! a task (SPEC.md §5).

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::batch::PackedBatch;
use crate::ops::optimizer::Clear;
use crate::plan::{Data, Phase, Plan, PlanBuilder, Upload};
use crate::tensor::{Dropout, Element, Extent, Precision, Role, Rows, TensorId};

use super::electra::METRICS;
use super::encoder::Encoder;
use super::inputs::{PackedInputs, WordListTensors};
use super::layers::site;
use super::parameters::{self, LayerRates};
use super::task_heads;
use super::update::{OptimizerOptions, RANGE_LIMIT, clear_gradients, update};
use super::{BatchCapacity, ModelConfig};

/// What the encoder's output is read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Start and end of an answer: two logits a token.
    Span,
    /// Start, then end given the start; with answerability for SQuAD 2.0.
    JointSpan { answerability: bool },
    /// One of so many classes for a sequence.
    Classes(usize),
    /// A number for a sequence.
    Value,
    /// One of so many sequences that follow each other.
    Choice(usize),
    /// One of so many classes for every token.
    Tags(usize),
}

/// Which plan is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward, backward, update; the targets come with the batch.
    Train,
    /// Forward alone, without dropout; the logits are kept to be read.
    Predict,
}

/// Everything of a step that is fixed when the plan is built.
#[derive(Clone, Copy, Debug)]
pub struct FinetuneOptions {
    pub purpose: Purpose,
    pub dropout: f64,
    pub attention_dropout: f64,
    /// Factor on the learning rate from a layer to the one below it.
    pub layer_decay: f64,
    /// Of activations and their gradients.
    pub precision: Precision,
    pub optimizer: OptimizerOptions,
}

/// What the heads say, by which they are fed and read. Only those of the plan's head are there.
#[derive(Clone, Debug, Default)]
pub struct HeadTensors {
    /// u32 `[T]`: 1 where a token may begin or end an answer.
    pub allowed: Option<TensorId>,
    /// u32: plain spans `[B, 2]`, joint spans `[B]` (the start): positions within the sequence.
    pub starts: Option<TensorId>,
    /// u32 `[B]`: the end, of joint spans.
    pub ends: Option<TensorId>,
    /// f32 `[B]`: 1 where the question is impossible.
    pub impossible: Option<TensorId>,
    /// u32 `[R]`: classes, `row_loss::NO_TARGET` for none.
    pub classes: Option<TensorId>,
    /// f32 `[B]`: numbers.
    pub numbers: Option<TensorId>,
    /// u32 `[T]`: the sequence a row is the first of, or `gather::NO_SLOT`.
    pub first_of: Option<TensorId>,
    /// u32 `[B]`: zeros, and 0, 1, 2, …: coordinates of dropout on first tokens.
    pub first_positions: Option<TensorId>,
    pub first_sequences: Option<TensorId>,
    /// Spans `[T, 2]`, joint starts `[T]`, classes `[B, C]`, numbers and choices `[B]`, tags `[T, C]`.
    pub logits: Option<TensorId>,
    /// `[T]`: ends given the starts, of joint spans.
    pub end_logits: Option<TensorId>,
    /// `[B]`: answerability, positive where impossible.
    pub impossible_logits: Option<TensorId>,
}

/// Tensors of a plan by which a step is fed and read.
#[derive(Clone, Debug)]
pub struct FinetuneTensors {
    pub inputs: PackedInputs,
    words: Option<WordListTensors>,
    pub head: HeadTensors,
    /// `[METRICS]` floats; see [`place`].
    pub metrics: TensorId,
}

/// Places in the metrics tensor: sums over rows of loss, rows that are right, rows.
pub mod place {
    /// Of the only loss, or of the starts.
    pub const FIRST: [usize; 3] = [0, 1, 2];
    /// Of the ends of joint spans.
    pub const SECOND: [usize; 3] = [3, 4, 5];
    /// Of answerability. (8 to 10 are the optimiser's, 12 and 13 loss scaling's.)
    pub const THIRD: [usize; 3] = [6, 7, 11];
}

/// A plan and what is needed to feed it.
pub struct FinetunePlan {
    pub plan: Plan,
    pub tensors: FinetuneTensors,
    pub capacity: BatchCapacity,
    /// Joint spans in prediction: the ops that give ends for the starts uploaded before; run once a start.
    pub end_ops: Range<usize>,
}

impl FinetunePlan {
    /// Builds the plan; fails where the sizes do not fit each other.
    ///
    /// `capacity.masked` counts the rows that carry a label where these are neither tokens nor sequences
    /// (the questions of a multiple choice).
    pub fn new(
        config: &ModelConfig,
        head: Head,
        capacity: BatchCapacity,
        options: &FinetuneOptions,
    ) -> Result<Self> {
        ensure!(
            capacity.max_length <= config.max_positions,
            "length {} needs as many positions, but the model has {}",
            capacity.max_length,
            config.max_positions
        );
        let train = options.purpose == Purpose::Train;
        let size = parameters::EncoderSize::discriminator(config);
        let rates = LayerRates::new(options.layer_decay, size.layers);
        let mut builder = PlanBuilder::new();
        builder.precision(options.precision);
        builder.learning_rate_factor(rates.embeddings());
        let embeddings = parameters::embeddings(&mut builder, config);
        let encoder_parameters = parameters::encoder(&mut builder, "discriminator", size, &rates);
        let head_parameters = task_heads::parameters(&mut builder, head, size.hidden);

        let (tokens, sequences) = (capacity.tokens, capacity.sequences);
        let inputs = PackedInputs::new(&mut builder, tokens, sequences, capacity.max_length);
        let words = train.then(|| WordListTensors::new(&mut builder, "words", tokens));
        let metrics = builder.tensor("metrics", Rows::fixed(METRICS), 1, Element::Float, Role::Metric);
        let ranges = if train { builder.parameter_ranges(RANGE_LIMIT) } else { Vec::new() };
        builder.phase(Phase::Clear);
        clear_gradients(&mut builder, &ranges);
        builder.push("metrics", Clear { tensor: metrics, elements: METRICS, element: Element::Float });

        builder.phase(Phase::Micro);
        let on = |probability: f64| if train { probability } else { 0.0 };
        let encoder = Encoder {
            size,
            parameters: &encoder_parameters,
            embeddings: &embeddings,
            packed: inputs.packed,
            dropout: on(options.dropout),
            attention_dropout: on(options.attention_dropout),
            network: DISCRIMINATOR,
        };
        let saved = builder.scoped_in("encoder", |builder| encoder.forward(builder, inputs.input_ids));
        let place = |number| Dropout::new(on(options.dropout), site(DISCRIMINATOR, size.layers + 1, number));
        let context = task_heads::HeadContext {
            hidden: size.hidden,
            encoded: saved.output,
            packed: inputs.packed,
            capacity,
            labelled: Rows::of(Extent::Masked, capacity.masked.max(1)),
            metrics,
            train,
            input_dropout: place(0),
            inner_dropout: place(1),
        };
        let built = builder.scoped_in("head", |builder| context.build(builder, head, &head_parameters));
        if let (Some(gradient), Some(words)) = (built.encoded_gradient, words) {
            builder.scoped_in("encoder", |builder| {
                encoder.backward(builder, &saved, gradient, words, None);
            });
        }
        builder.phase(Phase::Update);
        if train {
            update(&mut builder, &ranges, metrics, &options.optimizer);
        }
        let mut keep = Vec::new();
        if !train {
            let head = &built.tensors;
            keep.extend([head.logits, head.end_logits, head.impossible_logits].into_iter().flatten());
            // The ends are computed several times from it.
            keep.push(saved.output);
        }
        let plan = builder.build(&keep)?;
        let tensors = FinetuneTensors { inputs, words, head: built.tensors, metrics };
        Ok(FinetunePlan { plan, tensors, capacity, end_ops: built.end_ops })
    }
}

/// The discriminator in dropout sites.
const DISCRIMINATOR: u32 = 2;

/// What the labels of a micro-batch are; only those of the head are looked at.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    pub allowed: Vec<u32>,
    pub starts: Vec<u32>,
    pub ends: Vec<u32>,
    pub impossible: Vec<f32>,
    pub classes: Vec<u32>,
    pub numbers: Vec<f32>,
    /// See [`HeadTensors`]; made by [`Targets::place_firsts`].
    pub first_of: Vec<u32>,
    pub first_positions: Vec<u32>,
    pub first_sequences: Vec<u32>,
}

impl Targets {
    /// Fills in what follows from where the sequences lie.
    pub fn place_firsts(&mut self, batch: &PackedBatch) {
        self.first_of = vec![crate::ops::gather::NO_SLOT; batch.tokens()];
        for (sequence, &row) in batch.starts[..batch.sequence_count()].iter().enumerate() {
            self.first_of[row as usize] = sequence as u32;
        }
        self.first_positions = vec![0; batch.sequence_count()];
        self.first_sequences = (0..batch.sequence_count() as u32).collect();
    }
}

impl FinetuneTensors {
    /// Everything a micro-batch brings to the device.
    pub fn uploads<'a>(&self, batch: &'a PackedBatch, targets: &'a Targets) -> Vec<Upload<'a>> {
        let mut uploads = Vec::new();
        self.inputs.uploads(batch, &mut uploads);
        if let Some(words) = self.words {
            words.uploads(&batch.generator_words, &mut uploads);
        }
        let head = &self.head;
        let integers = [
            (head.allowed, &targets.allowed),
            (head.starts, &targets.starts),
            (head.ends, &targets.ends),
            (head.classes, &targets.classes),
            (head.first_of, &targets.first_of),
            (head.first_positions, &targets.first_positions),
            (head.first_sequences, &targets.first_sequences),
        ];
        for (tensor, data) in integers {
            uploads.extend(tensor.map(|tensor| Upload { tensor, data: Data::Uint(data) }));
        }
        for (tensor, data) in [(head.impossible, &targets.impossible), (head.numbers, &targets.numbers)] {
            uploads.extend(tensor.map(|tensor| Upload { tensor, data: Data::Float(data) }));
        }
        uploads
    }
}
