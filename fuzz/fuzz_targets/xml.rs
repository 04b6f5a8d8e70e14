//! The reader of dump XML: any bytes become articles and named problems.
#![no_main]

use inazuma::corpus::{Style, read_xml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (lines, _) = read_xml(bytes, Style::PROSE);
    assert!(std::str::from_utf8(&lines).is_ok());
    assert!(lines.is_empty() || lines.ends_with(b"\n"));
});
