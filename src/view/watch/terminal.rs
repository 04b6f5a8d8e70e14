//! The dashboard on the user's terminal, which is left as it was found however it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::draw::Look;
use super::{Dashboard, Key};

/// How soon a signal is noticed.
const PATIENCE: Duration = Duration::from_millis(200);

/// Gives the terminal back.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = ratatui::try_restore();
    }
}

/// Shows the dashboard until the user leaves, or `stop` is set.
///
/// # Errors
/// The terminal cannot be used, or is gone.
pub fn watch(dashboard: &mut Dashboard, look: Look, interval: Duration, stop: &AtomicBool) -> Result<()> {
    // Restores it where the program panics, too.
    let restored = Restored;
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let mut read = Instant::now();
    let mut changed = true;
    while !stop.load(Ordering::Relaxed) {
        if read.elapsed() >= interval {
            dashboard.refresh();
            (read, changed) = (Instant::now(), true);
        }
        if changed {
            terminal.draw(|frame| dashboard.draw(look, frame)).context("cannot draw on the terminal")?;
        }
        let wait = interval.saturating_sub(read.elapsed()).min(PATIENCE);
        changed = event::poll(wait).context("cannot read from the terminal")?;
        if changed {
            match event::read().context("cannot read from the terminal")? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match asked(key) {
                    Asked::Leave => break,
                    Asked::Press(key) => dashboard.press(key),
                    Asked::Nothing => {}
                },
                // A new size is drawn as any change is.
                _ => {}
            }
        }
    }
    drop(restored);
    Ok(())
}

#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Leave,
    Press(Key),
    Nothing,
}

/// What a key means.
pub(super) fn asked(key: KeyEvent) -> Asked {
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Asked::Leave,
        KeyCode::Char('q') | KeyCode::Esc => Asked::Leave,
        KeyCode::Right | KeyCode::Down | KeyCode::Tab => Asked::Press(Key::Next),
        KeyCode::Left | KeyCode::Up | KeyCode::BackTab => Asked::Press(Key::Previous),
        KeyCode::Char('g') | KeyCode::Enter => Asked::Press(Key::Single),
        KeyCode::Char('x') => Asked::Press(Key::Over),
        KeyCode::Char(digit @ '1'..='9') => Asked::Press(Key::Run(digit as usize - '1' as usize)),
        _ => Asked::Nothing,
    }
}
