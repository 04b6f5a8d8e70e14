//! Progress on stderr: a line that rewrites itself on a terminal, a plain line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

pub struct Reporter {
    start: Instant,
    next: Instant,
    terminal: bool,
    shown: bool,
}

impl Reporter {
    pub fn new() -> Self {
        let start = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        let mut reporter = Reporter { start, next: start, terminal, shown: false };
        reporter.next += reporter.interval();
        reporter
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(if self.terminal { 200 } else { 15_000 })
    }

    /// Shows the line, where it is time for one: `line` gets the seconds since the start.
    pub fn report(&mut self, line: impl FnOnce(f64) -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.show(&line((now - self.start).as_secs_f64()));
        }
    }

    #[cfg(feature = "tokenizer-training")]
    /// Shows a line that stays true for a while: at once on a terminal, else where it is time for one.
    pub fn stage(&mut self, line: &str) {
        match self.terminal {
            true => self.show(line),
            false => self.report(|_| line.to_owned()),
        }
    }

    /// Shows a line now.
    pub fn show(&mut self, line: &str) {
        self.next = Instant::now() + self.interval();
        let mut stderr = std::io::stderr();
        let _ = match self.terminal {
            true => write!(stderr, "\r\x1b[K{line}"),
            false => writeln!(stderr, "{line}"),
        };
        self.shown = true;
    }

    pub fn clear(&self) {
        if self.terminal && self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Seconds that are left when `share` of the work took `seconds`.
pub fn left(seconds: f64, share: f64) -> f64 {
    seconds / share.max(1e-6) * (1.0 - share)
}
