//! The time that went into a run, over all processes that worked on it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

/// What tells the time, in seconds from any moment.
#[derive(Clone)]
pub struct Time(pub Arc<dyn Fn() -> f64 + Send + Sync>);

impl Default for Time {
    fn default() -> Self {
        let since = Instant::now();
        Time(Arc::new(move || since.elapsed().as_secs_f64()))
    }
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

/// The time that went into a run: that of earlier processes, and all of this one.
pub struct Clock {
    time: Time,
    began: f64,
    /// What the run had used when this process came to it.
    before: OnceCell<f64>,
}

impl Clock {
    pub fn start(time: Time) -> Self {
        Clock { began: time.0(), time, before: OnceCell::new() }
    }

    /// A run that had used so many seconds: of the first that this is said of.
    pub fn came_to(&self, used: f64) {
        self.before.get_or_init(|| used);
    }

    pub fn used(&self) -> f64 {
        self.before.get().unwrap_or(&0.0) + self.time.0() - self.began
    }
}
