//! Measuring, and checking what is measured: whole steps, single ops, batches, and which kernels are fastest.

mod compare;
pub mod data;
pub mod estimate;
pub mod kernels;
pub mod prepare;
pub mod selftest;
pub mod step;
pub mod tune;
