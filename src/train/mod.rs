pub mod batch;
pub mod parity;
pub mod schedule;
