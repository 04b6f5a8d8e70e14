//! TODO
pub mod input;
