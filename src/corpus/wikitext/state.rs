//! The state of a scan, which the files beside this one change: each for one kind of markup.

use super::Italics;

/// Tags whose content is not text (`tag::RAW`).
pub(super) const RAW_TAGS: usize = 29;

/// Something that was opened and waits for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{{…}}`
    Template,
    /// `{{{…}}}`
    Parameter,
    /// `[[…]]`
    Link,
    /// `[http://… …]`, the address already passed over
    ExternalLink,
    /// `{|…|}`
    Table,
    /// `<table>…</table>`
    HtmlTable,
    /// `-{…}-`
    Variant,
}

/// One open thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub kind: Kind,
    /// Where its content starts in the buffer.
    pub start: usize,
    /// Its first `|` in [`Scanner::pipes`].
    pub first_pipe: usize,
    /// If it is never closed, the text from here on is kept: behind the last line that was plainly its own.
    pub rescue: Option<usize>,
    /// A line break has been seen inside.
    pub broken: bool,
}

/// The state of a scan.
pub(super) struct Scanner<'a> {
    pub source: &'a str,
    pub bytes: &'a [u8],
    pub title: &'a str,
    /// The page is in Japanese, so templates may put Japanese words of their own.
    pub japanese: bool,
    /// The next byte of the source to look at.
    pub at: usize,
    /// The buffer.
    pub out: String,
    pub frames: Vec<Frame>,
    /// Places in the buffer where `|` separated the parts of the open frames.
    pub pipes: Vec<usize>,
    pub open_templates: usize,
    /// Nothing of the current line has been read.
    pub line_start: bool,
    /// Where the closing `=` of a heading start, and where its line ends.
    pub heading_end: Option<(usize, usize)>,
    /// In a `;` line the first `:` at this depth divides term and definition.
    pub term_depth: Option<usize>,
    pub disambiguation: bool,
    pub italics: Italics,
    /// For each tag with raw content, and for comments: where its next end was found, [`usize::MAX`] for nowhere. So a
    /// million openings cost one search.
    pub raw_ends: [usize; RAW_TAGS + 1],
}

impl<'a> Scanner<'a> {
    pub fn new(title: &'a str, source: &'a str, italics: Italics) -> Self {
        Self {
            source,
            bytes: source.as_bytes(),
            title,
            // Other languages quote one of these at most; in Japanese the search ends at once.
            japanese: ["の", "は", "を"].iter().all(|kana| source.contains(kana)),
            at: 0,
            out: String::with_capacity(source.len() / 2),
            frames: Vec::new(),
            pipes: Vec::new(),
            open_templates: 0,
            line_start: true,
            heading_end: None,
            term_depth: None,
            disambiguation: false,
            italics,
            raw_ends: [0; RAW_TAGS + 1],
        }
    }
}
