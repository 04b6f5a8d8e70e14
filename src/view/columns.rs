//! Texts in columns of a terminal, where a Japanese character takes two.

use std::io::IsTerminal;

use ratatui::crossterm::terminal;

pub use crate::note::columns as width;

/// Columns of the terminal on stdout; 80 where there is none.
pub fn terminal_width() -> usize {
    let size = std::io::stdout().is_terminal().then(terminal::size);
    let columns = size.and_then(Result::ok).map_or(80, |(columns, _)| columns);
    usize::from(columns).max(20)
}

/// The text in exactly so many columns; `~` where it goes on.
pub fn fitted(text: &str, columns: usize) -> String {
    let mut shown = String::new();
    let fits = width(text) <= columns;
    for c in text.chars() {
        if !fits && width(&shown) + width(c.encode_utf8(&mut [0; 4])) >= columns {
            shown.push('~');
            break;
        }
        shown.push(c);
    }
    let missing = columns.saturating_sub(width(&shown));
    shown + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_take_exactly_their_columns() {
        for (text, columns, expected) in [
            ("稲妻", 4, "稲妻"),
            ("稲妻", 6, "稲妻  "),
            ("稲妻は", 4, "稲~ "),
            ("abcd", 3, "ab~"),
            ("稲妻は", 5, "稲妻~"),
        ] {
            assert_eq!(fitted(text, columns), expected);
            assert_eq!(width(&fitted(text, columns)), columns);
        }
    }
}
