//! One encoder (embeddings and layers), forward and backward, as ops of a plan.
//!
//! Post-LN Transformer (SPEC.md §2). T tokens, E embedding size, H hidden size, F FFN size. What the way back
//! needs is kept in [`Saved`]; the GELU of the FFN is computed again instead of kept.

use crate::ops::attention::{Attention, AttentionGradient};
use crate::ops::embedding::Embedding;
use crate::ops::gelu::Gelu;
use crate::ops::matmul::Epilogue;
use crate::ops::table_gradient::{
    PositionGradient, SEGMENT_PARTIALS, SampledWordGradient, SegmentGradient, WordGradient,
};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Element, Role, Rows, TensorId};

use super::inputs::{Packed, SampledWords, WordListTensors};
use super::layers::{
    NORM_EPSILON, NormWay, linear, linear_input_gradient, linear_weight_gradient, norm, norm_gradient, site,
};
use super::parameters::{EmbeddingParameters, EncoderParameters, EncoderSize, LayerParameters};

/// Builds the ops of one network.
pub struct Encoder<'a> {
    pub size: EncoderSize,
    pub parameters: &'a EncoderParameters,
    pub embeddings: &'a EmbeddingParameters,
    pub packed: Packed,
    pub dropout: f64,
    pub attention_dropout: f64,
    /// Distinguishes the networks in dropout sites: 1 generator, 2 discriminator.
    pub network: u32,
}

/// Activations kept for the way back.
pub struct Saved {
    embedding_sum: TensorId,
    embedding_statistics: TensorId,
    embedded: TensorId,
    layers: Vec<SavedLayer>,
    pub output: TensorId,
}

struct SavedLayer {
    input: TensorId,
    qkv: TensorId,
    context: TensorId,
    log_sum_exp: TensorId,
    attention_sum: TensorId,
    attention_statistics: TensorId,
    middle: TensorId,
    before_gelu: TensorId,
    output_sum: TensorId,
    output_statistics: TensorId,
}

impl Encoder<'_> {
    fn hidden_dropout(&self, layer: usize, place: u32) -> Dropout {
        Dropout::new(self.dropout, site(self.network, layer, place))
    }

    fn attention_dropout(&self, layer: usize) -> Dropout {
        Dropout::new(self.attention_dropout, site(self.network, layer, 1))
    }

    /// Embeddings of `ids`, then all layers.
    pub fn forward(&self, builder: &mut PlanBuilder, ids: TensorId) -> Saved {
        let (rows, packed) = (self.packed.tokens, &self.packed);
        let columns = self.size.embedding;
        let embedding_sum = builder.activation("embeddings.sum", rows, columns);
        let embedding_statistics = builder.exact("embeddings.statistics", rows, 2);
        let embedded = builder.activation("embeddings", rows, columns);
        builder.push(
            "embeddings",
            Embedding {
                ids,
                positions: packed.positions,
                segments: packed.segments,
                sequences: packed.sequences,
                word: self.embeddings.word.value,
                position: self.embeddings.position.value,
                segment: self.embeddings.segment.value,
                weight: self.embeddings.norm.weight.value,
                bias: self.embeddings.norm.bias.value,
                sum: embedding_sum,
                statistics: embedding_statistics,
                output: embedded,
                rows,
                columns,
                epsilon: NORM_EPSILON,
                dropout: self.hidden_dropout(0, 0),
            },
        );
        let mut x = embedded;
        if let Some(project) = &self.parameters.project {
            x = builder.activation("embeddings_project", rows, self.size.hidden);
            let op = linear(embedded, project, x, rows, Epilogue::Bias(project.bias.value));
            builder.push("embeddings_project", op);
        }
        let mut layers = Vec::new();
        for (index, layer) in self.parameters.layers.iter().enumerate() {
            let (output, saved) =
                builder.scoped_in(&format!("layer.{index}"), |builder| self.layer(builder, index, layer, x));
            layers.push(saved);
            x = output;
        }
        Saved { embedding_sum, embedding_statistics, embedded, layers, output: x }
    }

    fn layer(
        &self,
        builder: &mut PlanBuilder,
        index: usize,
        parameters: &LayerParameters,
        input: TensorId,
    ) -> (TensorId, SavedLayer) {
        let (rows, hidden, packed) = (self.packed.tokens, self.size.hidden, &self.packed);
        let qkv = builder.activation("attention.qkv", rows, 3 * hidden);
        let dense = &parameters.qkv;
        builder.push("attention.qkv", linear(input, dense, qkv, rows, Epilogue::Bias(dense.bias.value)));
        let context = builder.activation("attention.context", rows, hidden);
        let log_sum_exp = builder.exact("attention.log_sum_exp", rows, self.size.heads);
        builder.push(
            "attention",
            Attention {
                qkv,
                starts: packed.starts,
                context,
                log_sum_exp,
                tokens: rows,
                sequences: packed.sequence_rows,
                max_length: packed.max_length,
                heads: self.size.heads,
                head_size: hidden / self.size.heads,
                dropout: self.attention_dropout(index + 1),
            },
        );
        let attention_sum = builder.activation("attention.output.sum", rows, hidden);
        let dense = &parameters.attention_output;
        let op = linear(context, dense, attention_sum, rows, Epilogue::Bias(dense.bias.value));
        builder.push("attention.output", op);
        let (middle, attention_statistics) = norm(
            builder,
            "attention.output.LayerNorm",
            &parameters.attention_norm,
            (attention_sum, Some(input)),
            (rows, hidden),
            self.hidden_dropout(index + 1, 2),
            Some(packed),
        );

        let before_gelu = builder.activation("intermediate.before_gelu", rows, self.size.ffn);
        let activated = builder.activation("intermediate", rows, self.size.ffn);
        let dense = &parameters.intermediate;
        let epilogue = Epilogue::BiasGelu { bias: dense.bias.value, before: before_gelu };
        builder.push("intermediate", linear(middle, dense, activated, rows, epilogue));
        let output_sum = builder.activation("output.sum", rows, hidden);
        let dense = &parameters.output;
        builder.push("output", linear(activated, dense, output_sum, rows, Epilogue::Bias(dense.bias.value)));
        let (output, output_statistics) = norm(
            builder,
            "output.LayerNorm",
            &parameters.output_norm,
            (output_sum, Some(middle)),
            (rows, hidden),
            self.hidden_dropout(index + 1, 3),
            Some(packed),
        );
        let saved = SavedLayer {
            input,
            qkv,
            context,
            log_sum_exp,
            attention_sum,
            attention_statistics,
            middle,
            before_gelu,
            output_sum,
            output_statistics,
        };
        (output, saved)
    }

    /// The way back from the gradient of the encoder's output to all parameters.
    pub fn backward(
        &self,
        builder: &mut PlanBuilder,
        saved: &Saved,
        output_gradient: TensorId,
        words: WordListTensors,
        sampled: Option<SampledWords>,
    ) {
        let mut gradient = output_gradient;
        for (index, layer) in self.parameters.layers.iter().enumerate().rev() {
            let kept = &saved.layers[index];
            gradient = builder.scoped_in(&format!("layer.{index}"), |builder| {
                self.layer_backward(builder, index, layer, kept, gradient)
            });
        }
        let rows = self.packed.tokens;
        if let Some(project) = &self.parameters.project {
            linear_weight_gradient(
                builder,
                "embeddings_project.weight",
                gradient,
                saved.embedded,
                project,
                rows,
            );
            let before = builder.gradient("embeddings.gradient", rows, self.size.embedding);
            let op = linear_input_gradient(gradient, project, before, rows, Epilogue::None);
            builder.push("embeddings_project.input", op);
            gradient = before;
        }
        self.embedding_backward(builder, saved, gradient, words, sampled);
    }

    fn layer_backward(
        &self,
        builder: &mut PlanBuilder,
        index: usize,
        parameters: &LayerParameters,
        saved: &SavedLayer,
        output_gradient: TensorId,
    ) -> TensorId {
        let (rows, hidden, packed) = (self.packed.tokens, self.size.hidden, &self.packed);
        let (output_residual, output_branch) = norm_gradient(
            builder,
            "output.LayerNorm.backward",
            &parameters.output_norm,
            NormWay {
                output_gradient,
                sum: saved.output_sum,
                statistics: saved.output_statistics,
                columns: hidden,
                rows,
                output_dropout: Dropout::off(),
                input_dropout: self.hidden_dropout(index + 1, 3),
            },
            Some(packed),
        );
        let activated = builder.activation("intermediate.again", rows, self.size.ffn);
        builder.push(
            "intermediate.again",
            Gelu { input: saved.before_gelu, output: activated, rows, columns: self.size.ffn },
        );
        linear_weight_gradient(builder, "output.weight", output_branch, activated, &parameters.output, rows);
        let ffn_gradient = builder.gradient("intermediate.gradient", rows, self.size.ffn);
        let epilogue = Epilogue::GeluGradient { before: saved.before_gelu };
        let op = linear_input_gradient(output_branch, &parameters.output, ffn_gradient, rows, epilogue);
        builder.push("output.input", op);
        let dense = &parameters.intermediate;
        linear_weight_gradient(builder, "intermediate.weight", ffn_gradient, saved.middle, dense, rows);
        let middle_gradient = builder.gradient("attention.output.gradient", rows, hidden);
        let op =
            linear_input_gradient(ffn_gradient, dense, middle_gradient, rows, Epilogue::Add(output_residual));
        builder.push("intermediate.input", op);

        let (attention_residual, attention_branch) = norm_gradient(
            builder,
            "attention.output.LayerNorm.backward",
            &parameters.attention_norm,
            NormWay {
                output_gradient: middle_gradient,
                sum: saved.attention_sum,
                statistics: saved.attention_statistics,
                columns: hidden,
                rows,
                output_dropout: Dropout::off(),
                input_dropout: self.hidden_dropout(index + 1, 2),
            },
            Some(packed),
        );
        let dense = &parameters.attention_output;
        linear_weight_gradient(
            builder,
            "attention.output.weight",
            attention_branch,
            saved.context,
            dense,
            rows,
        );
        let context_gradient = builder.gradient("attention.context.gradient", rows, hidden);
        let op = linear_input_gradient(attention_branch, dense, context_gradient, rows, Epilogue::None);
        builder.push("attention.output.input", op);
        let heads = self.size.heads;
        let delta = builder.tensor("attention.delta", rows, heads, Element::Float, Role::Scratch);
        let qkv_gradient = builder.gradient("attention.qkv.gradient", rows, 3 * hidden);
        builder.push(
            "attention.backward",
            AttentionGradient {
                qkv: saved.qkv,
                starts: packed.starts,
                context: saved.context,
                log_sum_exp: saved.log_sum_exp,
                context_gradient,
                delta,
                qkv_gradient,
                tokens: rows,
                sequences: packed.sequence_rows,
                max_length: packed.max_length,
                heads,
                head_size: hidden / heads,
                dropout: self.attention_dropout(index + 1),
            },
        );
        let dense = &parameters.qkv;
        linear_weight_gradient(builder, "attention.qkv.weight", qkv_gradient, saved.input, dense, rows);
        let input_gradient = builder.gradient("input.gradient", rows, hidden);
        let op = linear_input_gradient(
            qkv_gradient,
            dense,
            input_gradient,
            rows,
            Epilogue::Add(attention_residual),
        );
        builder.push("attention.qkv.input", op);
        input_gradient
    }

    fn embedding_backward(
        &self,
        builder: &mut PlanBuilder,
        saved: &Saved,
        output_gradient: TensorId,
        words: WordListTensors,
        sampled: Option<SampledWords>,
    ) {
        let (rows, columns, packed) = (self.packed.tokens, self.size.embedding, &self.packed);
        let (gradient, _) = norm_gradient(
            builder,
            "embeddings.backward",
            &self.embeddings.norm,
            NormWay {
                output_gradient,
                sum: saved.embedding_sum,
                statistics: saved.embedding_statistics,
                columns,
                rows,
                output_dropout: self.hidden_dropout(0, 0),
                input_dropout: Dropout::off(),
            },
            Some(packed),
        );
        builder.push(
            "embeddings.word",
            WordGradient {
                gradient,
                table: self.embeddings.word.gradient,
                ids: words.ids,
                starts: words.starts,
                list: words.rows,
                rows,
                columns,
            },
        );
        if let Some(sampled) = sampled {
            builder.push(
                "embeddings.word.sampled",
                SampledWordGradient {
                    gradient,
                    table: self.embeddings.word.gradient,
                    sampled: sampled.sampled,
                    masked_rows: sampled.masked_rows,
                    rows: sampled.rows,
                    columns,
                },
            );
        }
        builder.push(
            "embeddings.position",
            PositionGradient {
                gradient,
                table: self.embeddings.position.gradient,
                starts: packed.starts,
                sequences: packed.sequence_rows,
                positions: self.embeddings.position.rows,
                columns,
            },
        );
        let partials = builder.tensor(
            "embeddings.segment.partials",
            Rows::fixed(SEGMENT_PARTIALS),
            2 * columns,
            Element::Float,
            Role::Scratch,
        );
        builder.push(
            "embeddings.segment",
            SegmentGradient {
                gradient,
                table: self.embeddings.segment.gradient,
                segments: packed.segments,
                partials,
                rows,
                columns,
            },
        );
    }
}
