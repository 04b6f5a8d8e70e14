//! The embeddings: words, positions and segments, their sum normalised, and dropout.

use crate::ops::embedding::Embedding;
use crate::ops::table_gradient::{
    PositionGradient, SEGMENT_PARTIALS, SampledWordGradient, SegmentGradient, WordGradient,
};
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, Rows, TensorId};

use crate::model::inputs::{Packed, WordRows};
use crate::model::parameters::EmbeddingParameters;

use super::norm::{NORM_EPSILON, NormLayer, NormTape};

/// output = dropout(LayerNorm(word[id] + position + segment)): ids `[T]` to `[T, E]`.
#[derive(Clone, Copy)]
pub struct EmbeddingLayer<'a> {
    /// Of the ops, and before the names of what they write.
    pub label: &'a str,
    pub parameters: &'a EmbeddingParameters,
    pub packed: Packed,
    pub columns: usize,
    /// Of the output.
    pub dropout: Dropout,
}

/// Embeddings that went forward.
#[derive(Clone, Copy)]
pub struct EmbeddingTape<'a> {
    layer: EmbeddingLayer<'a>,
    norm: NormTape<'a>,
}

impl<'a> EmbeddingLayer<'a> {
    pub fn forward(&self, builder: &mut PlanBuilder, ids: TensorId) -> (TensorId, EmbeddingTape<'a>) {
        let EmbeddingLayer { label, parameters, packed, columns, dropout } = *self;
        let rows = packed.tokens;
        let sum = builder.activation(&format!("{label}.sum"), rows, columns);
        let statistics = builder.exact(&format!("{label}.statistics"), rows, 2);
        let output = builder.activation(label, rows, columns);
        builder.push(
            label,
            Embedding {
                ids,
                positions: packed.positions,
                segments: packed.segments,
                sequences: packed.sequences,
                word: parameters.word.value,
                position: parameters.position.value,
                segment: parameters.segment.value,
                weight: parameters.norm.weight.value,
                bias: parameters.norm.bias.value,
                sum,
                statistics,
                output,
                rows,
                columns,
                epsilon: NORM_EPSILON,
                dropout,
            },
        );
        // The op above normalises too; backward does it apart.
        let norm = NormLayer {
            label,
            parameters: &parameters.norm,
            rows,
            columns,
            dropout: Dropout::off(),
            at: Some(packed.coordinates()),
        };
        let norm = NormTape { layer: norm, sum, statistics, output_dropout: dropout };
        (output, EmbeddingTape { layer: *self, norm })
    }
}

impl EmbeddingTape<'_> {
    /// Adds to the gradients of the tables; ids have none.
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId, words: &WordRows) {
        let gradient = self.norm.backward(builder, output_gradient).residual;
        self.word_gradients(builder, gradient, words);
        self.position_gradients(builder, gradient);
        self.segment_gradients(builder, gradient);
    }

    fn word_gradients(&self, builder: &mut PlanBuilder, gradient: TensorId, words: &WordRows) {
        let EmbeddingLayer { label, parameters, packed, columns, .. } = self.layer;
        let table = parameters.word.gradient;
        let label = format!("{label}.word");
        builder.push(
            &label,
            WordGradient {
                gradient,
                table,
                ids: words.kept.ids,
                starts: words.kept.starts,
                list: words.kept.rows,
                rows: packed.tokens,
                columns,
            },
        );
        if let Some(sampled) = words.sampled {
            builder.push(
                &format!("{label}.sampled"),
                SampledWordGradient {
                    gradient,
                    table,
                    sampled: sampled.sampled,
                    masked_rows: sampled.masked_rows,
                    rows: sampled.rows,
                    columns,
                },
            );
        }
    }

    fn position_gradients(&self, builder: &mut PlanBuilder, gradient: TensorId) {
        let EmbeddingLayer { label, parameters, packed, columns, .. } = self.layer;
        builder.push(
            &format!("{label}.position"),
            PositionGradient {
                gradient,
                table: parameters.position.gradient,
                starts: packed.starts,
                sequences: packed.sequence_rows,
                positions: parameters.position.rows,
                columns,
            },
        );
    }

    fn segment_gradients(&self, builder: &mut PlanBuilder, gradient: TensorId) {
        let EmbeddingLayer { label, parameters, packed, columns, .. } = self.layer;
        let label = format!("{label}.segment");
        let partials =
            builder.scratch(&format!("{label}.partials"), Rows::fixed(SEGMENT_PARTIALS), 2 * columns);
        builder.push(
            &label,
            SegmentGradient {
                gradient,
                table: parameters.segment.gradient,
                segments: packed.segments,
                partials,
                rows: packed.tokens,
                columns,
            },
        );
    }
}
