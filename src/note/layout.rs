//! What a line of progress says in few columns.

use ratatui::text::Span;

/// Columns that a terminal takes for a text: two for a wide character.
pub fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// A number with a unit of thousands, in four characters at most: 987, 12k, 1.2M.
pub fn count(number: f64) -> String {
    let (mut number, mut unit) = (number.max(0.0), 0);
    while number >= 999.5 && unit < 4 {
        (number, unit) = (number / 1000.0, unit + 1);
    }
    let unit = ["", "k", "M", "G", "T"][unit];
    match number {
        _ if unit.is_empty() => format!("{number:.0}"),
        number if number < 9.95 => format!("{number:.1}{unit}"),
        number => format!("{number:.0}{unit}"),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Parts of a line, in order. Where there is little room they become shorter, then the least important are left out.
#[derive(Clone, Debug, Default)]
pub struct Parts(Vec<Part>);

#[derive(Clone, Debug)]
struct Part {
    /// The longest first.
    forms: Vec<String>,
    /// The higher, the sooner it becomes shorter or goes.
    rank: u8,
}

impl Parts {
    /// Adds a part at the end. Of `forms` the longest comes first; 0 is the highest `rank`.
    pub fn add<const N: usize>(&mut self, rank: u8, forms: [String; N]) {
        self.0.push(Part { forms: forms.into(), rank });
    }

    /// The line for a terminal of so many columns; the last stays free, since some terminals wrap behind it.
    pub fn fit(&self, width: usize) -> String {
        let width = width.saturating_sub(1);
        let mut parts: Vec<Part> = self.0.iter().filter(|part| !part.forms.is_empty()).cloned().collect();
        let fits = |parts: &[Part], between: usize| {
            let own: usize = parts.iter().map(|part| columns(&part.forms[0])).sum();
            own + between * parts.len().saturating_sub(1) <= width
        };
        let mut between = 2;
        while !fits(&parts, between) {
            let last = |wanted: &dyn Fn(&Part) -> bool| {
                let wanted = parts.iter().enumerate().filter(|(_, part)| wanted(part));
                wanted.max_by_key(|(_, part)| part.rank).map(|(index, _)| index)
            };
            match (last(&|part| part.forms.len() > 1), last(&|_| true)) {
                (Some(index), _) => drop(parts[index].forms.remove(0)),
                (None, _) if between > 1 => between = 1,
                (None, Some(index)) if parts.len() > 1 => drop(parts.remove(index)),
                _ => break,
            }
        }
        let forms: Vec<&str> = parts.iter().map(|part| part.forms[0].as_str()).collect();
        clip(&forms.join(&" ".repeat(between)), width)
    }
}

/// A line that is not made of parts: what stands between commas in its middle goes where there is no room for it, from
/// behind.
pub fn narrow(line: &str, width: usize) -> String {
    let width = width.saturating_sub(1);
    let mut pieces: Vec<&str> = line.split(", ").collect();
    while columns(&pieces.join(", ")) > width && pieces.len() > 2 {
        pieces.remove(pieces.len() - 2);
    }
    clip(&pieces.join(", "), width)
}

/// Begins a command that is there to be pasted, to the end of its line.
const COMMAND: &str = ": inazuma ";

/// Lines for a terminal of so many columns: what is longer goes on below, broken at spaces, two columns further in. A
/// command that a line ends with stays whole on a line of its own, as does any word that is too long.
pub fn wrapped(text: &str, width: usize) -> String {
    let width = width.saturating_sub(1);
    let mut lines = Vec::new();
    // A size is one word.
    let text = text.replace(" MB", "\u{a0}MB").replace(" GB", "\u{a0}GB");
    for line in text.split('\n') {
        if columns(line) <= width {
            lines.push(line.to_owned());
            continue;
        }
        let words = line.trim_start_matches(' ');
        let indent = " ".repeat(line.len() - words.len() + 2);
        let at = words.find(COMMAND).map(|colon| colon + 2);
        let (words, command) = words.split_at(at.unwrap_or(words.len()));
        let mut current = indent[2..].to_owned();
        let mut taken = columns(&current);
        let mut is_empty = true;
        // A word with the spaces behind it.
        for word in words.split_inclusive(' ') {
            let own = columns(word.trim_end_matches(' '));
            if !is_empty && taken + own > width {
                lines.push(std::mem::replace(&mut current, indent.clone()));
                (taken, is_empty) = (indent.len(), true);
            }
            if !(is_empty && own == 0) {
                (current, taken, is_empty) = (current + word, taken + columns(word), false);
            }
        }
        lines.push(current);
        if !command.is_empty() {
            lines.push(indent + command);
        }
    }
    lines.iter().map(|line| line.trim_end_matches(' ')).collect::<Vec<_>>().join("\n").replace('\u{a0}', " ")
}

/// As much of a text as so many columns hold.
fn clip(text: &str, width: usize) -> String {
    let mut kept = String::new();
    let mut taken = 0;
    for character in text.chars() {
        taken += columns(character.encode_utf8(&mut [0; 4]));
        if taken > width {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let mut parts = Parts::default();
        parts.add(0, ["段階 12/34".into(), "12/34".into()]);
        parts.add(2, ["a long part of little weight".into(), "little".into()]);
        parts.add(1, ["日本語の部分".into(), "日本".into()]);
        parts
    }

    #[test]
    fn parts_shrink_before_they_go_and_never_wrap() {
        let parts = parts();
        let expected = [
            (120, "段階 12/34  a long part of little weight  日本語の部分"),
            (55, "段階 12/34  a long part of little weight  日本語の部分"),
            (54, "段階 12/34  little  日本語の部分"),
            (33, "段階 12/34  little  日本語の部分"),
            (32, "段階 12/34  little  日本"),
            (24, "12/34  little  日本"),
            (19, "12/34 little 日本"),
            (17, "12/34 日本"),
            (10, "12/34"),
            (4, "12/"),
        ];
        for (width, line) in expected {
            assert_eq!(parts.fit(width), line, "{width}");
        }
        for width in 0..130 {
            assert!(columns(&parts.fit(width)) <= width.saturating_sub(1), "{width}");
        }
        assert_eq!(Parts::default().fit(80), "");
    }

    #[test]
    fn lines_lose_their_middle() {
        let line = " 12.0%  1.3 million tokens, 0.42 million/s, 12 s left";
        assert_eq!(narrow(line, 80), line);
        assert_eq!(narrow(line, 40), " 12.0%  1.3 million tokens, 12 s left");
        assert_eq!(narrow(line, 11), " 12.0%  1.");
        assert_eq!(narrow("京都の記事", 6), "京都");
    }

    #[test]
    fn long_lines_go_on_below() {
        let line = "the plan needs 1.2 GB,  and 稲妻 has 900 MB";
        assert_eq!(wrapped(line, 80), line);
        assert_eq!(wrapped(line, columns(line) + 1), line);
        assert_eq!(wrapped(line, columns(line)), "the plan needs 1.2 GB,  and 稲妻 has\n  900 MB");
        assert_eq!(wrapped(line, 25), "the plan needs 1.2 GB,\n  and 稲妻 has 900 MB");
        assert_eq!(wrapped("  data  1 token\n  ab 京都 cd", 12), "  data  1\n    token\n  ab 京都\n    cd");
        // Words are not broken, nor is a command.
        assert_eq!(wrapped("a /long/path/of/a/file b", 9), "a\n  /long/path/of/a/file\n  b");
        assert_eq!(
            wrapped("stopped; go on with: inazuma pretrain --store 'a b' --resume", 20),
            "stopped; go on\n  with:\n  inazuma pretrain --store 'a b' --resume"
        );
        for width in 0..60 {
            let text = wrapped(line, width);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&text), words(line), "{width}");
            assert!(width < 10 || text.lines().all(|line| columns(line) < width), "{width}: {text}");
        }
    }

    #[test]
    fn counts_are_short() {
        let counts = [0.0, 7.0, 999.4, 999.6, 1234.0, 9960.0, 123_456.0, 998_127.0, 1.25e6, 4e15, -1.0];
        let expected = ["0", "7", "999", "1.0k", "1.2k", "10k", "123k", "998k", "1.2M", "4000T", "0"];
        assert_eq!(counts.map(count), expected);
        assert_eq!(count(f64::NAN), "0");
    }
}
