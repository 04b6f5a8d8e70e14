//! The two pre-training heads, forward and backward: masked language modelling over chunks of the
//! vocabulary's logits, and replaced-token detection.

use crate::ops::gather::{Gather, GatherGradient};
use crate::ops::gelu::GeluGradient;
use crate::ops::matmul::{Epilogue, Form, MatMul, Operand};
use crate::ops::metric_sums::MetricSums;
use crate::ops::replaced_token::{self, ReplacedToken, ReplacedTokenGradient, ReplacedTokenMetrics};
use crate::ops::vocabulary_loss::{RESULTS, VocabularyLoss};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Element, Role, Rows, TensorId};

use super::inputs::Packed;
use super::layers::{NormWay, linear, linear_input_gradient, linear_weight_gradient, norm, norm_gradient};
use super::parameters::{DiscriminatorHead, EmbeddingParameters, GeneratorHead};

/// Bytes of logits alive at once. DESIGN.md allows 64 MB; half of it still fills a GPU (at 32,000 pieces
/// 262 rows: 2,500 tiles) and stays nearer to a processor's caches.
pub const LOGITS_BYTES: usize = 32 << 20;

/// Dropout-site-like coordinate of the samples.
const SAMPLING_SITE: u32 = 0xFFFF_0001;

/// The masked slots of the batch.
#[derive(Clone, Copy)]
pub struct Masked {
    /// `[M]` each: packed row, original id, local sequence, slot within the sequence.
    pub rows: TensorId,
    pub ids: TensorId,
    pub sequences: TensorId,
    pub slots: TensorId,
    /// `[T]`: slot of a row or `u32::MAX`.
    pub slot_of_row: TensorId,
    /// `[M]`: the generator's samples; written by the device unless `draws` is off.
    pub sampled: TensorId,
    pub draws: bool,
    pub extent: Rows,
}

/// A chunk of the vocabulary's logits: which op makes it, and where it lies, for `parity`.
#[derive(Clone, Copy, Debug)]
pub struct LogitsChunk {
    /// Index in the plan of the op that turns these logits into their gradient.
    pub consumer: usize,
    pub tensor: TensorId,
    pub first_row: usize,
    pub rows: usize,
}

/// The generator's head at the masked positions. Returns the gradient of the encoder's output (where
/// `backward`), and the chunks.
#[allow(clippy::too_many_arguments)]
pub fn masked_language_model(
    builder: &mut PlanBuilder,
    head: &GeneratorHead,
    embeddings: &EmbeddingParameters,
    encoded: TensorId,
    packed: &Packed,
    masked: &Masked,
    metrics: TensorId,
    options: &HeadOptions,
) -> (Option<TensorId>, Vec<LogitsChunk>) {
    let rows = masked.extent;
    let (hidden, columns, vocabulary) = (head.dense.inputs, head.dense.outputs, embeddings.word.rows);
    let gathered = builder.activation("gathered", rows, hidden);
    builder.push(
        "gather",
        Gather { input: encoded, list: masked.rows, output: gathered, rows, columns: hidden },
    );
    let before_gelu = builder.activation("dense.before_gelu", rows, columns);
    let activated = builder.activation("dense", rows, columns);
    let epilogue = Epilogue::BiasGelu { bias: head.dense.bias.value, before: before_gelu };
    builder.push("dense", linear(gathered, &head.dense, activated, rows, epilogue));
    let (normed, statistics) =
        norm(builder, "LayerNorm", &head.norm, (activated, None), (rows, columns), Dropout::off(), None);

    let results = builder.exact("results", rows, RESULTS);
    let normed_gradient = options.backward.then(|| builder.gradient("LayerNorm.gradient", rows, columns));
    let size = (LOGITS_BYTES / 4 / vocabulary).clamp(1, rows.capacity.max(1));
    let mut chunks = Vec::new();
    for first_row in (0..rows.capacity).step_by(size) {
        let chunk = rows.chunk(first_row, size);
        let local = Rows::of(chunk.extent, chunk.capacity);
        let logits = builder.exact(&format!("logits.{}", chunks.len()), local, vocabulary);
        let normed_rows = Operand { tensor: normed, first_row };
        builder.push(
            "logits",
            MatMul {
                form: Form::Nt,
                a: normed_rows,
                b: embeddings.word.value.into(),
                c: logits.into(),
                rows: chunk,
                n: vocabulary,
                inner: columns,
                epilogue: Epilogue::Bias(head.output_bias.value),
                bias_gradient: None,
                partials: None,
            },
        );
        chunks.push(LogitsChunk {
            consumer: builder.op_count(),
            tensor: logits,
            first_row,
            rows: chunk.capacity,
        });
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
                rows: chunk,
                vocabulary,
                temperature: options.temperature,
                generator_weight: options.generator_weight,
                gradient: options.backward,
                site: SAMPLING_SITE,
            },
        );
        if let Some(normed_gradient) = normed_gradient {
            // The sum over the vocabulary is long and its result small: split, or few compute units would have work.
            let splits = MatMul::splits(chunk.capacity, columns, vocabulary);
            let partials = (splits > 1).then(|| {
                let name = format!("logits.{}.partials", chunks.len() - 1);
                let sums = chunk.capacity * columns;
                (builder.tensor(&name, Rows::fixed(splits), sums, Element::Float, Role::Scratch), splits)
            });
            builder.push(
                "logits.input",
                MatMul {
                    form: Form::Nn,
                    a: logits.into(),
                    b: embeddings.word.value.into(),
                    c: Operand { tensor: normed_gradient, first_row },
                    rows: chunk,
                    n: columns,
                    inner: vocabulary,
                    epilogue: Epilogue::None,
                    bias_gradient: None,
                    partials,
                },
            );
            builder.push(
                "logits.weight",
                MatMul {
                    form: Form::Tn,
                    a: logits.into(),
                    b: normed_rows,
                    c: embeddings.word.gradient.into(),
                    rows: chunk,
                    n: columns,
                    inner: vocabulary,
                    epilogue: Epilogue::None,
                    bias_gradient: Some(head.output_bias.gradient),
                    partials: None,
                },
            );
        }
    }
    builder.push("metrics", MetricSums { source: results, metrics, targets: [0, 2, 3], rows });

    let Some(normed_gradient) = normed_gradient else { return (None, chunks) };
    let way = NormWay {
        output_gradient: normed_gradient,
        sum: activated,
        statistics,
        columns,
        rows,
        output_dropout: Dropout::off(),
        input_dropout: Dropout::off(),
    };
    let (activated_gradient, _) = norm_gradient(builder, "LayerNorm.backward", &head.norm, way, None);
    let dense_gradient = builder.gradient("dense.gradient", rows, columns);
    builder.push(
        "dense.gelu",
        GeluGradient {
            input: before_gelu,
            output_gradient: activated_gradient,
            input_gradient: dense_gradient,
            rows,
            columns,
        },
    );
    linear_weight_gradient(builder, "dense.weight", dense_gradient, gathered, &head.dense, rows);
    let gathered_gradient = builder.gradient("gathered.gradient", rows, hidden);
    let op = linear_input_gradient(dense_gradient, &head.dense, gathered_gradient, rows, Epilogue::None);
    builder.push("dense.input", op);
    let encoded_gradient = builder.gradient("encoded.gradient", packed.tokens, hidden);
    builder.push(
        "gather.backward",
        GatherGradient {
            gradient: gathered_gradient,
            slots: masked.slot_of_row,
            output: encoded_gradient,
            rows: packed.tokens,
            columns: hidden,
        },
    );
    (Some(encoded_gradient), chunks)
}

/// Weights of the losses, and whether the way back is wanted.
#[derive(Clone, Copy, Debug)]
pub struct HeadOptions {
    pub generator_weight: f32,
    pub discriminator_weight: f32,
    pub temperature: f32,
    pub backward: bool,
}

/// What the discriminator's head leaves behind.
pub struct Detected {
    /// `[T]`.
    pub logits: TensorId,
    /// Gradient of the encoder's output, where `backward`.
    pub encoded_gradient: Option<TensorId>,
}

/// The discriminator's head over all tokens.
#[allow(clippy::too_many_arguments)]
pub fn replaced_token_detection(
    builder: &mut PlanBuilder,
    head: &DiscriminatorHead,
    encoded: TensorId,
    labels: TensorId,
    rows: Rows,
    metrics: TensorId,
    histogram: TensorId,
    options: &HeadOptions,
) -> Detected {
    let columns = head.dense.outputs;
    let before_gelu = builder.activation("dense.before_gelu", rows, columns);
    let hidden = builder.activation("dense", rows, columns);
    let epilogue = Epilogue::BiasGelu { bias: head.dense.bias.value, before: before_gelu };
    builder.push("dense", linear(encoded, &head.dense, hidden, rows, epilogue));
    let logits = builder.exact("logits", rows, 1);
    let results = builder.exact("results", rows, 2);
    builder.push(
        "loss",
        ReplacedToken {
            hidden,
            weight: head.prediction.weight.value,
            bias: head.prediction.bias.value,
            labels,
            logits,
            results,
            rows,
            columns,
            discriminator_weight: options.discriminator_weight,
        },
    );
    builder.push("metrics", ReplacedTokenMetrics { logits, results, labels, metrics, histogram, rows });
    if !options.backward {
        return Detected { logits, encoded_gradient: None };
    }
    let hidden_gradient = builder.gradient("dense.activated.gradient", rows, columns);
    let partials = builder.tensor(
        "dense_prediction.partials",
        Rows::fixed(replaced_token::PARTIALS),
        columns + 1,
        Element::Float,
        Role::Scratch,
    );
    builder.push(
        "dense_prediction.backward",
        ReplacedTokenGradient {
            hidden,
            results,
            weight: head.prediction.weight.value,
            hidden_gradient,
            weight_gradient: head.prediction.weight.gradient,
            bias_gradient: head.prediction.bias.gradient,
            partials,
            rows,
            columns,
        },
    );
    let dense_gradient = builder.gradient("dense.gradient", rows, columns);
    builder.push(
        "dense.gelu",
        GeluGradient {
            input: before_gelu,
            output_gradient: hidden_gradient,
            input_gradient: dense_gradient,
            rows,
            columns,
        },
    );
    linear_weight_gradient(builder, "dense.weight", dense_gradient, encoded, &head.dense, rows);
    let encoded_gradient = builder.gradient("encoded.gradient", rows, head.dense.inputs);
    let op = linear_input_gradient(dense_gradient, &head.dense, encoded_gradient, rows, Epilogue::None);
    builder.push("dense.input", op);
    Detected { logits, encoded_gradient: Some(encoded_gradient) }
}
