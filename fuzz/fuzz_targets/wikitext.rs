//! The cleaner of wikitext: no input makes it panic, and none of its own marks comes out.
#![no_main]

use inazuma::corpus::{Headings, Italics, Style, wikitext};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let source = String::from_utf8_lossy(bytes);
    for style in [Style::PROSE, Style { headings: Headings::Keep, italics: Italics::Quoted }] {
        let text = wikitext::clean("題", &source, style).text;
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        assert!(!text.starts_with('\n') && !text.ends_with('\n') && !text.contains("\n\n"));
    }
});
