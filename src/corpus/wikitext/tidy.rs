//! The second pass: lines. Removes what removed markup leaves behind, drops headings and link lists.

use super::{Headings, mark};

/// Makes text of what the scanner left. Linear in `marked`.
pub(super) fn tidy(marked: &str, headings: Headings) -> String {
    let mut tidy =
        Tidy { headings, text: String::with_capacity(marked.len()), pending: Vec::new(), listing: None };
    let mut line = Line::default();
    for source in marked.split('\n') {
        tidy.line(source, &mut line);
    }
    tidy.text.truncate(tidy.text.trim_end_matches('\n').len());
    tidy.text
}

struct Tidy {
    headings: Headings,
    text: String,
    /// Headings since the last line of text, with their levels.
    pending: Vec<(u8, String)>,
    /// In a section that lists sources or links: the level of its heading.
    listing: Option<u8>,
}

impl Tidy {
    fn line(&mut self, source: &str, line: &mut Line) {
        if let Some(heading) = source.find(mark::HEADING) {
            // What stands before the mark is the end of something unclosed.
            self.plain(&source[..heading], line);
            return self.heading(&source[heading + 1..], line);
        }
        self.plain(source, line);
    }

    fn plain(&mut self, source: &str, line: &mut Line) {
        if source.contains(mark::JUNK) {
            return;
        }
        let item = source.trim_start().starts_with(mark::ITEM);
        let mut rest = source;
        while !rest.is_empty() {
            let used = line.fill(rest);
            rest = &rest[used..];
            self.emit(line.finish(), item);
        }
    }

    fn emit(&mut self, text: &str, item: bool) {
        if !text.chars().any(char::is_alphanumeric) {
            return;
        }
        // Among sources and links only sentences are text.
        if self.listing.is_some() && (item || !text.contains('。') || text.chars().count() < 20) {
            return;
        }
        if self.headings == Headings::Keep {
            for (_, heading) in self.pending.drain(..) {
                self.text.push_str(&heading);
                self.text.push('\n');
            }
        }
        self.pending.clear();
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn heading(&mut self, source: &str, line: &mut Line) {
        let level = source.bytes().next().map_or(2, |digit| digit.wrapping_sub(b'0'));
        line.fill(source.get(1..).unwrap_or(""));
        let title = line.finish().to_owned();
        if self.listing.is_none_or(|outer| level <= outer) {
            self.listing = is_listing(&title).then_some(level);
        }
        self.pending.retain(|(outer, _)| *outer < level);
        if !title.is_empty() {
            self.pending.push((level, title));
        }
    }
}

/// Sections that hold sources, links and notes.
fn is_listing(title: &str) -> bool {
    let title = title.trim().to_lowercase();
    matches!(
        title.as_str(),
        "脚注"
            | "出典"
            | "注釈"
            | "注"
            | "註"
            | "脚註"
            | "註釈"
            | "参考文献"
            | "関連項目"
            | "外部リンク"
            | "参照"
            | "関連文献"
            | "関連書籍"
            | "脚注・出典"
            | "注釈・出典"
            | "出典・脚注"
            | "出典・参考文献"
            | "参考資料"
            | "脚注・参考文献"
            | "外部サイト"
            | "関連リンク"
            | "リンク"
            | "参考"
            | "文献"
            | "参考書籍"
            | "参考図書"
            | "注釈と出典"
            | "脚注と出典"
            | "出典と脚注"
            | "注記"
            | "出典・注釈"
            | "公式サイト"
            | "references"
            | "external links"
            | "see also"
            | "notes"
            | "further reading"
            | "bibliography"
            | "sources"
            | "notes and references"
            | "footnotes"
            | "citations"
    )
}

/// A label in front of something removed (`英語: `) is at most this many characters long.
const LABEL_MAX: usize = 16;
/// A closing bracket looks for its partner among this many open ones.
const BRACKETS_MAX: usize = 32;

/// One line being tidied.
#[derive(Debug, Default)]
struct Line {
    text: String,
    /// Open brackets: where they stand in `text`.
    brackets: Vec<usize>,
    /// Something was removed since the last visible character.
    cut: bool,
    /// Where the `"` of open italics stands in `text`.
    italic: Option<usize>,
}

impl Line {
    /// Takes characters up to a line break outside brackets; returns the bytes used.
    fn fill(&mut self, source: &str) -> usize {
        self.text.clear();
        self.brackets.clear();
        self.cut = false;
        self.italic = None;
        for (at, c) in source.char_indices() {
            match c {
                mark::CUT => self.cut = true,
                mark::ITALIC => self.italic(),
                mark::BREAK if self.brackets.is_empty() => return at + 1,
                mark::BREAK => self.space(' '),
                '\0'..='\u{1f}' | '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' => {}
                '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{2064}'
                | '\u{feff}'
                | '\u{ad}' => {}
                '\u{3000}' => self.space('\u{3000}'),
                c if c.is_whitespace() => self.space(' '),
                _ => self.visible(c),
            }
        }
        source.len()
    }

    fn finish(&mut self) -> &str {
        if self.cut {
            // A separator in front of something removed at the end of the line.
            let end = self.text.trim_end().trim_end_matches(['、', '，', ',']).len();
            self.text.truncate(end);
        }
        // Italics end with their line; a `"` that nothing closes was an apostrophe too many.
        if let Some(open) = self.open_italic() {
            self.text.remove(open);
        }
        self.text.trim()
    }

    /// Where the `"` of open italics stands, if tidying has not taken it away.
    fn open_italic(&mut self) -> Option<usize> {
        self.italic.take().filter(|&open| self.text.as_bytes().get(open) == Some(&b'"'))
    }

    fn italic(&mut self) {
        match self.open_italic() {
            None => {
                self.italic = Some(self.text.len());
                self.text.push('"');
            }
            Some(open) if open + 1 == self.text.trim_end().len() => self.text.truncate(open),
            Some(_) => self.text.push('"'),
        }
    }

    fn space(&mut self, space: char) {
        if self.text.is_empty() || self.text.ends_with([' ', '\u{3000}']) {
            return;
        }
        self.text.push(space);
    }

    fn visible(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || ('\u{3041}'..='\u{9fff}').contains(&c) {
            // Most characters by far.
        } else if closes(c) {
            return self.close(c);
        } else if opens(c) {
            self.brackets.push(self.text.len());
        } else if self.cut && is_separator(c) {
            return self.separator(c);
        } else if matches!(c, '。' | '．' | '、' | '，') {
            if self.cut {
                self.drop_separators();
                // A full stop in front of a note and one behind it.
                if self.text.ends_with('。') {
                    return;
                }
            }
            self.text.truncate(self.text.trim_end().len());
        }
        self.text.push(c);
        self.cut = false;
    }

    /// The start of what stands inside the innermost open bracket.
    fn inside(&self) -> Option<usize> {
        let open = *self.brackets.last()?;
        Some(open + self.text[open..].chars().next().map_or(0, char::len_utf8))
    }

    /// Takes separators and spaces off the end, and a label whose text was removed (`英語: `).
    fn drop_separators(&mut self) {
        let floor = self.inside().unwrap_or(0);
        let kept = self.text[floor..].trim_end().len();
        if self.brackets.last().is_some() && self.text[floor..floor + kept].ends_with([':', '：']) {
            let inner = &self.text[floor..floor + kept];
            let label = inner
                .char_indices()
                .rev()
                .take(LABEL_MAX + 2)
                .find(|(_, c)| matches!(c, '、' | '，' | ',' | ';' | '；' | '。'))
                .map_or(0, |(at, c)| at + c.len_utf8());
            if inner[label..].chars().count() <= LABEL_MAX {
                self.text.truncate(floor + label);
            }
        }
        let end = self.text[floor..].trim_end_matches(|c: char| is_separator(c) || c.is_whitespace());
        let end = floor + end.len();
        self.text.truncate(end);
    }

    /// A separator right behind something removed.
    fn separator(&mut self, c: char) {
        let floor = self.inside().unwrap_or(0);
        let before = self.text[floor..].trim_end();
        // At the start of the bracket or line there is nothing left to separate.
        if before.is_empty() {
            self.text.truncate(floor);
            return;
        }
        if before.ends_with(is_separator) {
            if matches!(c, ':' | '：') {
                return;
            }
            self.drop_separators();
            if self.text.len() <= floor {
                return;
            }
        }
        self.text.push(c);
    }

    fn close(&mut self, c: char) {
        let deep = self.brackets.len().saturating_sub(BRACKETS_MAX);
        let matching = self.brackets[deep..]
            .iter()
            .rposition(|&at| self.text[at..].chars().next().is_some_and(|open| pairs(open, c)));
        let Some(index) = matching else {
            self.text.push(c);
            self.cut = false;
            return;
        };
        self.brackets.truncate(deep + index + 1);
        let open = self.brackets[deep + index];
        if self.cut {
            self.drop_separators();
        }
        let inside = self.inside().unwrap_or(open);
        let code = c == ')' && self.text[..open].ends_with(|c: char| c.is_ascii_alphanumeric());
        let empty =
            self.text[inside.min(self.text.len())..].chars().all(|c| c.is_whitespace() || is_separator(c));
        self.brackets.pop();
        if empty && (self.cut || !code) && !matches!(c, '」' | '』') {
            self.text.truncate(open);
            self.cut = true;
            return;
        }
        if empty && self.cut {
            self.text.truncate(open);
            return;
        }
        if matches!(c, '）' | ')') {
            let end = inside + self.text[inside..].trim_end().len();
            self.text.truncate(end);
        }
        self.text.push(c);
        self.cut = false;
    }
}

fn opens(c: char) -> bool {
    matches!(c, '（' | '(' | '「' | '『' | '【' | '〔' | '［' | '[' | '〈' | '《')
}

fn closes(c: char) -> bool {
    matches!(c, '）' | ')' | '」' | '』' | '】' | '〕' | '］' | ']' | '〉' | '》')
}

/// Full and half width mix in practice.
fn pairs(open: char, close: char) -> bool {
    match close {
        '）' | ')' => matches!(open, '（' | '('),
        '」' => open == '「',
        '』' => open == '『',
        '】' => open == '【',
        '〕' => open == '〔',
        '］' | ']' => matches!(open, '［' | '['),
        '〉' => open == '〈',
        '》' => open == '《',
        _ => false,
    }
}

fn is_separator(c: char) -> bool {
    matches!(c, '、' | '，' | ',' | ';' | '；' | ':' | '：' | '/' | '／')
}
