//! Sizes of the model, resolved and checked, and the work they mean (`docs/spec.md` §2 and §7).

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Width of an attention head where the number of heads is derived.
const HEAD_SIZE: usize = 64;

/// The largest of all sizes.
pub const LARGEST_SIZE: usize = 1 << 24;

/// Widest head the attention kernels take.
const LARGEST_HEAD: usize = 256;

/// How generator and discriminator have their embeddings (`docs/spec.md` §2 and §8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingSharing {
    /// One set that both train, as in the reference.
    #[default]
    Shared,
    /// The discriminator's tables are the generator's, without gradient, and a delta of its own.
    Disentangled,
    /// Each has its own.
    None,
}

impl EmbeddingSharing {
    /// As configurations write them.
    pub const NAMES: [&str; 3] = ["shared", "disentangled", "none"];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether a model of this kind can go on as one of another. Only what loses nothing: a set is doubled, deltas are
    /// added up.
    pub fn becomes(self, other: Self) -> bool {
        self == other
            || self == EmbeddingSharing::Shared
            || (self, other) == (EmbeddingSharing::Disentangled, EmbeddingSharing::None)
    }

    fn is_shared(&self) -> bool {
        *self == EmbeddingSharing::Shared
    }
}

/// Which networks a step trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trained {
    #[default]
    Both,
    /// The generator is fixed: it goes forward alone.
    Discriminator,
}

/// All sizes of generator and discriminator, and how they share their embeddings; nothing is left to derive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Pieces of the tokenizer.
    pub vocab_size: usize,
    /// E, width of the embeddings of both networks.
    pub embedding_size: usize,
    /// H, width of the discriminator.
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn_size: usize,
    /// Rows of the learned position table: the longest sequence the model can read.
    pub max_positions: usize,
    pub generator_hidden_size: usize,
    pub generator_layers: usize,
    pub generator_heads: usize,
    pub generator_ffn_size: usize,
    /// Left out where it is the reference's: models from before the key are read and written as they were.
    #[serde(default, skip_serializing_if = "EmbeddingSharing::is_shared")]
    pub embedding_sharing: EmbeddingSharing,
}

/// The generator's width: round(H · fraction).
pub fn generator_hidden_size(hidden_size: usize, fraction: f64) -> usize {
    (hidden_size as f64 * fraction).round() as usize
}

/// The generator's heads: as many of 64 as fit, one at least.
pub fn generator_heads(generator_hidden_size: usize) -> usize {
    (generator_hidden_size / HEAD_SIZE).max(1)
}

/// The generator's feed-forward width.
pub fn generator_ffn_size(generator_hidden_size: usize) -> usize {
    4 * generator_hidden_size
}

impl ModelConfig {
    /// Refuses sizes that make no model, naming the key.
    pub fn validate(&self) -> Result<()> {
        // Every number is a size.
        if let serde_json::Value::Object(fields) = serde_json::to_value(self)? {
            for (name, size) in fields.into_iter().filter(|(_, field)| field.is_number()) {
                let most = LARGEST_SIZE as u64;
                ensure!(
                    size.as_u64().is_some_and(|size| (1..=most).contains(&size)),
                    "model.{name} is {size}; it must be a whole number, 1 to {most}"
                );
            }
        }
        for (prefix, hidden, heads) in [
            ("", self.hidden_size, self.heads),
            ("generator_", self.generator_hidden_size, self.generator_heads),
        ] {
            ensure!(
                hidden % heads == 0,
                "model.{prefix}heads is {heads}; it must divide model.{prefix}hidden_size, which is {hidden}"
            );
            ensure!(
                hidden / heads <= LARGEST_HEAD,
                "model.{prefix}heads is {heads}: heads of {} are too wide; {LARGEST_HEAD} is the most",
                hidden / heads
            );
        }
        Ok(())
    }

    /// Training FLOPs of a batch as `docs/spec.md` §7 counts them: 6 × the multiply-adds of the matrix products of
    /// the forward pass. Embedding look-ups are free; the vocabulary's logits count for masked slots alone;
    /// attention counts the pairs of real tokens.
    ///
    /// `squared_lengths` is Σ length² over the sequences.
    pub fn training_flops(&self, tokens: f64, masked: f64, squared_lengths: f64, trained: Trained) -> f64 {
        let [generator, discriminator] = self.multiply_adds(tokens, masked, squared_lengths);
        match trained {
            Trained::Both => 6.0 * (generator + discriminator),
            Trained::Discriminator => 2.0 * generator + 6.0 * discriminator,
        }
    }

    /// Of the forward pass, of each network with its head.
    fn multiply_adds(&self, tokens: f64, masked: f64, squared_lengths: f64) -> [f64; 2] {
        let encoder = |hidden: usize, layers: usize, ffn: usize| {
            let (hidden, layers, ffn) = (hidden as f64, layers as f64, ffn as f64);
            let project =
                if self.embedding_size as f64 == hidden { 0.0 } else { self.embedding_size as f64 * hidden };
            let dense = project + layers * (4.0 * hidden * hidden + 2.0 * hidden * ffn);
            tokens * dense + squared_lengths * layers * 2.0 * hidden
        };
        let (embedding, hidden) = (self.embedding_size as f64, self.hidden_size as f64);
        let generator = encoder(self.generator_hidden_size, self.generator_layers, self.generator_ffn_size);
        let discriminator = encoder(self.hidden_size, self.layers, self.ffn_size);
        let words = embedding * (self.generator_hidden_size as f64 + self.vocab_size as f64);
        [generator + masked * words, discriminator + tokens * (hidden * hidden + hidden)]
    }

    /// Training FLOPs per token of full sequences with all `slots` masked slots in use.
    pub fn training_flops_per_token(&self, length: usize, slots: usize, trained: Trained) -> f64 {
        let length = length as f64;
        self.training_flops(1.0, slots as f64 / length, length, trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(hidden: usize, embedding: usize, layers: usize, fraction: f64) -> ModelConfig {
        let generator = generator_hidden_size(hidden, fraction);
        ModelConfig {
            vocab_size: 32_000,
            embedding_size: embedding,
            hidden_size: hidden,
            layers,
            heads: hidden / 64,
            ffn_size: 4 * hidden,
            max_positions: 512,
            generator_hidden_size: generator,
            generator_layers: layers,
            generator_heads: generator_heads(generator),
            generator_ffn_size: generator_ffn_size(generator),
            embedding_sharing: EmbeddingSharing::Shared,
        }
    }

    #[test]
    fn flops_per_token_are_those_of_the_table() {
        let base = model(768, 768, 12, 1.0 / 3.0);
        let cases = [
            (model(256, 128, 12, 0.25), 512, 79, 88.2e6),
            (model(256, 128, 12, 0.25), 128, 19, 70.4e6),
            (model(256, 128, 12, 1.0), 512, 79, 155.6e6),
            (base.clone(), 128, 19, 612e6),
            (base, 512, 79, 669e6),
            (model(1024, 1024, 24, 0.25), 512, 130, 2172e6),
        ];
        for (model, length, slots, expected) in cases {
            let flops = model.training_flops_per_token(length, slots, Trained::Both);
            assert!((flops / expected - 1.0).abs() < 0.01, "{flops} for {expected}");
            let fixed = model.training_flops_per_token(length, slots, Trained::Discriminator);
            assert!(fixed < flops && fixed > flops / 3.0, "{fixed} of {flops}");
        }
    }

    #[test]
    fn generator_sizes_are_derived() {
        for (hidden, fraction, expected) in
            [(256, 0.25, (64, 1, 256)), (768, 1.0 / 3.0, (256, 4, 1024)), (128, 0.25, (32, 1, 128))]
        {
            let size = generator_hidden_size(hidden, fraction);
            assert_eq!((size, generator_heads(size), generator_ffn_size(size)), expected);
        }
        // The reference writes a third as 0.33333.
        assert_eq!(generator_hidden_size(768, 0.33333), 256);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        let good = model(256, 128, 12, 0.25);
        good.validate().unwrap();
        let bad = ModelConfig { heads: 3, ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("model.heads is 3"));
        let bad = ModelConfig { generator_heads: 5, ..good.clone() };
        assert!(bad.validate().unwrap_err().to_string().contains("model.generator_heads is 5"));
        let bad = ModelConfig { layers: 0, ..good };
        assert!(bad.validate().unwrap_err().to_string().contains("model.layers is 0"));
    }
}
