//! The plan of a pre-training step (`docs/spec.md` §3): generator, samples, discriminator, update.
//!
//! The generator's backward comes before the discriminator's forward: the discriminator's gradient does not reach the
//! generator, so its activations need not wait.

use anyhow::{Result, ensure};

use crate::batch::PackedBatch;
use crate::ops::constants::{AUC_BINS, METRICS};
use crate::ops::optimizer::Cleared;
use crate::ops::replace::Replace;
use crate::plan::{Parameter, Phase, Plan, PlanBuilder, Shard, Upload};
use crate::tensor::draws::{DISCRIMINATOR, GENERATOR};
use crate::tensor::{Element, Precision, Role, Rows, TensorId};

use super::encoder::Encoder;
use super::heads::{LogitsChunk, MaskedLanguageModel, ReplacedTokenDetection};
use super::inputs::{Masked, PackedInputs, SampledWords, WordListTensors, WordRows};
use super::parameters::{
    self, DiscriminatorHead, EmbeddingParameters, EncoderParameters, EncoderSize, GeneratorHead, LayerRates,
};
use super::sharing::{self, OwnEmbeddings};
use super::update::{OptimizerOptions, RANGE_LIMIT, clear_all, update};
use super::{EmbeddingSharing, ModelConfig, Trained};

/// What one micro-batch can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchCapacity {
    pub tokens: usize,
    pub sequences: usize,
    /// Rows that carry a label where these are neither tokens nor sequences: masked slots in pre-training, items in
    /// fine-tuning.
    pub labelled: usize,
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
    /// As `Evaluate`, with samples from outside and the logits kept to be read, as in `Parity`.
    Inspect,
    /// As `Evaluate`, with the samples, and what the discriminator makes of them, kept to be read.
    Sample,
}

/// Everything of a step that is fixed when the plan is built.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    pub mode: Mode,
    pub dropout: f64,
    pub attention_dropout: f64,
    pub generator_weight: f32,
    /// Masked slots whose vocabulary logits are alive at once; nothing means 64 MiB of logits.
    pub vocabulary_chunk: Option<usize>,
    /// Of activations and their gradients.
    pub precision: Precision,
    pub optimizer: OptimizerOptions,
    /// A generator that is not trained goes forward without dropout, and neither back nor into the update. Tables that it
    /// shares go on being the discriminator's.
    pub trained: Trained,
    /// Which rank's of several the step is.
    pub shard: Shard,
}

impl Default for StepOptions {
    /// The reference's values.
    fn default() -> Self {
        StepOptions {
            mode: Mode::Train,
            dropout: 0.1,
            attention_dropout: 0.1,
            generator_weight: 1.0,
            vocabulary_chunk: None,
            precision: Precision::F32,
            optimizer: OptimizerOptions::default(),
            trained: Trained::Both,
            shard: Shard::default(),
        }
    }
}

/// Tensors of a plan by which a step is fed and read.
#[derive(Clone, Debug)]
pub struct StepTensors {
    inputs: PackedInputs,
    words: Option<NetworkWords>,
    masked: Masked,
    /// `[M]`: the samples; uploaded in `Parity` and `Inspect`, else written by the device.
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

/// Word lists of both networks; there where backward is.
#[derive(Clone, Copy, Debug)]
struct NetworkWords {
    /// Not of a generator that is fixed.
    generator: Option<WordListTensors>,
    discriminator: WordListTensors,
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
        let mut builder = PlanBuilder::new();
        builder.precision(options.precision);
        let networks = Networks::new(&mut builder, config, options.trained);
        let fed = Fed::new(&mut builder, capacity, options);
        if options.trains() {
            builder.shard(options.shard);
        }
        let ranges = if options.trains() { builder.parameter_ranges(RANGE_LIMIT) } else { Vec::new() };

        builder.phase(Phase::Clear);
        clear_all(&mut builder, &ranges, &fed.cleared());

        builder.phase(Phase::Micro);
        let step = Step { networks: &networks, fed: &fed, options };
        let logits = builder.scoped_in("generator", |builder| step.generator(builder));
        let detected = step.discriminator(&mut builder);

        builder.phase(Phase::Update);
        if options.trains() {
            update(&mut builder, &ranges, fed.metrics, &options.optimizer);
        }
        let keep = match options.mode {
            Mode::Parity | Mode::Inspect => vec![detected.ids, detected.labels, detected.logits],
            Mode::Sample => vec![fed.masked.sampled, detected.ids, detected.labels, detected.logits],
            _ => Vec::new(),
        };
        let plan = builder.build(&keep)?;
        Ok(PretrainPlan { plan, tensors: fed.tensors(detected, logits), capacity })
    }
}

impl StepOptions {
    /// Whether the plan has backward and update.
    fn trains(&self) -> bool {
        matches!(self.mode, Mode::Train | Mode::Parity)
    }

    fn trains_generator(&self) -> bool {
        self.trains() && self.trained == Trained::Both
    }
}

/// Sizes and parameters of both networks, in the order in which they are declared.
struct Networks {
    generator_size: EncoderSize,
    discriminator_size: EncoderSize,
    /// The generator's: of both, where they share.
    embeddings: EmbeddingParameters,
    generator: EncoderParameters,
    generator_head: GeneratorHead,
    own_embeddings: OwnEmbeddings,
    discriminator: EncoderParameters,
    discriminator_head: DiscriminatorHead,
}

impl Networks {
    fn new(builder: &mut PlanBuilder, config: &ModelConfig, trained: Trained) -> Self {
        let rates = LayerRates::equal();
        let generator_size = EncoderSize::generator(config);
        let discriminator_size = EncoderSize::discriminator(config);
        let (shares, both) = (config.embedding_sharing == EmbeddingSharing::Shared, trained == Trained::Both);
        builder.trains(shares || both);
        let embeddings = sharing::generators(builder, config);
        builder.trains(both);
        let generator = parameters::encoder(builder, "generator", generator_size, &rates);
        let generator_head = parameters::generator_head(builder, config);
        builder.trains(true);
        Networks {
            generator_size,
            discriminator_size,
            embeddings,
            generator,
            generator_head,
            own_embeddings: sharing::discriminators(builder, config),
            discriminator: parameters::encoder(builder, "discriminator", discriminator_size, &rates),
            discriminator_head: parameters::discriminator_head(builder, config),
        }
    }
}

/// Every parameter of both networks and their heads, for whoever reads or writes models without a plan.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let mut builder = PlanBuilder::new();
    Networks::new(&mut builder, config, Trained::Both);
    builder.parameters().to_vec()
}

/// What comes with a micro-batch, and what is read after the step.
struct Fed {
    inputs: PackedInputs,
    words: Option<NetworkWords>,
    masked: Masked,
    metrics: TensorId,
    histogram: TensorId,
}

impl Fed {
    fn new(builder: &mut PlanBuilder, capacity: BatchCapacity, options: &StepOptions) -> Self {
        let BatchCapacity { tokens, sequences, labelled: masked, max_length } = capacity;
        let inputs = PackedInputs::new(builder, tokens, sequences, max_length);
        let words = options.trains().then(|| NetworkWords {
            generator: options.trains_generator().then(|| WordListTensors::new(builder, "generator", tokens)),
            discriminator: WordListTensors::new(builder, "discriminator", tokens),
        });
        let draws = matches!(options.mode, Mode::Train | Mode::Evaluate | Mode::Sample);
        let masked = Masked::new(builder, tokens, masked, draws);
        let metrics = builder.tensor("metrics", Rows::fixed(METRICS), 1, Element::Float, Role::Metric);
        let histogram =
            builder.tensor("auc_histogram", Rows::fixed(2), AUC_BINS, Element::Uint, Role::Metric);
        Fed { inputs, words, masked, metrics, histogram }
    }

    /// What is cleared before a step.
    fn cleared(&self) -> [Cleared; 2] {
        [
            Cleared { tensor: self.metrics, elements: METRICS, element: Element::Float },
            Cleared { tensor: self.histogram, elements: 2 * AUC_BINS, element: Element::Uint },
        ]
    }

    fn tensors(&self, detected: Detected, logits: Vec<LogitsChunk>) -> StepTensors {
        StepTensors {
            inputs: self.inputs,
            words: self.words,
            masked: self.masked,
            sampled: self.masked.sampled,
            metrics: self.metrics,
            histogram: self.histogram,
            discriminator_ids: detected.ids,
            labels: detected.labels,
            discriminator_logits: detected.logits,
            logits,
        }
    }
}

/// What the discriminator read and said, `[T]` each.
struct Detected {
    ids: TensorId,
    labels: TensorId,
    logits: TensorId,
}

/// One micro-batch through both networks.
struct Step<'a> {
    networks: &'a Networks,
    fed: &'a Fed,
    options: &'a StepOptions,
}

impl Step<'_> {
    /// Generator, samples and its backward; returns the vocabulary's logits.
    fn generator(&self, builder: &mut PlanBuilder) -> Vec<LogitsChunk> {
        let networks = self.networks;
        let trains = self.options.trains_generator();
        let (size, parameters) = (networks.generator_size, &networks.generator);
        let encoder = self.encoder(size, parameters, &networks.embeddings, (GENERATOR, trains));
        let (encoded, encoder) = encoder.forward(builder, self.fed.inputs.input_ids);
        let head = MaskedLanguageModel {
            parameters: &networks.generator_head,
            embeddings: &networks.embeddings,
            masked: self.fed.masked,
            tokens: self.fed.inputs.packed.tokens,
            metrics: self.fed.metrics,
            loss_weight: self.options.generator_weight,
            chunk: self.options.vocabulary_chunk,
            backward: trains,
        };
        let (logits, gradient) = builder.scoped_in("head", |builder| {
            let (logits, tape) = head.forward(builder, encoded);
            (logits, tape.map(|tape| tape.backward(builder)))
        });
        let words = self.fed.words.and_then(|words| words.generator);
        if let (Some(gradient), Some(kept)) = (gradient, words) {
            encoder.backward(builder, gradient, &WordRows { kept, sampled: None });
        }
        logits
    }

    /// Discriminator on the ids with the samples in them, and its backward.
    fn discriminator(&self, builder: &mut PlanBuilder) -> Detected {
        let rows = self.fed.inputs.packed.tokens;
        let mut declare = |name: &str| builder.tensor(name, rows, 1, Element::Uint, Role::Activation);
        let (ids, labels) = (declare("discriminator.ids"), declare("discriminator.labels"));
        let logits = builder.scoped_in("discriminator", |builder| {
            self.replace(builder, ids, labels);
            self.detect(builder, ids, labels)
        });
        Detected { ids, labels, logits }
    }

    fn replace(&self, builder: &mut PlanBuilder, ids: TensorId, labels: TensorId) {
        let (inputs, masked) = (&self.fed.inputs, &self.fed.masked);
        builder.push(
            "replace",
            Replace {
                input_ids: inputs.input_ids,
                slots: masked.slot_of_row,
                sampled: masked.sampled,
                masked_ids: masked.ids,
                ids,
                labels,
                rows: inputs.packed.tokens,
            },
        );
    }

    fn detect(&self, builder: &mut PlanBuilder, ids: TensorId, labels: TensorId) -> TensorId {
        let (networks, masked) = (self.networks, &self.fed.masked);
        let embeddings = networks.own_embeddings.read(builder, &networks.embeddings);
        let (size, parameters) = (networks.discriminator_size, &networks.discriminator);
        let trains = self.options.trains();
        let encoder = self.encoder(size, parameters, &embeddings, (DISCRIMINATOR, trains));
        let (encoded, encoder) = encoder.forward(builder, ids);
        let head = ReplacedTokenDetection {
            parameters: &networks.discriminator_head,
            labels,
            rows: self.fed.inputs.packed.tokens,
            metrics: self.fed.metrics,
            histogram: self.fed.histogram,
        };
        let (logits, gradient) = builder.scoped_in("head", |builder| {
            let (logits, tape) = head.forward(builder, encoded);
            (logits, trains.then(|| tape.backward(builder)))
        });
        if let (Some(gradient), Some(words)) = (gradient, self.fed.words) {
            let sampled =
                SampledWords { sampled: masked.sampled, masked_rows: masked.rows, rows: masked.extent };
            let words = WordRows { kept: words.discriminator, sampled: Some(sampled) };
            encoder.backward(builder, gradient, &words);
        }
        logits
    }

    fn encoder<'a>(
        &'a self,
        size: EncoderSize,
        parameters: &'a EncoderParameters,
        embeddings: &'a EmbeddingParameters,
        (network, trains): (u32, bool),
    ) -> Encoder<'a> {
        let on = |probability: f64| if trains { probability } else { 0.0 };
        Encoder {
            size,
            parameters,
            embeddings,
            packed: self.fed.inputs.packed,
            dropout: on(self.options.dropout),
            attention_dropout: on(self.options.attention_dropout),
            network,
        }
    }
}

impl StepTensors {
    /// Everything a micro-batch brings to the device.
    pub fn uploads<'a>(&self, batch: &'a PackedBatch) -> Vec<Upload<'a>> {
        let mut uploads = Vec::new();
        self.inputs.uploads(batch, &mut uploads);
        self.masked.uploads(batch, &mut uploads);
        if let Some(words) = &self.words {
            if let Some(generator) = words.generator {
                generator.uploads(&batch.generator_words, &mut uploads);
            }
            words.discriminator.uploads(&batch.discriminator_words, &mut uploads);
        }
        uploads
    }
}
