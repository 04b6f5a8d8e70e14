//! What a step is fed with: masking of examples, and sequences packed into rows without padding.

pub mod masking;
mod packed;

pub use packed::{MaskedExample, NO_ID, PackedBatch, WordLists};
