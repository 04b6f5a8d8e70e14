//! The layers of the model, each with forward and backward in one place.
//!
//! A layer is its parameters and what is fixed when the plan is built: label, rows, widths, dropout. `forward` pushes
//! its ops and returns the output and a tape. The tape knows all that backward needs (tensors, label, the layer), and
//! its `backward` takes the gradient of the output, pushes the adjoint ops and returns the gradient of the input.
//! The tape of a block is made of the tapes of its layers.
//!
//! Backward pushes the parameters' gradients before the input's: what forward kept for them is dead at once, and
//! its memory is free for what follows.
//!
//! R rows (tokens, sequences or masked slots), T tokens, B sequences.

mod attention;
mod dense;
mod dropout;
mod embeddings;
mod feed_forward;
mod gather;
mod norm;
mod self_attention;

pub use attention::{AttentionLayer, AttentionTape};
pub use dense::{DenseLayer, DenseTape, GeluTape};
pub use dropout::{DropoutLayer, DropoutTape, site};
pub use embeddings::{EmbeddingLayer, EmbeddingTape};
pub use feed_forward::{FeedForward, FeedForwardTape};
pub use gather::{GatherLayer, GatherTape};
pub use norm::{NormGradients, NormLayer, NormTape};
pub use self_attention::{SelfAttention, SelfAttentionTape};
