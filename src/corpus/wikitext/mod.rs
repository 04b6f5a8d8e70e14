//! Wikitext into the text a reader sees.
//!
//! A hand-written scanner goes over the markup once. What is open (templates, links, tables) stands on a stack of
//! [`state::Frame`]s; text inside is cleaned as it comes and appended to one buffer, and when a frame closes, its part of the
//! buffer is kept, shortened or cut off. [`tidy`] then goes over the lines once: empty brackets, orphaned
//! punctuation, headings, lists.
//!
//! Both passes are linear in the text. Markup that is never closed costs nothing but itself: at the end of the text
//! the frames still open give back what was cleaned inside them.

mod frame;
mod line;
mod link;
mod scan;
mod state;
mod tag;
mod template;
mod tidy;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// What happens to headings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Headings {
    /// They are left out.
    Drop,
    /// A heading is a line of its own, where its section holds text.
    Keep,
}

/// What becomes of `''italics''`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Italics {
    /// Their text.
    Plain,
    /// Their text between `"`: Latin titles and terms stay apart from the sentence around them, as in WikiExtractor.
    Quoted,
}

/// How a page becomes text, where users may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub headings: Headings,
    pub italics: Italics,
}

impl Style {
    /// No headings, no quotation marks of our own: what a language model should read.
    pub const PROSE: Style = Style { headings: Headings::Drop, italics: Italics::Plain };
}

/// A page as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// Paragraphs separated by `\n`; no empty line, no line break at the end.
    pub text: String,
    /// The page only tells apart others of the same name.
    pub disambiguation: bool,
}

/// Private marks in the buffer between scanner and tidying. Control characters of the source never get there.
mod mark {
    /// A heading line; a digit with the level follows.
    pub const HEADING: char = '\u{1}';
    /// A list item.
    pub const ITEM: char = '\u{2}';
    /// Something was removed here.
    pub const CUT: char = '\u{3}';
    /// The line is what is left of a broken table.
    pub const JUNK: char = '\u{4}';
    /// A `<br>`.
    pub const BREAK: char = '\u{5}';
    /// Italics begin or end.
    pub const ITALIC: char = '\u{6}';
}

/// Turns `wikitext` into text. `title` is what `{{PAGENAME}}` stands for. Linear in time and memory.
pub fn clean(title: &str, wikitext: &str, style: Style) -> Cleaned {
    let scanned = scan::scan(title, wikitext, style.italics);
    Cleaned { text: tidy::tidy(&scanned.marked, style.headings), disambiguation: scanned.disambiguation }
}

/// Whether the text of a page sends the reader to another page.
pub fn is_redirect(wikitext: &str) -> bool {
    const WORDS: [&str; 12] = [
        "redirect",
        "転送",
        "リダイレクト",
        "weiterleitung",
        "redirection",
        "redirección",
        "rinvia",
        "doorverwijzing",
        "перенаправление",
        "重定向",
        "넘겨주기",
        "omdirigering",
    ];
    let Some(rest) = wikitext.trim_start().strip_prefix(['#', '＃']) else {
        return false;
    };
    let word: String = rest.trim_start().chars().take(20).flat_map(char::to_lowercase).collect();
    WORDS.iter().any(|known| word.starts_with(known))
}

/// Whether a title says that its page only tells apart others.
pub fn is_disambiguation_title(title: &str) -> bool {
    ["(曖昧さ回避)", "（曖昧さ回避）", "(disambiguation)"].iter().any(|end| title.ends_with(end))
}

/// What `&name;` stands for in HTML, `name` without `&` and `;`. A NUL comes back as it is.
pub fn entity(name: &str) -> Option<Cow<'static, str>> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return code.ok().and_then(char::from_u32).map(|c| c.to_string().into());
    }
    quick_xml::escape::resolve_html5_entity(name).map(Cow::Borrowed)
}
