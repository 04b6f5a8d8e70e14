//! When to say when a run will end.

use std::time::{Duration, Instant};

/// When to say when the run will end: behind the second interval, as the first one of a process takes longer than those
/// behind it, or after a minute, if that comes first.
pub struct Forecast {
    begun: Instant,
    /// Updates made before this process.
    first: u64,
    intervals: u64,
}

impl Forecast {
    const SOON: Duration = Duration::from_secs(60);
    const INTERVALS: u64 = 2;
    /// Steps that say little.
    const FEW: u64 = 3;

    pub fn new(first: u64) -> Self {
        Forecast { begun: Instant::now(), first, intervals: 0 }
    }

    pub fn interval_ended(&mut self) {
        self.intervals += 1;
    }

    pub fn is_due(&self, step: u64) -> bool {
        self.intervals >= Self::INTERVALS
            || self.begun.elapsed() >= Self::SOON && step > self.first + Self::FEW
    }
}
