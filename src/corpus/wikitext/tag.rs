//! `<…>`: comments, tags whose content is not text, and tags that only dress text.

use super::mark;
use super::state::{Kind, RAW_TAGS, Scanner};

/// Tags whose content is passed over unread up to the closing tag, as MediaWiki does.
const RAW: [&str; RAW_TAGS] = [
    "ref",
    "references",
    "gallery",
    "math",
    "chem",
    "ce",
    "timeline",
    "syntaxhighlight",
    "source",
    "score",
    "graph",
    "hiero",
    "imagemap",
    "templatedata",
    "templatestyles",
    "mapframe",
    "maplink",
    "inputbox",
    "categorytree",
    "pre",
    "includeonly",
    "rp",
    "rtc",
    "style",
    "script",
    "indicator",
    "nowiki",
    "rss",
    "phonos",
];

/// Index in `Scanner::raw_ends` of the end of a comment.
const COMMENT: usize = RAW_TAGS;

/// A tag has to end within this many bytes.
const TAG_MAX: usize = 1024;

impl Scanner<'_> {
    pub(super) fn tag(&mut self) {
        if self.starts_with("<!--") {
            return self.comment();
        }
        let closing = self.peek(1) == Some(b'/');
        let name_start = self.at + 1 + usize::from(closing);
        let name_length = self.bytes[name_start.min(self.bytes.len())..]
            .iter()
            .take(24)
            .take_while(|b| b.is_ascii_alphanumeric())
            .count();
        let name = self.source[name_start.min(self.bytes.len())..][..name_length].to_ascii_lowercase();
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if !starts {
            if closing {
                self.at += 2;
                return;
            }
            return self.literal("<");
        }
        let Some(end) = self.tag_end(name_start + name_length) else {
            // A tag that is not finished: `<ref` and `</small` are not text, `a<b` is.
            if closing || is_known(&name) {
                self.at = name_start + name_length;
            } else {
                self.literal("<");
            }
            return;
        };
        let empty = self.bytes[end - 1] == b'/';
        if !closing && let Some(index) = RAW.iter().position(|raw| *raw == name) {
            return self.raw(index, end + 1, empty);
        }
        self.at = end + 1;
        self.dress(&name, closing);
    }

    /// Where the `>` of a tag is. A `<` before it means that there is none, except in a quoted attribute.
    fn tag_end(&self, from: usize) -> Option<usize> {
        let mut quote = None;
        let window = &self.bytes[from..self.bytes.len().min(from + TAG_MAX)];
        for (offset, &byte) in window.iter().enumerate() {
            match (byte, quote) {
                (b'>', _) => return Some(from + offset),
                (b'<', None) | (b'\n', Some(_)) => return None,
                (b'"', None) => quote = Some(b'"'),
                (b'"', Some(_)) => quote = None,
                _ => {}
            }
        }
        None
    }

    fn comment(&mut self) {
        let fresh = self.out.is_empty() || self.out.ends_with('\n');
        match self.raw_end(COMMENT, self.at + 4) {
            Some(end) => self.at = end + 3,
            // MediaWiki would hide the rest of the page.
            None => self.at += 4,
        }
        self.line_start = fresh;
    }

    /// A tag with raw content, which starts at `content`.
    fn raw(&mut self, index: usize, content: usize, empty: bool) {
        self.at = content;
        let name = RAW[index];
        let cut = !matches!(name, "rp" | "rtc" | "nowiki" | "includeonly" | "indicator");
        if cut {
            self.out.push(mark::CUT);
        }
        if empty {
            return;
        }
        let Some(end) = self.raw_end(index, content) else {
            return;
        };
        if name == "ref" && self.is_unclosed_reference(content, end) {
            return;
        }
        let close = self.tag_end(end + 2).map_or(end + 2 + name.len(), |at| at + 1);
        if name == "nowiki" {
            self.literal_text(content, end);
        }
        self.at = close;
    }

    /// `<nowiki>`: entities are decoded, nothing else.
    fn literal_text(&mut self, from: usize, to: usize) {
        for (index, part) in self.source[from..to].split('&').enumerate() {
            let mut text = part;
            if index > 0 {
                let decoded = part.split_once(';').and_then(|(name, rest)| {
                    (name.len() <= 32).then(|| super::entity(name).map(|e| (e, rest))).flatten()
                });
                match decoded {
                    Some((entity, rest)) => {
                        self.out.extend(entity.chars().filter(|c| !c.is_control()));
                        text = rest;
                    }
                    None => self.out.push('&'),
                }
            }
            self.out.extend(text.chars().filter(|c| *c == '\n' || !c.is_control()));
        }
    }

    /// Whether the `</ref` at `end` belongs to another reference than the one whose content starts at `content`.
    fn is_unclosed_reference(&self, content: usize, end: usize) -> bool {
        let mut from = content;
        while let Some(found) = memchr::memchr(b'<', &self.bytes[from..end]) {
            let at = from + found;
            let name = &self.bytes[at + 1..];
            if name.len() > 3
                && name[..3].eq_ignore_ascii_case(b"ref")
                && matches!(name[3], b'>' | b' ' | b'\n')
            {
                return true;
            }
            from = at + 1;
        }
        memchr::memmem::find(&self.bytes[content..end], b"\n==").is_some()
    }

    /// Where the raw tag of this index ends next, at or after `from`.
    fn raw_end(&mut self, index: usize, from: usize) -> Option<usize> {
        let known = self.raw_ends[index];
        if known < from {
            let found = if index == COMMENT {
                memchr::memmem::find(&self.bytes[from..], b"-->").map(|at| from + at)
            } else {
                find_closing(self.bytes, from, RAW[index])
            };
            self.raw_ends[index] = found.unwrap_or(usize::MAX);
        }
        let end = self.raw_ends[index];
        (end != usize::MAX).then_some(end)
    }

    /// A tag that only dresses its content: what it does to the lines.
    fn dress(&mut self, name: &str, closing: bool) {
        match name {
            "br" => self.out.push(mark::BREAK),
            "rt" => self.out.push(if closing { '）' } else { '（' }),
            "table" if closing => {
                if self.unwind_to(&[Kind::HtmlTable])
                    && let Some(frame) = self.pop()
                {
                    self.cut(&frame);
                }
            }
            "table" => self.open(Kind::HtmlTable),
            "li" if self.frames.is_empty() && !closing => {
                self.out.push('\n');
                self.out.push(mark::ITEM);
            }
            "p" | "div" | "li" | "ul" | "ol" | "dl" | "dt" | "dd" | "blockquote" | "center" | "poem"
            | "tr" | "td" | "th" | "caption" | "hr" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                if self.top() == Some(Kind::HtmlTable)
                    && let Some(frame) = self.frames.last_mut()
                {
                    frame.rescue = None;
                }
                self.out.push(if self.frames.is_empty() { '\n' } else { ' ' });
                self.line_start = self.frames.is_empty();
            }
            _ => {}
        }
    }
}

/// The next `</name` at or after `from`, in any case of letters.
fn find_closing(bytes: &[u8], from: usize, name: &str) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr::memmem::find(&bytes[at..], b"</") {
        let start = at + found;
        let rest = &bytes[start + 2..];
        if rest.len() >= name.len()
            && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes())
            && !rest.get(name.len()).is_some_and(u8::is_ascii_alphanumeric)
        {
            return Some(start);
        }
        at = start + 2;
    }
    None
}

fn is_known(name: &str) -> bool {
    RAW.contains(&name)
        || matches!(
            name,
            "br" | "span"
                | "div"
                | "small"
                | "big"
                | "sup"
                | "sub"
                | "table"
                | "tr"
                | "td"
                | "th"
                | "p"
                | "center"
                | "font"
                | "li"
                | "ul"
                | "ol"
                | "noinclude"
                | "onlyinclude"
                | "blockquote"
                | "ruby"
                | "rb"
                | "rt"
                | "code"
                | "tt"
                | "em"
                | "strong"
                | "cite"
                | "poem"
        )
}
