//! Runs looked at: their directories read back, drawn, watched and reported. Nothing here writes to a run.

pub mod plot;
pub mod recorded;
pub mod report;
