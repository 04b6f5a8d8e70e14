//! One encoder, embeddings and Transformer layers: post-LN (`docs/spec.md` §2).

use crate::ops::matmul::Epilogue;
use crate::plan::PlanBuilder;
use crate::tensor::{Dropout, TensorId};

use super::inputs::{Packed, WordRows};
use super::layers::{
    AttentionLayer, DenseLayer, DenseTape, EmbeddingLayer, EmbeddingTape, FeedForward, FeedForwardTape,
    NormLayer, SelfAttention, SelfAttentionTape, site,
};
use super::parameters::{
    DenseParameters, EmbeddingParameters, EncoderParameters, EncoderSize, LayerParameters, NormParameters,
};

/// Builds the ops of one network below its head.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    pub size: EncoderSize,
    pub parameters: &'a EncoderParameters,
    pub embeddings: &'a EmbeddingParameters,
    pub packed: Packed,
    pub dropout: f64,
    pub attention_dropout: f64,
    /// Distinguishes the networks in sites of dropout (`tensor::draws`).
    pub network: u32,
}

/// An encoder that went forward.
pub struct EncoderTape<'a> {
    embeddings: EmbeddingTape<'a>,
    project: Option<DenseTape<'a>>,
    layers: Vec<TransformerTape<'a>>,
}

/// One layer that went forward.
struct TransformerTape<'a> {
    attention: SelfAttentionTape<'a>,
    feed_forward: FeedForwardTape<'a>,
}

impl<'a> Encoder<'a> {
    /// Embeddings of `ids` (`[T]`), then all layers; returns `[T, H]`.
    pub fn forward(&self, builder: &mut PlanBuilder, ids: TensorId) -> (TensorId, EncoderTape<'a>) {
        let (mut output, embeddings) = self.embedding_layer().forward(builder, ids);
        let mut project = None;
        if let Some(parameters) = &self.parameters.project {
            let label = "embeddings_project";
            let (projected, tape) = self.dense(label, parameters).forward(builder, output, label);
            (output, project) = (projected, Some(tape));
        }
        let mut layers = Vec::new();
        for (index, parameters) in self.parameters.layers.iter().enumerate() {
            builder.scoped_in(&layer_scope(index), |builder| {
                let (middle, attention) = self.self_attention(index, parameters).forward(builder, output);
                let (normed, feed_forward) = self.feed_forward(index, parameters).forward(builder, middle);
                layers.push(TransformerTape { attention, feed_forward });
                output = normed;
            });
        }
        (output, EncoderTape { embeddings, project, layers })
    }

    fn embedding_layer(&self) -> EmbeddingLayer<'a> {
        EmbeddingLayer {
            label: "embeddings",
            parameters: self.embeddings,
            packed: self.packed,
            columns: self.size.embedding,
            dropout: self.dropout(0, 0),
        }
    }

    fn self_attention(&self, index: usize, parameters: &'a LayerParameters) -> SelfAttention<'a> {
        let attention = AttentionLayer {
            label: "attention",
            packed: self.packed,
            hidden: self.size.hidden,
            heads: self.size.heads,
            dropout: Dropout::new(self.attention_dropout, site(self.network, index + 1, 1)),
        };
        let dropout = self.dropout(index + 1, 2);
        SelfAttention {
            qkv: self.dense("attention.qkv", &parameters.qkv),
            attention,
            output: self.dense("attention.output", &parameters.attention_output),
            norm: self.norm("attention.output.LayerNorm", &parameters.attention_norm, dropout),
        }
    }

    fn feed_forward(&self, index: usize, parameters: &'a LayerParameters) -> FeedForward<'a> {
        FeedForward {
            intermediate: self.dense("intermediate", &parameters.intermediate),
            output: self.dense("output", &parameters.output),
            norm: self.norm("output.LayerNorm", &parameters.output_norm, self.dropout(index + 1, 3)),
        }
    }

    fn dense(&self, label: &'a str, parameters: &'a DenseParameters) -> DenseLayer<'a> {
        DenseLayer { label, parameters, rows: self.packed.tokens }
    }

    fn norm(&self, label: &'a str, parameters: &'a NormParameters, dropout: Dropout) -> NormLayer<'a> {
        let (rows, columns) = (self.packed.tokens, self.size.hidden);
        NormLayer { label, parameters, rows, columns, dropout, at: Some(self.packed.coordinates()) }
    }

    /// Of hidden states. `layer` counts from 1; 0 is the embeddings.
    fn dropout(&self, layer: usize, place: u32) -> Dropout {
        Dropout::new(self.dropout, site(self.network, layer, place))
    }
}

impl EncoderTape<'_> {
    /// From the gradient of the output to those of all parameters; ids have none.
    pub fn backward(self, builder: &mut PlanBuilder, output_gradient: TensorId, words: &WordRows) {
        let mut gradient = output_gradient;
        for (index, layer) in self.layers.into_iter().enumerate().rev() {
            gradient = builder.scoped_in(&layer_scope(index), |builder| {
                let middle = layer.feed_forward.backward(builder, gradient);
                layer.attention.backward(builder, middle)
            });
        }
        if let Some(project) = self.project {
            gradient = project.backward(builder, gradient, "embeddings.gradient", Epilogue::None);
        }
        self.embeddings.backward(builder, gradient, words);
    }
}

fn layer_scope(index: usize) -> String {
    format!("layer.{index}")
}
