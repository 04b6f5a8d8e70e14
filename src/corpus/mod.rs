//! From a MediaWiki dump to articles of plain text.
//!
//! The way of a page: [`source`] reads the file and cuts it into pieces (whole bzip2 streams where the dump has
//! several), the workers of [`pipeline`] decode them, [`page`] cuts XML into pages and says which are articles,
//! [`wikitext`] turns markup into what a reader sees, and [`output`] writes articles in dump order with a manifest.
//! Nothing ever holds a whole dump, and the output does not depend on the number of threads.

mod bzip;
mod decompress;
pub mod input;
mod output;
mod page;
mod pipeline;
mod segment;
mod source;
pub mod wikitext;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

pub use decompress::decompress;
pub use output::{Format, Manifest};
pub use page::read_xml;
pub use pipeline::extract;
pub use wikitext::{Headings, Italics, Style};

/// What to extract, from where to where, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The dumps, read one after the other; `-` is standard input.
    pub dumps: Vec<PathBuf>,
    /// The directory for the articles and the manifest; made if missing.
    pub out: PathBuf,
    /// JSON lines or plain text.
    pub format: Format,
    /// Threads that decode and clean; at least 1.
    pub threads: usize,
    /// Articles with fewer characters (Unicode scalar values) are skipped as `short`.
    pub min_chars: usize,
    /// How pages become text.
    pub style: Style,
    /// Output files are closed once they reach this many bytes.
    pub file_bytes: u64,
    /// Replace a complete extraction that is already in `out`.
    pub force: bool,
}

/// A finished extraction: the manifest as written, and what could not be read.
#[derive(Debug)]
pub struct Extraction {
    /// What `manifest.json` holds.
    pub manifest: Manifest,
    /// Everything unreadable that was met, in order. Empty when the manifest says `complete`.
    pub problems: Vec<String>,
    /// Set when the user interrupted; no manifest was written.
    pub interrupted: bool,
}

/// Asked between pages: has the user interrupted?
pub type Stop = AtomicBool;

/// Where a piece of XML lies in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Byte of the file: of the XML itself, or of the start of the bzip2 stream that holds it.
    at: u64,
    /// Bytes into the decoded stream; `None` for XML that is not compressed.
    into: Option<u64>,
}

impl Place {
    fn plain(at: u64) -> Self {
        Self { at, into: None }
    }

    fn stream(at: u64, into: u64) -> Self {
        Self { at, into: Some(into) }
    }

    /// The place `bytes` of XML further on.
    fn plus(self, bytes: usize) -> Self {
        match self.into {
            None => Self::plain(self.at + bytes as u64),
            Some(into) => Self::stream(self.at, into + bytes as u64),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.into {
            None => write!(f, "byte {}", self.at),
            Some(into) => {
                write!(f, "byte {} ({into} bytes into what decodes from the bzip2 stream there)", self.at)
            }
        }
    }
}

/// Something in a dump that cannot be read: where, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    message: String,
}

impl Problem {
    fn at(place: Place, what: &str) -> Self {
        Self { message: format!("{place}: {what}") }
    }

    fn damaged(start: u64, at: u64) -> Self {
        Self {
            message: format!(
                "byte {at}: the bzip2 stream that starts at byte {start} is damaged; \
                 its pages from here on are lost"
            ),
        }
    }

    fn cut_short(start: u64, at: u64) -> Self {
        Self {
            message: format!(
                "byte {at}: the file is truncated: the bzip2 stream that starts at byte {start} has no end"
            ),
        }
    }

    fn garbage(at: u64) -> Self {
        Self { message: format!("byte {at}: bytes that belong to no bzip2 stream were skipped") }
    }
}
