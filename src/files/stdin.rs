//! What is read from stdin, by the line or whole, and never more of it than fits.

use std::io::{BufRead, IsTerminal, Read};

use anyhow::{Context, Result, ensure};

use super::LONGEST_LINE;

/// Says what is waited for, where a person has to type it.
pub fn say_if_typed(what: &str) {
    if std::io::stdin().is_terminal() {
        note!("waiting for {what} on stdin; Ctrl-D ends it");
    }
}

/// The lines of stdin with their numbers, from 1; each without its line break.
pub fn lines_of_stdin() -> impl Iterator<Item = Result<(usize, String)>> {
    lines(std::io::stdin().lock(), LONGEST_LINE)
}

/// All of stdin; errors speak of it as `what`.
pub fn text_of_stdin(what: &str) -> Result<String> {
    say_if_typed(what);
    text(std::io::stdin().lock(), LONGEST_LINE, what)
}

fn lines(mut input: impl BufRead, longest: u64) -> impl Iterator<Item = Result<(usize, String)>> {
    let mut next = move |number: usize| {
        let mut bytes = Vec::new();
        let place = || format!("stdin, line {number}: cannot be read");
        input.by_ref().take(longest + 1).read_until(b'\n', &mut bytes).with_context(place)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        ensure!(bytes.len() as u64 <= longest, "stdin, line {number}: longer than {longest} bytes");
        let mut line = String::from_utf8(bytes).with_context(place)?;
        // What editors of Windows begin a file with.
        if number == 1 && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        Ok(Some((number, line)))
    };
    (1..).map_while(move |number| next(number).transpose())
}

fn text(input: impl Read, most: u64, what: &str) -> Result<String> {
    let mut text = String::new();
    input
        .take(most + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {what} from stdin"))?;
    ensure!(text.len() as u64 <= most, "{what} on stdin is longer than {most} bytes");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_library_and_bounded() {
        let input = "ab\r\n\n東\nlast".as_bytes();
        let read: Vec<_> = lines(input, 4).map(Result::unwrap).collect();
        let expected = input.lines().map(Result::unwrap).enumerate();
        assert!(read.into_iter().eq(expected.map(|(index, line)| (index + 1, line))));
        let mut bounded = lines("abcd\nabcde\n".as_bytes(), 4);
        assert_eq!(bounded.next().unwrap().unwrap(), (1, "abcd".to_owned()));
        let error = bounded.next().unwrap().unwrap_err().to_string();
        assert_eq!(error, "stdin, line 2: longer than 4 bytes");
        let error = format!("{:#}", lines(&b"a\n\xff\n"[..], 4).nth(1).unwrap().unwrap_err());
        assert!(error.contains("stdin, line 2: cannot be read: invalid utf-8"), "{error}");
    }

    #[test]
    fn text_is_bounded() {
        assert_eq!(text("abcd".as_bytes(), 4, "the context").unwrap(), "abcd");
        let error = text("abcde".as_bytes(), 4, "the context").unwrap_err().to_string();
        assert_eq!(error, "the context on stdin is longer than 4 bytes");
    }
}
