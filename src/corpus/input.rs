//! INPUT of `tokenizer train` and `prepare`: documents as lists of paragraphs, streamed.
//!
//! A directory that `extract` wrote, JSON lines with a `text` field (paragraphs separated by line breaks), or
//! plain text (a paragraph a line, a blank line between documents). Several may be given; the end of a file
//! ends a document.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::files::LONGEST_LINE;

const BUFFER: usize = 1 << 20;
/// A document that is longer, and would have to be held in memory whole, lacks its blank lines.
const LONGEST_DOCUMENT: usize = 1 << 30;

/// One document: its paragraphs, none of them blank, separated by `\n`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub text: String,
}

impl Document {
    /// The paragraphs, stripped; blank ones are left out.
    pub fn paragraphs(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonLines,
    Text,
}

#[derive(Deserialize)]
struct Row {
    text: String,
}

struct OpenFile {
    path: PathBuf,
    format: Format,
    reader: BufReader<File>,
    /// Lines read, and bytes before the line that is read next.
    line: u64,
    offset: u64,
}

/// Streams the documents of all inputs in order. Stops after the first error.
pub struct Documents {
    waiting: VecDeque<PathBuf>,
    open: Option<OpenFile>,
    /// Bytes of all files, and of those read so far.
    pub bytes_total: u64,
    pub bytes_read: u64,
    documents: u64,
    failed: bool,
    buffer: Vec<u8>,
}

impl Documents {
    /// Finds all files of the inputs, so that a missing one is reported before any work is done.
    pub fn open(inputs: &[PathBuf]) -> Result<Documents> {
        ensure!(!inputs.is_empty(), "no input given");
        let mut waiting = VecDeque::new();
        for input in inputs {
            let metadata = std::fs::metadata(input)
                .with_context(|| format!("cannot read the input {}", input.display()))?;
            match metadata.is_dir() {
                true => waiting.extend(directory(input)?),
                false => waiting.push_back(input.clone()),
            }
        }
        let mut bytes_total = 0;
        for path in &waiting {
            bytes_total += std::fs::metadata(path)
                .with_context(|| format!("cannot read the input {}", path.display()))?
                .len();
        }
        Ok(Documents {
            waiting,
            open: None,
            bytes_total,
            bytes_read: 0,
            documents: 0,
            failed: false,
            buffer: Vec::new(),
        })
    }

    /// Files that are not read yet, and their lengths.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.waiting.iter().map(|path| (path.as_path(), std::fs::metadata(path).map_or(0, |file| file.len())))
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.waiting.pop_front() else {
                    ensure!(self.documents > 0, "the input holds no text: every file is empty or blank");
                    return Ok(None);
                };
                self.open = Some(OpenFile::open(path)?);
            }
            let Some(file) = &mut self.open else { continue };
            let before = file.offset;
            let document = match file.format {
                Format::JsonLines => file.next_row(&mut self.buffer)?,
                Format::Text => file.next_block(&mut self.buffer, LONGEST_DOCUMENT)?,
            };
            self.bytes_read += file.offset - before;
            match document {
                Some(document) if document.paragraphs().next().is_none() => {}
                Some(document) => {
                    self.documents += 1;
                    return Ok(Some(document));
                }
                None => self.open = None,
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_document();
        self.failed = next.is_err();
        next.transpose()
    }
}

impl OpenFile {
    fn open(path: PathBuf) -> Result<OpenFile> {
        let name = path.display();
        let file = File::open(&path).with_context(|| format!("cannot open {name}"))?;
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let head = reader.fill_buf().with_context(|| format!("cannot read {name}"))?;
        let compressed = [
            (b"\x1f\x8b".as_slice(), "gzip"),
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
        ];
        if let Some((_, kind)) = compressed.iter().find(|(magic, _)| head.starts_with(magic)) {
            bail!(
                "{name} is compressed with {kind}; decompress it first (a dump goes through `inazuma extract`)"
            );
        }
        let utf16 = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
        ensure!(!utf16, "{name} is UTF-16; convert it to UTF-8 first");
        let mark = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let format = format_of(&path, &head[mark..]);
        reader.consume(mark);
        Ok(OpenFile { path, format, reader, line: 0, offset: mark as u64 })
    }

    /// The next line without its line break, or nothing at the end of the file.
    fn next_line<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<Option<&'a str>> {
        buffer.clear();
        let name = self.path.display();
        let read = (&mut self.reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', buffer)
            .with_context(|| format!("cannot read {name} after byte {}", self.offset))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        ensure!(
            (read as u64) < LONGEST_LINE,
            "{name}, line {}: longer than {LONGEST_LINE} bytes; is this text?",
            self.line
        );
        let line = match std::str::from_utf8(buffer) {
            Ok(line) => line,
            Err(error) => bail!(
                "{name}, line {}: invalid UTF-8 at byte {}; convert the file to UTF-8",
                self.line,
                self.offset + error.valid_up_to() as u64
            ),
        };
        self.offset += read as u64;
        Ok(Some(line.trim_end_matches(['\n', '\r'])))
    }

    fn next_row(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Document>> {
        loop {
            let Some(line) = self.next_line(buffer)? else {
                return Ok(None);
            };
            if line.trim().is_empty() {
                continue;
            }
            return match serde_json::from_str::<Row>(line) {
                Ok(Row { text }) => Ok(Some(Document { text })),
                Err(error) => bail!(
                    "{}, line {}: not a JSON object with a string \"text\" ({error})",
                    self.path.display(),
                    self.line
                ),
            };
        }
    }

    fn next_block(&mut self, buffer: &mut Vec<u8>, longest: usize) -> Result<Option<Document>> {
        let mut text = String::new();
        let mut first = self.line + 1;
        loop {
            let Some(line) = self.next_line(buffer)? else {
                return Ok((!text.is_empty()).then_some(Document { text }));
            };
            let line = line.trim();
            if line.is_empty() {
                if text.is_empty() {
                    first = self.line + 1;
                    continue;
                }
                return Ok(Some(Document { text }));
            }
            ensure!(
                text.len() + line.len() < longest,
                "{}: the document that begins in line {first} is longer than {longest} bytes; separate documents by \
                 blank lines",
                self.path.display()
            );
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line);
        }
    }
}

/// JSON lines by their name, or where the file begins like an object with keys.
fn format_of(path: &Path, head: &[u8]) -> Format {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let named = matches!(extension, Some("jsonl" | "ndjson" | "json"));
    let start = head.trim_ascii_start();
    let object = start.first() == Some(&b'{') && start[1..].trim_ascii_start().first() == Some(&b'"');
    if named || object { Format::JsonLines } else { Format::Text }
}

/// The files that `extract` wrote into a directory, in order.
fn directory(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.display();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read the directory {name}"))? {
        let entry = entry.with_context(|| format!("cannot read the directory {name}"))?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        let extracted = file.ends_with(".jsonl") || file.ends_with(".txt");
        if file.starts_with("articles-") && extracted {
            files.push(entry.path());
        }
    }
    ensure!(
        !files.is_empty(),
        "{name} holds no articles-NNNNN.jsonl; give a directory that `inazuma extract` wrote, or files"
    );
    files.sort();
    warn_if_incomplete(path);
    Ok(files)
}

/// An extraction that was cut short is still text, but whoever trains on it should know.
fn warn_if_incomplete(path: &Path) {
    let manifest = std::fs::read(path.join("manifest.json")).unwrap_or_default();
    let complete = serde_json::from_slice::<serde_json::Value>(&manifest)
        .ok()
        .and_then(|manifest| manifest.get("complete")?.as_bool());
    if complete == Some(false) {
        warning!(
            "inazuma: warning: {} holds an incomplete extraction (see its manifest.json)",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &[u8])]) -> Result<Vec<String>> {
        let directory = tempfile::tempdir()?;
        let mut paths = Vec::new();
        for (name, bytes) in files {
            paths.push(directory.path().join(name));
            std::fs::write(&paths[paths.len() - 1], bytes)?;
        }
        Documents::open(&paths)?.map(|document| Ok(document?.text)).collect()
    }

    fn error(files: &[(&str, &[u8])]) -> String {
        format!("{:#}", read(files).unwrap_err())
    }

    #[test]
    fn blank_lines_and_ends_of_files_end_documents() {
        let texts = read(&[
            ("a.txt", "\u{feff}\n\n一\r\n 二 \n\n\n三".as_bytes()),
            ("b.txt", "四\n".as_bytes()),
            ("c.jsonl", "{\"text\": \"五\\n\\n六\", \"id\": 1}\n\n{\"text\": \" \"}\n".as_bytes()),
            ("d", "{\"title\": \"t\", \"text\": \"七\"}\n".as_bytes()),
        ]);
        assert_eq!(texts.unwrap(), ["一\n二", "三", "四", "五\n\n六", "七"]);
    }

    #[test]
    fn errors_name_the_file_and_the_place() {
        let message = error(&[("a.txt", b"abc\n\nde\xff\n")]);
        assert!(message.contains("a.txt, line 3: invalid UTF-8 at byte 7"), "{message}");
        let message = error(&[("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n")]);
        assert!(message.contains("a.jsonl, line 2"), "{message}");
        assert!(error(&[("a.txt", b"\n \n")]).contains("no text"));
        assert!(error(&[("a.txt", b"BZh91AY")]).contains("bzip2"));
        let missing = Documents::open(&[PathBuf::from("/nowhere/x.txt")]).err();
        assert!(format!("{:#}", missing.unwrap()).contains("/nowhere/x.txt"));
    }

    #[test]
    fn no_document_is_longer_than_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        std::fs::write(&path, "一\n\n\n二二\n三三\n\n四\n").unwrap();
        let mut file = OpenFile::open(path).unwrap();
        let mut next = |longest| file.next_block(&mut Vec::new(), longest);
        assert_eq!(next(13).unwrap().unwrap().text, "一");
        let error = next(12).unwrap_err().to_string();
        assert!(
            error.contains("a.txt: the document that begins in line 4 is longer than 12 bytes"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_is_read_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [("articles-00001.jsonl", "二"), ("articles-00000.jsonl", "一")] {
            let row = serde_json::json!({ "text": text }).to_string();
            std::fs::write(directory.path().join(file), row).unwrap();
        }
        std::fs::write(directory.path().join("manifest.json"), "{\"complete\": true}").unwrap();
        let documents = Documents::open(&[directory.path().to_path_buf()]).unwrap();
        let texts: Vec<String> = documents.map(|document| document.unwrap().text).collect();
        assert_eq!(texts, ["一", "二"]);
    }
}
