use serde::{Deserialize, Serialize};
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn_size: usize,
    pub max_positions: usize,
    pub generator_hidden_size: usize,
    pub generator_layers: usize,
    pub generator_heads: usize,
    pub generator_ffn_size: usize,
}
