//! The scanner: one pass over the bytes of the source.

use super::state::{Kind, Scanner};
use super::{Italics, entity, mark};

/// What the scanner leaves for tidying.
pub(super) struct Scanned {
    /// Cleaned text with the marks of [`mark`].
    pub marked: String,
    pub disambiguation: bool,
}

pub(super) fn scan(title: &str, source: &str, italics: Italics) -> Scanned {
    let mut scanner = Scanner::new(title, source, italics);
    scanner.run();
    Scanned { marked: scanner.out, disambiguation: scanner.disambiguation }
}

/// Bytes that may mean something; all others are copied in runs.
static SPECIAL: [bool; 256] = special();

const fn special() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[0x7f] = true;
    let marks = b"{}[]|<&'_-:=";
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    table
}

impl Scanner<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            if self.line_start {
                self.line_start = false;
                self.begin_line();
                continue;
            }
            let start = self.at;
            while self.at < self.bytes.len() && !SPECIAL[self.bytes[self.at] as usize] {
                self.at += 1;
            }
            if self.at > start {
                // Special bytes are ASCII, so a run never cuts a character apart.
                self.out.push_str(&self.source[start..self.at]);
            } else {
                self.special();
            }
        }
        self.unwind_at_end();
    }

    /// The byte `ahead` of the current one.
    pub(super) fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        self.bytes[self.at..].starts_with(text.as_bytes())
    }

    fn special(&mut self) {
        match self.bytes[self.at] {
            b'\n' => self.line_break(),
            b'{' => self.open_braces(),
            b'}' => self.close_braces(),
            b'[' => self.open_bracket(),
            b']' => self.close_bracket(),
            b'|' => self.pipe(),
            b'<' => self.tag(),
            b'&' => self.reference(),
            b'\'' => self.quotes(),
            b'_' => self.behaviour_switch(),
            b'-' => self.minus(),
            b':' => self.colon(),
            b'=' => self.equals(),
            b'\t' => self.literal(" "),
            _ => self.at += 1,
        }
    }

    /// Passes over one byte of the source and puts `text` into the buffer.
    pub(super) fn literal(&mut self, text: &str) {
        self.out.push_str(text);
        self.at += 1;
    }

    fn line_break(&mut self) {
        self.at += 1;
        self.note_line_break(self.peek(0));
        self.out.push('\n');
        self.line_start = true;
        self.term_depth = None;
    }

    fn open_braces(&mut self) {
        let mut count = self.run_length(b'{');
        self.at += count;
        if count == 1 {
            self.out.push('{');
        }
        while count >= 2 {
            if count == 3 {
                self.open(Kind::Parameter);
                count -= 3;
            } else {
                self.open(Kind::Template);
                count -= 2;
            }
        }
    }

    fn close_braces(&mut self) {
        if self.top() == Some(Kind::Variant) && self.peek(1) == Some(b'-') {
            self.at += 2;
            self.close_variant();
            return;
        }
        let mut count = self.run_length(b'}');
        self.at += count;
        if count == 1 {
            self.out.push('}');
            return;
        }
        while count >= 2 {
            if self.open_templates == 0 || !self.unwind_to(&[Kind::Template, Kind::Parameter]) {
                return;
            }
            if self.top() == Some(Kind::Parameter) && count >= 3 {
                self.close_parameter();
                count -= 3;
            } else {
                self.close_template();
                count -= 2;
            }
        }
    }

    fn pipe(&mut self) {
        self.at += 1;
        while self.top() == Some(Kind::ExternalLink) && self.open_templates > 0 {
            self.abandon();
        }
        match self.top() {
            Some(Kind::Template | Kind::Parameter | Kind::Link | Kind::Variant) => {
                self.pipes.push(self.out.len());
            }
            _ => self.out.push('|'),
        }
    }

    fn run_length(&self, byte: u8) -> usize {
        self.bytes[self.at..].iter().take_while(|&&b| b == byte).count()
    }

    /// `''`, `'''` and `'''''` are italics and bold; what goes beyond is apostrophes.
    fn quotes(&mut self) {
        let count = self.run_length(b'\'');
        self.at += count;
        let literal = match count {
            1 => 1,
            2 | 3 | 5 => 0,
            4 => 1,
            more => more - 5,
        };
        if self.italics == Italics::Quoted && count != 1 && count != 3 && count != 4 {
            self.out.push(mark::ITALIC);
        }
        for _ in 0..literal.min(2) {
            self.out.push('\'');
        }
    }

    /// `&name;`: decoded text is text, whatever it looks like.
    fn reference(&mut self) {
        let rest = &self.bytes[self.at + 1..];
        let end = rest.iter().take(32).position(|b| !b.is_ascii_alphanumeric() && *b != b'#');
        let Some(end) = end.filter(|&end| end > 0 && rest[end] == b';') else {
            return self.literal("&");
        };
        let name = &self.source[self.at + 1..self.at + 1 + end];
        match entity(name) {
            Some(text) => {
                for c in text.chars() {
                    self.out.push(if c.is_control() { ' ' } else { c });
                }
                self.at += end + 2;
            }
            None => self.literal("&"),
        }
    }

    /// `__NOTOC__` and its like.
    fn behaviour_switch(&mut self) {
        const JAPANESE: [&str; 8] = [
            "目次",
            "目次強制",
            "目次非表示",
            "節編集非表示",
            "カテ非表示",
            "全文検索非表示",
            "索引",
            "非索引",
        ];
        if self.peek(1) != Some(b'_') {
            return self.literal("_");
        }
        let rest = &self.bytes[self.at + 2..];
        let window = &rest[..rest.len().min(64)];
        if let Some(end) = memchr::memmem::find(window, b"__")
            && let Ok(word) = std::str::from_utf8(&window[..end])
            && !word.is_empty()
            && (word.bytes().all(|b| b.is_ascii_uppercase()) || JAPANESE.contains(&word))
        {
            self.disambiguation |= word == "DISAMBIG";
            self.at += end + 4;
            return;
        }
        let count = self.run_length(b'_');
        self.out.push_str(&self.source[self.at..self.at + count]);
        self.at += count;
    }

    /// `-{` opens a choice between variants of a language, unless it is a dash before a template.
    fn minus(&mut self) {
        if self.peek(1) == Some(b'{') && self.peek(2) != Some(b'{') {
            self.at += 2;
            self.open(Kind::Variant);
        } else {
            self.literal("-");
        }
    }

    fn close_variant(&mut self) {
        let Some(frame) = self.pop() else { return };
        let last = self.pipes[frame.first_pipe..].last().copied();
        let start = last.unwrap_or(frame.start);
        let text = &self.out[start..];
        // `zh-hans:A; zh-hant:B`: the first one will do.
        let chosen = match text.split_once(':') {
            Some((code, rest)) if code.trim().starts_with("zh") => {
                let length = rest.find(';').unwrap_or(rest.len());
                let from = start + code.len() + 1;
                from..from + length
            }
            _ => start..self.out.len(),
        };
        self.keep(&frame, chosen);
    }

    fn close_parameter(&mut self) {
        let Some(frame) = self.pop() else { return };
        match self.pipes.get(frame.first_pipe).copied() {
            Some(default) => {
                let end = self.out.len();
                self.keep(&frame, default..end);
            }
            None => self.cut(&frame),
        }
    }

    fn colon(&mut self) {
        if self.term_depth == Some(self.frames.len()) && self.peek(1) != Some(b'/') {
            self.term_depth = None;
            self.out.push('\n');
            self.out.push(mark::ITEM);
            self.at += 1;
        } else {
            self.literal(":");
        }
    }

    fn equals(&mut self) {
        match self.heading_end {
            Some((from, to)) if from == self.at => {
                self.at = to;
                self.heading_end = None;
            }
            _ => self.literal("="),
        }
    }
}
