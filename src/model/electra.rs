//! The plan of a pre-training step (SPEC.md §3): generator, samples, discriminator, update.
//!
//! The generator's way back comes before the discriminator's forward pass: the discriminator's gradient does
//! not reach the generator, so its activations need not wait.

use anyhow::{Result, ensure};

use crate::batch::PackedBatch;
use crate::ops::optimizer::Clear;
use crate::ops::replace::Replace;
use crate::ops::replaced_token::AUC_BINS;
use crate::plan::{Data, Phase, Plan, PlanBuilder, Upload};
use crate::tensor::{Element, Extent, Precision, Role, Rows, TensorId};

use super::encoder::Encoder;
use super::heads::{self, HeadOptions, LogitsChunk, Masked};
use super::inputs::{PackedInputs, SampledWords, WordListTensors, uint_input};
use super::parameters::LayerRates;
use super::update::{OptimizerOptions, RANGE_LIMIT, clear_gradients, update};
use super::{ModelConfig, parameters};

/// Elements of the metrics tensor; `train::metrics` names the places.
pub const METRICS: usize = 16;

/// What one micro-batch can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchCapacity {
    pub tokens: usize,
    pub sequences: usize,
    pub masked: usize,
    /// Tokens of the longest sequence.
    pub max_length: usize,
}

/// Which plan is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, backward, update.
    Train,
    /// As `Train`, with samples from outside and the discriminator's inputs and logits kept to be read.
    Parity,
    /// Forward and metrics only, no dropout; parameters alone are allocated.
    Evaluate,
}

/// Everything of a step that is fixed when the plan is built.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    pub mode: Mode,
    pub dropout: f64,
    pub attention_dropout: f64,
    pub generator_weight: f32,
    pub discriminator_weight: f32,
    pub temperature: f32,
    /// Of activations and their gradients.
    pub precision: Precision,
    pub optimizer: OptimizerOptions,
}

impl Default for StepOptions {
    /// The reference's values.
    fn default() -> Self {
        StepOptions {
            mode: Mode::Train,
            dropout: 0.1,
            attention_dropout: 0.1,
            generator_weight: 1.0,
            discriminator_weight: 50.0,
            temperature: 1.0,
            precision: Precision::F32,
            optimizer: OptimizerOptions::default(),
        }
    }
}

/// Tensors of a plan by which a step is fed and read.
#[derive(Clone, Debug)]
pub struct StepTensors {
    inputs: PackedInputs,
    masked_rows: TensorId,
    masked_ids: TensorId,
    masked_sequences: TensorId,
    masked_slots: TensorId,
    slot_of_row: TensorId,
    generator_words: Option<WordListTensors>,
    discriminator_words: Option<WordListTensors>,
    /// `[M]`: the samples; uploaded in `Parity`, else written by the device.
    pub sampled: TensorId,
    /// `[METRICS]` floats.
    pub metrics: TensorId,
    /// `[2, AUC_BINS]` integers.
    pub histogram: TensorId,
    /// `[T]`: what the discriminator reads, its labels and logits.
    pub discriminator_ids: TensorId,
    pub labels: TensorId,
    pub discriminator_logits: TensorId,
    /// The vocabulary's logits, chunk by chunk.
    pub logits: Vec<LogitsChunk>,
}

/// A plan and what is needed to feed it. `plan` goes to an executor; `tensors` stays with the caller.
pub struct PretrainPlan {
    pub plan: Plan,
    pub tensors: StepTensors,
    pub capacity: BatchCapacity,
}

impl PretrainPlan {
    /// Builds the plan; fails where the sizes do not fit each other.
    pub fn new(config: &ModelConfig, capacity: BatchCapacity, options: &StepOptions) -> Result<Self> {
        ensure!(
            capacity.max_length <= config.max_positions,
            "length {} needs as many positions, but the model has {} (model.max_positions)",
            capacity.max_length,
            config.max_positions
        );
        let train = options.mode != Mode::Evaluate;
        let mut builder = PlanBuilder::new();
        builder.precision(options.precision);
        let embeddings = parameters::embeddings(&mut builder, config);
        let generator_size = parameters::EncoderSize::generator(config);
        let discriminator_size = parameters::EncoderSize::discriminator(config);
        let generator = parameters::encoder(&mut builder, "generator", generator_size, &LayerRates::equal());
        let generator_head = parameters::generator_head(&mut builder, config);
        let discriminator =
            parameters::encoder(&mut builder, "discriminator", discriminator_size, &LayerRates::equal());
        let discriminator_head = parameters::discriminator_head(&mut builder, config);

        let masked_rows = Rows::of(Extent::Masked, capacity.masked.max(1));
        let (rows, sequences) = (capacity.tokens, capacity.sequences);
        let inputs = PackedInputs::new(&mut builder, rows, sequences, capacity.max_length);
        let PackedInputs { input_ids, packed } = inputs;
        let tokens = packed.tokens;
        let generator_words = train.then(|| WordListTensors::new(&mut builder, "generator", rows));
        let discriminator_words = train.then(|| WordListTensors::new(&mut builder, "discriminator", rows));
        let masked_capacity = masked_rows.capacity;
        let mut batch = |name: &str, rows: usize| uint_input(&mut builder, name, rows);
        let masked = Masked {
            rows: batch("masked.rows", masked_capacity),
            ids: batch("masked.ids", masked_capacity),
            sequences: batch("masked.sequences", masked_capacity),
            slots: batch("masked.slots", masked_capacity),
            slot_of_row: batch("slot_of_row", capacity.tokens),
            sampled: batch("masked.sampled", masked_capacity),
            draws: options.mode != Mode::Parity,
            extent: masked_rows,
        };
        let metrics = builder.tensor("metrics", Rows::fixed(METRICS), 1, Element::Float, Role::Metric);
        let histogram =
            builder.tensor("auc_histogram", Rows::fixed(2), AUC_BINS, Element::Uint, Role::Metric);

        let ranges = if train { builder.parameter_ranges(RANGE_LIMIT) } else { Vec::new() };
        builder.phase(Phase::Clear);
        clear_gradients(&mut builder, &ranges);
        builder.push("metrics", Clear { tensor: metrics, elements: METRICS, element: Element::Float });
        let clear = Clear { tensor: histogram, elements: 2 * AUC_BINS, element: Element::Uint };
        builder.push("auc_histogram", clear);

        builder.phase(Phase::Micro);
        let head_options = HeadOptions {
            generator_weight: options.generator_weight,
            discriminator_weight: options.discriminator_weight,
            temperature: options.temperature,
            backward: train,
        };
        let dropout = if train { options.dropout } else { 0.0 };
        let attention_dropout = if train { options.attention_dropout } else { 0.0 };
        let encoder = |size, parameters, network| Encoder {
            size,
            parameters,
            embeddings: &embeddings,
            packed,
            dropout,
            attention_dropout,
            network,
        };
        let logits = builder.scoped_in("generator", |builder| {
            let encoder = encoder(generator_size, &generator, 1);
            let saved = encoder.forward(builder, input_ids);
            let (gradient, logits) = builder.scoped_in("head", |builder| {
                heads::masked_language_model(
                    builder,
                    &generator_head,
                    &embeddings,
                    saved.output,
                    &packed,
                    &masked,
                    metrics,
                    &head_options,
                )
            });
            if let (Some(gradient), Some(words)) = (gradient, generator_words) {
                encoder.backward(builder, &saved, gradient, words, None);
            }
            logits
        });

        let uint_activation = |builder: &mut PlanBuilder, name: &str| {
            builder.tensor(name, tokens, 1, Element::Uint, Role::Activation)
        };
        let discriminator_ids = uint_activation(&mut builder, "discriminator.ids");
        let labels = uint_activation(&mut builder, "discriminator.labels");
        let detected = builder.scoped_in("discriminator", |builder| {
            builder.push(
                "replace",
                Replace {
                    input_ids,
                    slots: masked.slot_of_row,
                    sampled: masked.sampled,
                    masked_ids: masked.ids,
                    ids: discriminator_ids,
                    labels,
                    rows: tokens,
                },
            );
            let encoder = encoder(discriminator_size, &discriminator, 2);
            let saved = encoder.forward(builder, discriminator_ids);
            let detected = builder.scoped_in("head", |builder| {
                heads::replaced_token_detection(
                    builder,
                    &discriminator_head,
                    saved.output,
                    labels,
                    tokens,
                    metrics,
                    histogram,
                    &head_options,
                )
            });
            if let (Some(gradient), Some(words)) = (detected.encoded_gradient, discriminator_words) {
                let sampled =
                    SampledWords { sampled: masked.sampled, masked_rows: masked.rows, rows: masked_rows };
                encoder.backward(builder, &saved, gradient, words, Some(sampled));
            }
            detected
        });

        builder.phase(Phase::Update);
        if train {
            update(&mut builder, &ranges, metrics, &options.optimizer);
        }
        let keep = match options.mode {
            Mode::Parity => vec![discriminator_ids, labels, detected.logits],
            _ => Vec::new(),
        };
        let plan = builder.build(&keep)?;
        let tensors = StepTensors {
            inputs,
            masked_rows: masked.rows,
            masked_ids: masked.ids,
            masked_sequences: masked.sequences,
            masked_slots: masked.slots,
            slot_of_row: masked.slot_of_row,
            generator_words,
            discriminator_words,
            sampled: masked.sampled,
            metrics,
            histogram,
            discriminator_ids,
            labels,
            discriminator_logits: detected.logits,
            logits,
        };
        Ok(PretrainPlan { plan, tensors, capacity })
    }
}

impl StepTensors {
    /// Everything a micro-batch brings to the device.
    pub fn uploads<'a>(&self, batch: &'a PackedBatch) -> Vec<Upload<'a>> {
        let mut uploads = Vec::new();
        self.inputs.uploads(batch, &mut uploads);
        for (tensor, data) in [
            (self.masked_rows, &batch.masked_rows),
            (self.masked_ids, &batch.masked_ids),
            (self.masked_sequences, &batch.masked_sequences),
            (self.masked_slots, &batch.masked_slots),
            (self.slot_of_row, &batch.slot_of_row),
        ] {
            uploads.push(Upload { tensor, data: Data::Uint(data) });
        }
        if let (Some(generator), Some(discriminator)) = (self.generator_words, self.discriminator_words) {
            generator.uploads(&batch.generator_words, &mut uploads);
            discriminator.uploads(&batch.discriminator_words, &mut uploads);
        }
        uploads
    }
}
