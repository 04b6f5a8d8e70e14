//! The plan of a fine-tuning step, or of prediction: the pre-trained encoder (the discriminator's) with a head that
//! reads its output (docs/spec.md §5).

use std::fmt::Debug;

use anyhow::{Result, ensure};

use crate::batch::PackedBatch;
use crate::ops::constants::METRICS;
use crate::ops::optimizer::Cleared;
use crate::plan::{ParameterRange, Phase, Plan, PlanBuilder, Upload};
use crate::tensor::draws::DISCRIMINATOR;
use crate::tensor::{Dropout, Element, Extent, Precision, Role, Rows, StepValues, TensorId};

use super::encoder::Encoder;
use super::feed::{Fed, Feed, Labelled};
use super::inputs::{Packed, PackedInputs, WordListTensors, WordRows};
use super::layers::site;
use super::parameters::{
    self, DenseParameters, EmbeddingParameters, EncoderParameters, EncoderSize, LayerRates,
};
use super::update::{OptimizerOptions, RANGE_LIMIT, clear_all, update};
use super::{BatchCapacity, ModelConfig};

/// What reads the encoder's output: its parameters, its ops, what it is fed with and what is read of it.
pub trait Head: Debug + 'static {
    /// What an item is labelled with. An item is a sequence, or some that are judged together.
    type Label: 'static;
    /// The tensors that prediction reads.
    type Outputs: 'static;

    /// Sequences of an item.
    fn sequences(&self) -> usize {
        1
    }

    /// Declares its dense layers over H = `hidden` channels.
    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters>;

    /// Pushes the forward ops and, in training, loss and backward. `layers` are what `parameters` declared.
    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<Self::Label>,
    ) -> Built<Self::Outputs>;

    /// How much an item counts in the denominator of the loss.
    fn weight(&self, _: &Self::Label) -> usize {
        1
    }

    /// The share of rows that were right in some steps; nothing where a row is neither right nor wrong.
    fn accuracy(&self, sums: &Sums) -> Option<f64> {
        let [_, right, rows] = sums[0];
        Some(if rows > 0.0 { right / rows } else { 0.0 })
    }

    /// The mean loss of some steps, from the sums at [`place`].
    fn loss(&self, sums: &Sums) -> f64 {
        mean(sums[0])
    }
}

/// Sums over rows at [`place`]: loss, rows that are right, rows; of each of a head's losses.
pub type Sums = [[f64; 3]; 3];

/// Loss by row; 0 without any.
pub fn mean([loss, _, rows]: [f64; 3]) -> f64 {
    if rows > 0.0 { loss / rows } else { 0.0 }
}

/// What a head stands on.
pub struct HeadPlace {
    pub hidden: usize,
    /// `[T, H]`, the encoder's output.
    pub encoded: TensorId,
    pub packed: Packed,
    /// Items.
    pub items: Rows,
    pub metrics: TensorId,
    pub train: bool,
    /// Dropout before the head, and between its layers.
    pub input_dropout: Dropout,
    pub inner_dropout: Dropout,
}

/// What a head leaves behind.
pub struct Built<O> {
    pub outputs: O,
    /// What of it is read after a micro-batch of prediction.
    pub read: Vec<TensorId>,
    /// `[T, H]`, in training.
    pub encoded_gradient: Option<TensorId>,
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

/// Slots of the metrics tensor: sums over rows of loss, rows that are right, rows.
pub use crate::ops::constants::finetuning as place;

/// Tensors of a plan by which every head's step is fed.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    packed: PackedInputs,
    words: Option<WordListTensors>,
}

/// A plan and what is needed to feed and read it.
pub struct FinetunePlan<H: Head> {
    pub plan: Plan,
    pub step: FinetuneStep<H>,
}

/// By what a step is fed and read; it stays when an executor has taken the plan.
pub struct FinetuneStep<H: Head> {
    inputs: Inputs,
    feed: Feed<H::Label>,
    pub outputs: H::Outputs,
    /// `[METRICS]` floats; see [`place`].
    pub metrics: TensorId,
}

impl<H: Head> FinetunePlan<H> {
    /// Builds the plan; fails where the sizes do not fit each other. `capacity.labelled` counts the items.
    pub fn new(
        config: &ModelConfig,
        head: &H,
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
        let mut builder = PlanBuilder::new();
        builder.precision(options.precision);
        let parameters = Parameters::declare(&mut builder, config, head, options.layer_decay);
        let inputs = Inputs::new(&mut builder, capacity, train);
        let metrics = builder.tensor("metrics", Rows::fixed(METRICS), 1, Element::Float, Role::Metric);
        let ranges = clear(&mut builder, metrics, train);

        builder.phase(Phase::Micro);
        let encoder = parameters.encoder(inputs.packed.packed, options);
        let (encoded, tape) =
            builder.scoped_in("encoder", |builder| encoder.forward(builder, inputs.packed.input_ids));
        let layer = encoder.size.layers + 1;
        let dropout = |number| Dropout::new(encoder.dropout, site(DISCRIMINATOR, layer, number));
        let place = HeadPlace {
            hidden: encoder.size.hidden,
            encoded,
            packed: inputs.packed.packed,
            items: Rows::of(Extent::Labelled, capacity.labelled.max(1)),
            metrics,
            train,
            input_dropout: dropout(0),
            inner_dropout: dropout(1),
        };
        let mut feed = Feed::default();
        let built =
            builder.scoped_in("head", |builder| head.build(builder, &parameters.head, &place, &mut feed));
        if let (Some(gradient), Some(words)) = (built.encoded_gradient, inputs.words) {
            builder.scoped_in("encoder", |builder| {
                tape.backward(builder, gradient, &WordRows { kept: words, sampled: None });
            });
        }
        builder.phase(Phase::Update);
        let mut keep = Vec::new();
        if train {
            update(&mut builder, &ranges, metrics, &options.optimizer);
        } else {
            keep = built.read;
            // A head may compute some of its outputs again, from what the encoder said.
            keep.push(encoded);
        }
        let plan = builder.build(&keep)?;
        Ok(FinetunePlan { plan, step: FinetuneStep { inputs, feed, outputs: built.outputs, metrics } })
    }
}

/// The parameters of the encoder and the head.
struct Parameters {
    size: EncoderSize,
    embeddings: EmbeddingParameters,
    encoder: EncoderParameters,
    head: Vec<DenseParameters>,
}

impl Parameters {
    fn declare(builder: &mut PlanBuilder, config: &ModelConfig, head: &impl Head, layer_decay: f64) -> Self {
        let size = EncoderSize::discriminator(config);
        let rates = LayerRates::new(layer_decay, size.layers);
        builder.learning_rate_factor(rates.embeddings());
        let embeddings = parameters::embeddings(builder, config, "discriminator");
        let encoder = parameters::encoder(builder, "discriminator", size, &rates);
        let head = head.parameters(builder, size.hidden);
        Parameters { size, embeddings, encoder, head }
    }

    /// The encoder on this batch; it drops out in training alone.
    fn encoder(&self, packed: Packed, options: &FinetuneOptions) -> Encoder<'_> {
        let on = |probability| if options.purpose == Purpose::Train { probability } else { 0.0 };
        Encoder {
            size: self.size,
            parameters: &self.encoder,
            embeddings: &self.embeddings,
            packed,
            dropout: on(options.dropout),
            attention_dropout: on(options.attention_dropout),
            network: DISCRIMINATOR,
        }
    }
}

/// The phase before the micro-batches; returns the ranges of parameters that training updates.
fn clear(builder: &mut PlanBuilder, metrics: TensorId, train: bool) -> Vec<ParameterRange> {
    let ranges = if train { builder.parameter_ranges(RANGE_LIMIT) } else { Vec::new() };
    builder.phase(Phase::Clear);
    let metrics = Cleared { tensor: metrics, elements: METRICS, element: Element::Float };
    clear_all(builder, &ranges, &[metrics]);
    ranges
}

impl Inputs {
    fn new(builder: &mut PlanBuilder, capacity: BatchCapacity, train: bool) -> Self {
        let BatchCapacity { tokens, sequences, max_length, .. } = capacity;
        let packed = PackedInputs::new(builder, tokens, sequences, max_length);
        Inputs { packed, words: train.then(|| WordListTensors::new(builder, "words", tokens)) }
    }
}

impl<H: Head> FinetuneStep<H> {
    /// A micro-batch with the labels of its items.
    ///
    /// Errors: labels that do not cover it.
    pub fn micro_batch(&self, packed: PackedBatch, labels: &[&H::Label]) -> Result<MicroBatch> {
        let fed = self.feed.fill(&Labelled { batch: &packed, labels })?;
        Ok(MicroBatch { inputs: self.inputs, packed, items: labels.len(), fed })
    }
}

/// A micro-batch ready to be uploaded.
pub struct MicroBatch {
    inputs: Inputs,
    pub packed: PackedBatch,
    items: usize,
    fed: Vec<Fed>,
}

impl MicroBatch {
    /// Everything it brings to the device.
    pub fn uploads(&self) -> Vec<Upload<'_>> {
        let mut uploads = Vec::new();
        self.inputs.packed.uploads(&self.packed, &mut uploads);
        if let Some(words) = self.inputs.words {
            words.uploads(&self.packed.generator_words, &mut uploads);
        }
        uploads.extend(self.fed.iter().map(Fed::upload));
        uploads
    }

    /// The scalars of the micro-batch in a step with these.
    pub fn values(&self, step: &StepValues) -> StepValues {
        StepValues {
            tokens: self.packed.tokens() as u32,
            sequences: self.packed.sequence_count() as u32,
            labelled: self.items as u32,
            first_sequence: self.packed.first_sequence as u32,
            ..*step
        }
    }
}
