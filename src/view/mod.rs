//! Runs looked at: their directories read back, drawn, watched and reported. Nothing here writes to a run.

pub mod columns;
pub mod plot;
pub mod recorded;
pub mod report;
pub mod sample;
pub mod tensorboard;
pub mod watch;
