//! The generator's head: words at the masked slots (`docs/spec.md` §3).
//!
//! M masked slots, H the generator's hidden size, E embedding size, V vocabulary. Logits of all slots would be the
//! largest tensor by far, so they are made in chunks of slots, and each chunk goes forward, through the loss and
//! backward to the gradient of what the logits were made of before the next one takes its memory.

use crate::ops::constants::GENERATOR_SUMS;
use crate::ops::matmul::{Epilogue, Form, MatMul, Operand};
use crate::ops::metric_sums::MetricSums;
use crate::ops::vocabulary_loss::{RESULTS, VocabularyLoss};
use crate::plan::PlanBuilder;
use crate::tensor::draws::SAMPLING;
use crate::tensor::{Dropout, Rows, TensorId};

use crate::model::inputs::Masked;
use crate::model::layers::{DenseLayer, GatherLayer, GatherTape, GeluTape, NormLayer, NormTape};
use crate::model::parameters::{EmbeddingParameters, GeneratorHead};

/// Bytes of logits alive at once where nobody says how many rows of them.
const LOGITS_BYTES: usize = 64 << 20;

/// Masked language modelling: gather → dense → GELU → norm → logits against the word embeddings → loss and samples.
pub struct MaskedLanguageModel<'a> {
    pub parameters: &'a GeneratorHead,
    pub embeddings: &'a EmbeddingParameters,
    pub masked: Masked,
    /// Rows of the encoder's output.
    pub tokens: Rows,
    pub metrics: TensorId,
    pub loss_weight: f32,
    /// Rows of logits alive at once.
    pub chunk: Option<usize>,
    /// Whether backward follows.
    pub backward: bool,
}

/// The head after its loss, with the vocabulary's backward done.
pub struct MaskedLanguageModelTape<'a> {
    gather: GatherTape<'a>,
    dense: GeluTape<'a>,
    norm: NormTape<'a>,
    /// `[M, E]`.
    normed_gradient: TensorId,
    slot_of_row: TensorId,
}

/// A chunk of the vocabulary's logits: which op reads it, and where it lies, for `parity`.
#[derive(Clone, Copy, Debug)]
pub struct LogitsChunk {
    /// Index in the plan of the op that turns these logits into their gradient.
    pub consumer: usize,
    pub tensor: TensorId,
    pub first_row: usize,
    pub rows: usize,
}

/// What logits are made of, and where their loss and gradient go.
#[derive(Clone, Copy)]
struct Vocabulary {
    /// `[M, E]` both.
    normed: TensorId,
    normed_gradient: Option<TensorId>,
    /// `[M, RESULTS]`.
    results: TensorId,
}

impl<'a> MaskedLanguageModel<'a> {
    /// `encoded` is the generator's output `[T, H]`. The tape is there where `backward` is.
    pub fn forward(
        &self,
        builder: &mut PlanBuilder,
        encoded: TensorId,
    ) -> (Vec<LogitsChunk>, Option<MaskedLanguageModelTape<'a>>) {
        let rows = self.masked.extent;
        let (gathered, gather) = self.gather().forward(builder, encoded, "gathered");
        let (activated, dense) = self.dense().gelu(builder, gathered);
        let (normed, norm) = self.norm().forward(builder, activated, None);

        let results = builder.exact("results", rows, RESULTS);
        let normed_gradient =
            self.backward.then(|| builder.gradient("LayerNorm.gradient", rows, self.columns()));
        let chunks = self.vocabulary(builder, Vocabulary { normed, normed_gradient, results });
        let metrics = self.metrics;
        builder.push("metrics", MetricSums { source: results, metrics, targets: GENERATOR_SUMS, rows });
        let slot_of_row = self.masked.slot_of_row;
        let tape = normed_gradient.map(|normed_gradient| MaskedLanguageModelTape {
            gather,
            dense,
            norm,
            normed_gradient,
            slot_of_row,
        });
        (chunks, tape)
    }

    fn gather(&self) -> GatherLayer<'a> {
        GatherLayer {
            label: "gather",
            list: self.masked.rows,
            rows: self.masked.extent,
            tokens: self.tokens,
            columns: self.parameters.dense.inputs,
        }
    }

    fn dense(&self) -> DenseLayer<'a> {
        DenseLayer { label: "dense", parameters: &self.parameters.dense, rows: self.masked.extent }
    }

    fn norm(&self) -> NormLayer<'a> {
        NormLayer {
            label: "LayerNorm",
            parameters: &self.parameters.norm,
            rows: self.masked.extent,
            columns: self.columns(),
            dropout: Dropout::off(),
            at: None,
        }
    }

    /// E.
    fn columns(&self) -> usize {
        self.parameters.dense.outputs
    }

    /// Logits, loss and gradient, chunk after chunk.
    fn vocabulary(&self, builder: &mut PlanBuilder, through: Vocabulary) -> Vec<LogitsChunk> {
        let (rows, vocabulary) = (self.masked.extent, self.embeddings.word.rows);
        let size = self.chunk.unwrap_or(LOGITS_BYTES / 4 / vocabulary).clamp(1, rows.capacity.max(1));
        let mut chunks = Vec::new();
        for first_row in (0..rows.capacity).step_by(size) {
            let chunk = rows.chunk(first_row, size);
            let name = format!("logits.{}", chunks.len());
            let logits = builder.exact(&name, Rows::of(chunk.extent, chunk.capacity), vocabulary);
            self.chunk_logits(builder, through.normed, logits, chunk);
            let consumer = builder.op_count();
            chunks.push(LogitsChunk { consumer, tensor: logits, first_row, rows: chunk.capacity });
            self.chunk_loss(builder, through.results, logits, chunk);
            if let Some(gradient) = through.normed_gradient {
                let gradient = Operand { tensor: gradient, first_row };
                self.chunk_input_gradient(builder, logits, gradient, chunk);
                self.chunk_weight_gradient(builder, logits, through.normed, chunk);
            }
        }
        chunks
    }

    /// logits = normed·wordᵀ + b.
    fn chunk_logits(&self, builder: &mut PlanBuilder, normed: TensorId, logits: TensorId, rows: Rows) {
        builder.push(
            "logits",
            MatMul {
                form: Form::Nt,
                a: Operand { tensor: normed, first_row: rows.offset },
                b: self.embeddings.word.value.into(),
                c: logits.into(),
                rows,
                n: self.embeddings.word.rows,
                inner: self.columns(),
                epilogue: Epilogue::Bias(self.parameters.output_bias.value),
                bias_gradient: None,
                partials: None,
            },
        );
    }

    /// Turns the logits into their gradient.
    fn chunk_loss(&self, builder: &mut PlanBuilder, results: TensorId, logits: TensorId, rows: Rows) {
        let masked = &self.masked;
        builder.push(
            "loss",
            VocabularyLoss {
                logits,
                targets: masked.ids,
                sequences: masked.sequences,
                slots: masked.slots,
                sampled: masked.sampled,
                draws: masked.draws,
                results,
                rows,
                vocabulary: self.embeddings.word.rows,
                generator_weight: self.loss_weight,
                gradient: self.backward,
                site: SAMPLING,
            },
        );
    }

    /// d normed = d logits·word. The sum over the vocabulary is long and its result small: split, or few compute units
    /// would have work.
    fn chunk_input_gradient(
        &self,
        builder: &mut PlanBuilder,
        logits: TensorId,
        gradient: Operand,
        rows: Rows,
    ) {
        let (columns, vocabulary) = (self.columns(), self.embeddings.word.rows);
        builder.product(
            "logits.input",
            MatMul {
                form: Form::Nn,
                a: logits.into(),
                b: self.embeddings.word.value.into(),
                c: gradient,
                rows,
                n: columns,
                inner: vocabulary,
                epilogue: Epilogue::None,
                bias_gradient: None,
                partials: None,
            },
        );
    }

    /// d word += d logitsᵀ·normed, d b += column sums of d logits.
    fn chunk_weight_gradient(
        &self,
        builder: &mut PlanBuilder,
        logits: TensorId,
        normed: TensorId,
        rows: Rows,
    ) {
        builder.push(
            "logits.weight",
            MatMul {
                form: Form::Tn,
                a: logits.into(),
                b: Operand { tensor: normed, first_row: rows.offset },
                c: self.embeddings.word.gradient.into(),
                rows,
                n: self.columns(),
                inner: self.embeddings.word.rows,
                epilogue: Epilogue::None,
                bias_gradient: Some(self.parameters.output_bias.gradient),
                partials: None,
            },
        );
    }
}

impl MaskedLanguageModelTape<'_> {
    /// The gradient of the encoder's output.
    pub fn backward(self, builder: &mut PlanBuilder) -> TensorId {
        let activated = self.norm.backward(builder, self.normed_gradient).input;
        let gathered = self.dense.backward(builder, activated, "gathered.gradient");
        self.gather.backward(builder, gathered, self.slot_of_row, "encoded.gradient")
    }
}
