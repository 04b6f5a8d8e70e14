//! The inputs of `fuzz/corpus`, and changed copies of them, through what the fuzz targets run: in bounded time, without
//! nightly or libFuzzer.

mod readers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::corpus::{Headings, Italics, Style, read_xml, wikitext};
use crate::interop::{tensorflow, torch};

/// Changed copies of each input; more where `INAZUMA_FUZZ_COPIES` says so.
const COPIES: usize = 300;
/// No input and its copies may take longer; they are a few hundred bytes each.
const LONG: Duration = Duration::from_secs(10);

/// Numbers that are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % end.max(1)
    }
}

/// A copy with up to four changes: a bit flipped, a piece removed, doubled, or taken from another input.
fn changed(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + numbers.below(24)).min(bytes.len());
        match numbers.below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = numbers.below(other.len());
                let to = (from + numbers.below(24)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let asked = std::env::var("INAZUMA_FUZZ_COPIES").ok().and_then(|copies| copies.parse().ok());
    let copies: usize = asked.unwrap_or(COPIES);
    let long = LONG * copies.div_ceil(COPIES) as u32;
    let began = Instant::now();
    for (path, input) in &inputs {
        let started = Instant::now();
        run(input);
        for _ in 0..copies {
            let other = &inputs[numbers.below(inputs.len())].1;
            run(&changed(input, other, &mut numbers));
        }
        assert!(started.elapsed() < long, "{}: {:?}", path.display(), started.elapsed());
    }
    let executions = inputs.len() * (copies + 1);
    println!("{target}: {executions} executions in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn corpus_wikitext() {
    replay("wikitext", |bytes| {
        let source = String::from_utf8_lossy(bytes);
        for style in [Style::PROSE, Style { headings: Headings::Keep, italics: Italics::Quoted }] {
            let text = wikitext::clean("題", &source, style).text;
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{source:?}");
            assert!(!text.starts_with('\n') && !text.ends_with('\n') && !text.contains("\n\n"), "{source:?}");
        }
    });
}

#[test]
fn corpus_xml() {
    replay("xml", |bytes| {
        let (lines, _) = read_xml(bytes, Style::PROSE);
        assert!(std::str::from_utf8(&lines).is_ok());
        assert!(lines.is_empty() || lines.ends_with(b"\n"));
    });
}

#[test]
fn corpus_torch() {
    replay("torch", |bytes| drop(torch::read_all(bytes)));
}

#[test]
fn corpus_tensorflow_index() {
    replay("tensorflow_index", |bytes| drop(tensorflow::read_index(bytes)));
}
