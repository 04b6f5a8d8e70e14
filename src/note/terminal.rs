//! stderr: lines that stay, and below them at most one that rewrites itself, where it is a terminal.
//!
//! Nothing here fails or panics: a terminal that dies takes nothing away from what runs.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use ratatui::crossterm::terminal::size;
use tracing::Level;

use super::layout::wrapped;

/// Columns where the terminal does not say.
const COLUMNS: usize = 80;

/// Columns of a line of progress that is written where none stands.
const PLAIN_WIDTH: usize = 120;

/// Between two changes of the line.
const FRAME: Duration = Duration::from_millis(100);

/// Between two looks at the width of the terminal.
const LOOK: Duration = Duration::from_secs(1);

/// The line that stands now. Whoever writes to stderr holds it.
static STANDING: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn standing() -> MutexGuard<'static, Option<ProgressBar>> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Columns of the terminal, and when it is asked for them again: never where it has not answered.
struct Width {
    columns: usize,
    look: Option<Instant>,
}

static WIDTH: Mutex<Option<Width>> = Mutex::new(None);

/// Columns of the terminal, as they were a moment ago.
fn width() -> usize {
    let mut known = WIDTH.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if known.as_ref().is_none_or(|known| known.look.is_some_and(|look| now >= look)) {
        let found = size().ok().map(|(columns, _)| usize::from(columns)).filter(|&columns| columns > 0);
        *known = Some(Width { columns: found.unwrap_or(COLUMNS), look: found.map(|_| now + LOOK) });
    }
    known.as_ref().map_or(COLUMNS, |known| known.columns)
}

/// Writes a line to stderr, above the line of progress. On a terminal one that is too long for it is broken at spaces.
pub fn say(level: Level, text: &str) {
    let text = if is_terminal() { wrapped(text, width()) } else { text.to_owned() };
    let line = match colour(level).filter(|_| is_colourful()) {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m\n"),
        None => format!("{text}\n"),
    };
    let write = || drop(io::stderr().write_all(line.as_bytes()));
    match &*standing() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn colour(level: Level) -> Option<&'static str> {
    match level {
        Level::ERROR => Some("31"),
        Level::WARN => Some("33"),
        Level::INFO => None,
        _ => Some("2"),
    }
}

/// Whether stderr is a terminal that knows more than lines.
fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether the user has nothing against colours: `NO_COLOR` is not set.
pub fn takes_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn is_colourful() -> bool {
    is_terminal() && takes_colour()
}

/// Whether notes are written at all: a line of progress is one.
fn notes_are_wanted() -> bool {
    tracing::enabled!(target: "inazuma", Level::INFO)
}

/// Takes the line of progress away, for whoever ends the process without unwinding. One who is writing is not waited for.
pub fn end_now() {
    let bar = match STANDING.try_lock() {
        Ok(mut bar) => bar.take(),
        Err(TryLockError::Poisoned(bar)) => bar.into_inner().take(),
        Err(TryLockError::WouldBlock) => None,
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// A line of progress, where stderr is a terminal and notes are wanted. It goes when this is dropped.
pub struct Bar {
    bar: Option<ProgressBar>,
    /// How often a plain line is written where there is none.
    lines: Option<Duration>,
    next: Instant,
}

impl Bar {
    /// Puts it in the place of one that may stand.
    pub fn start() -> Self {
        let now = Instant::now();
        let bar = (is_terminal() && notes_are_wanted()).then(|| {
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(Stderr::default()), 20);
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        if let Some(bar) = &bar
            && let Some(before) = standing().replace(bar.clone())
        {
            before.finish_and_clear();
        }
        Bar { bar, lines: None, next: now }
    }

    /// As [`Bar::start`]; where no line can stand, a plain one is written now and then.
    pub fn or_lines(every: Duration) -> Self {
        let mut bar = Bar::start();
        if !bar.stands() {
            bar.lines = Some(every);
            bar.next += every;
        }
        bar
    }

    /// None, which shows nothing.
    pub fn none() -> Self {
        Bar { bar: None, lines: None, next: Instant::now() }
    }

    /// Whether there is one.
    pub fn stands(&self) -> bool {
        self.bar.is_some()
    }

    /// Shows the line, where it is time for one: `line` gets the columns that there are.
    pub fn show(&mut self, line: impl FnOnce(usize) -> String) {
        if Instant::now() >= self.next {
            self.show_now(line);
        }
    }

    /// Shows the line.
    pub fn show_now(&mut self, line: impl FnOnce(usize) -> String) {
        let now = Instant::now();
        let Some(bar) = self.bar.clone() else {
            if let Some(every) = self.lines {
                self.next = now + every;
                note!("{}", line(PLAIN_WIDTH));
            }
            return;
        };
        self.next = now + FRAME;
        let line = line(width());
        // Held, so that no line is written meanwhile.
        let _standing = standing();
        bar.set_message(line);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let Some(bar) = &self.bar else { return };
        let mut standing = standing();
        bar.finish_and_clear();
        // Another may have taken its place.
        standing.take_if(|standing| standing.is_finished());
    }
}

/// stderr as `indicatif` draws on it. Its own keeps what could not be written, for ever more.
#[derive(Debug, Default)]
struct Stderr(Mutex<Vec<u8>>);

impl Stderr {
    fn add(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn go(&self, lines: usize, direction: char) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { self.add(&format!("\x1b[{lines}{direction}")) }
    }
}

impl TermLike for Stderr {
    fn width(&self) -> u16 {
        // Wider than any line: they are made to fit before they come here.
        4096
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text).and_then(|()| self.add("\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        // What fills the line would be wrapped by a terminal that becomes narrower.
        if text.trim_start_matches(' ').is_empty() { Ok(()) } else { self.add(text) }
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = io::stderr().write_all(&bytes);
        Ok(())
    }
}
