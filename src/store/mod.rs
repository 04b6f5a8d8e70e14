//! The token store: what `prepare` writes and `pretrain` reads, in place, a piece at a time.
//!
//! `format` documents the file, `reader` opens it, `blocks` lets out nothing that is damaged, `writer` makes it, `verify` checks every byte,
//! `examples` cuts training examples from it, afresh for every epoch; `mixture` draws them from several stores;
//! `prepare` fills it from text, `words` tells where words begin, `ids` from what another tokenizer made of it, `tfrecord` from and to the reference implementation's files.

mod blocks;
pub mod examples;
pub mod format;
pub mod ids;
pub mod mixture;
pub mod prepare;
#[cfg(test)]
mod rates;
mod reader;
pub mod sentences;
#[cfg(test)]
pub(crate) mod tests;
pub mod tfrecord;
pub mod verify;
pub mod words;
pub mod writer;

pub use mixture::{Stores, WeightedPath};
pub use reader::{Boundaries, Lines, Store};
pub use words::Words;
