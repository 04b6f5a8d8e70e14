//! `inazuma watch`: runs on a terminal, while they go on or later. Only reads.

mod draw;
mod followed;
mod lock;
mod terminal;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::recorded::{Over, Recorded};
pub use draw::Look;
use followed::Followed;
pub use terminal::watch;

/// Quantities in the order in which they are shown; whatever else lines have comes behind them.
const FIRST: [&str; 12] = [
    "loss",
    "mlm_loss",
    "disc_loss",
    "disc_auc",
    "f1",
    "exact_match",
    "lr",
    "tokens_per_second",
    "mlm_accuracy",
    "disc_accuracy",
    "grad_norm",
    "train_accuracy",
];

/// What counts lines, or says again what another quantity does.
const HIDDEN: [&str; 8] = [
    "step",
    "steps",
    "epoch",
    "tokens",
    "sequences",
    "positions_per_second",
    "model_flops_per_second",
    "skipped_steps",
];

/// Runs beside each other, and what of them is shown.
pub struct Dashboard {
    runs: Vec<Followed>,
    over: Over,
    /// The first quantity that is shown.
    first: usize,
    /// One picture alone, as large as there is room.
    single: bool,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Next,
    Previous,
    Single,
    Over,
    /// Shows or hides the run of this number, from 0.
    Run(usize),
}

impl Dashboard {
    /// Opens runs, models, and directories of trials.
    ///
    /// # Errors
    /// One of them is none, or damaged.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let runs = Recorded::open_all(paths)?.into_iter().map(Followed::new).collect();
        Ok(Dashboard { runs, over: Over::Steps, first: 0, single: false })
    }

    pub fn over(&mut self, over: Over) {
        self.over = over;
    }

    /// Reads what is new. What cannot be read is said where the run is shown, and does not end anything.
    pub fn refresh(&mut self) {
        self.runs.iter_mut().for_each(Followed::refresh);
    }

    pub fn press(&mut self, key: Key) {
        let count = self.quantities().len().max(1);
        match key {
            Key::Next => self.first = (self.first + 1) % count,
            Key::Previous => self.first = (self.first + count - 1) % count,
            Key::Single => self.single = !self.single,
            Key::Over => {
                self.over = match self.over {
                    Over::Steps => Over::Tokens,
                    Over::Tokens => Over::Hours,
                    Over::Hours => Over::Steps,
                }
            }
            Key::Run(number) => {
                if let Some(run) = self.runs.get_mut(number) {
                    run.shown = !run.shown;
                }
            }
        }
    }

    /// Names of the quantities that a line of any run has.
    fn quantities(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for run in &self.runs {
            // A quantity may come later, as scores do, or be in some lines only.
            for record in run.recorded.metrics().iter().rev().take(100) {
                let numbers = record.values.iter().filter(|(_, value)| value.is_number());
                for (name, _) in numbers.filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        let place = |name: &String| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len());
        names.sort_by_key(place);
        names
    }

    /// The dashboard as text, of this width and height.
    ///
    /// # Errors
    /// None is expected: nothing is written anywhere.
    pub fn text(&self, look: Look, width: u16, height: u16) -> Result<String> {
        let mut terminal = Terminal::new(TestBackend::new(width.max(1), height.max(1)))?;
        terminal.draw(|frame| self.draw(look, frame))?;
        Ok(lines(terminal.backend().buffer()))
    }
}

/// The symbols of a buffer; a wide one covers the cell behind it.
fn lines(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.top()..buffer.area.bottom() {
        let (mut line, mut x) = (String::new(), buffer.area.left());
        while x < buffer.area.right() {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += ratatui::text::Span::raw(symbol).width().max(1) as u16;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
