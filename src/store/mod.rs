//! The memory-mapped token store: what `prepare` writes and `pretrain` reads.
//!
//! `format` documents the file, `reader` opens it, `writer` makes it, `verify` checks every byte,
//! `examples` cuts training examples from it, afresh for every epoch; `prepare` fills it from text.

pub mod examples;
pub mod format;
pub mod prepare;
#[cfg(test)]
mod rates;
mod reader;
pub mod sentences;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;
pub mod writer;

pub use reader::{Lines, Store};
