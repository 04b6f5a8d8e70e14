//! Progress on stderr: a line that rewrites itself on a terminal, a plain line now and then elsewhere.

use std::time::{Duration, Instant};

use crate::note::{self, Bar, narrow};

/// Between plain lines.
const INTERVAL: Duration = Duration::from_secs(15);

pub struct Reporter {
    start: Instant,
    bar: Bar,
}

impl Reporter {
    pub fn new() -> Self {
        let start = Instant::now();
        let bar = Bar::or_lines(INTERVAL);
        if bar.stands() {
            // Where a command has a handler of its own, that one stays. Without any, the line would stay behind.
            let _ = ctrlc::set_handler(|| {
                note::end_now();
                std::process::exit(130)
            });
        }
        Reporter { start, bar }
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Shows the line, where it is time for one: `line` gets the seconds since the start.
    pub fn report(&mut self, line: impl FnOnce(f64) -> String) {
        let (seconds, stands) = (self.seconds(), self.bar.stands());
        self.bar.show(|width| fitting(&line(seconds), stands, width));
    }

    #[cfg(feature = "tokenizer-training")]
    /// Shows a line that stays true for a while: at once on a terminal, else where it is time for one.
    pub fn stage(&mut self, line: &str) {
        match self.bar.stands() {
            true => self.show(line),
            false => self.report(|_| line.to_owned()),
        }
    }

    /// Shows a line now.
    pub fn show(&mut self, line: &str) {
        let stands = self.bar.stands();
        self.bar.show_now(|width| fitting(line, stands, width));
    }

    /// Nothing more is shown.
    pub fn clear(&mut self) {
        self.bar = Bar::none();
    }
}

/// A line that stands must not be wider than the terminal; a plain one may.
fn fitting(line: &str, stands: bool, width: usize) -> String {
    if stands { narrow(line, width) } else { line.to_owned() }
}

/// Seconds that are left when `share` of the work took `seconds`.
pub fn left(seconds: f64, share: f64) -> f64 {
    seconds / share.max(1e-6) * (1.0 - share)
}
