//! Data files: reading them as they come, and telling what was wrong with them.
//!
//! What makes a whole file useless is an error; what is wrong with one example is a `Problem`: the example is
//! skipped or mended, and the problem is reported with its id, so that nothing is dropped silently.

use std::fmt;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What the examples are for: mending and skipping is allowed in training, never in what is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Train,
    Evaluate,
}

/// Something wrong with one example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The example's id, or its place where it has none.
    pub id: String,
    /// The kind of problem, the same words for all examples that have it.
    pub what: String,
}

/// The problems of a file, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// How many ids a line of the report names.
    const NAMED: usize = 5;

    pub fn add(&mut self, id: impl fmt::Display, what: impl Into<String>) {
        self.0.push(Problem { id: id.to_string(), what: what.into() });
    }

    pub fn extend(&mut self, other: Problems) {
        self.0.extend(other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many examples have a problem of a kind that contains these words.
    pub fn count(&self, words: &str) -> usize {
        self.0.iter().filter(|problem| problem.what.contains(words)).count()
    }

    /// One line for each kind of problem: the file, how often it occurs, and the first few ids.
    pub fn report(&self, path: &Path) -> Vec<String> {
        let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
        for problem in &self.0 {
            match kinds.iter_mut().find(|(what, _)| *what == problem.what) {
                Some((_, ids)) => ids.push(&problem.id),
                None => kinds.push((&problem.what, vec![&problem.id])),
            }
        }
        let line = |(what, ids): (&str, Vec<&str>)| {
            let named = ids.iter().take(Self::NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = if ids.len() > Self::NAMED { ", …" } else { "" };
            format!("{}: {} × {what}: {named}{more}", path.display(), ids.len())
        };
        kinds.into_iter().map(line).collect()
    }
}

const XZ: &[u8] = b"\xfd7zXZ\0";
const GZIP: &[u8] = b"\x1f\x8b";

/// The most text that a file may hold, unpacked: it is read whole. JaQuAD has 60 MB, and a few kilobytes of gzip or xz
/// could unpack to terabytes.
const MOST_TEXT: u64 = 1 << 30;

/// The text of a file: plain, gzip or xz, told by its first bytes. A byte order mark is dropped.
///
/// Errors: unreadable or damaged files, other compressions, UTF-16, invalid UTF-8 with the place of its
/// first byte (in the decompressed text), and more than a gigabyte of text.
pub fn read_text(path: &Path) -> Result<String> {
    read_text_within(path, MOST_TEXT)
}

fn read_text_within(path: &Path, most: u64) -> Result<String> {
    let name = path.display();
    let whole = |bytes: &[u8]| {
        ensure!(
            bytes.len() as u64 <= most,
            "{name} holds more than {most} bytes of text, which are read whole; split it into several files"
        );
        Ok(())
    };
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mut raw = Vec::new();
    file.take(most + 1).read_to_end(&mut raw).with_context(|| format!("cannot read {name}"))?;
    whole(&raw)?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut bytes = Vec::new();
    if raw.starts_with(GZIP) {
        flate2::read::MultiGzDecoder::new(raw.as_slice())
            .take(most + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{name}: damaged or truncated gzip data; fetch the file again"))?;
    } else if raw.starts_with(XZ) {
        liblzma::read::XzDecoder::new_multi_decoder(raw.as_slice())
            .take(most + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{name}: damaged or truncated xz data; fetch the file again"))?;
    } else {
        let compressed =
            [(b"BZh".as_slice(), "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")];
        if let Some((_, kind)) = compressed.iter().find(|(magic, _)| raw.starts_with(magic)) {
            bail!("{name} is compressed with {kind}; decompress it first (gzip and xz are read as they are)");
        }
        let promised = matches!(extension, "gz" | "xz");
        ensure!(
            !promised,
            "{name} is not {extension} data in spite of its name; rename it or fetch it again"
        );
        bytes = raw;
    }
    whole(&bytes)?;
    let utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    ensure!(!utf16, "{name} is UTF-16; convert it to UTF-8 first");
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: invalid UTF-8 at byte {place} of the text; convert the file to UTF-8")
    })
}

/// The name of a file without `.gz` or `.xz`: what its format is told by.
pub(crate) fn inner_extension(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".xz")).unwrap_or(&name);
    name.rsplit_once('.').map(|(_, extension)| extension.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_gzip_and_xz_are_read_and_the_mark_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let text = "\u{feff}東京";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text.as_bytes()).unwrap();
        let (gzip, xz) = (gzip.finish().unwrap(), xz.finish().unwrap());
        for (name, bytes) in
            [("a", text.as_bytes()), ("a.gz", &gzip), ("b.json", &gzip), ("a.xz", &xz), ("c", &xz)]
        {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_text(&path).unwrap(), "東京", "{name}");
        }
    }

    #[test]
    fn no_file_is_unpacked_beyond_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let text = vec![b'a'; 100_000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).unwrap();
        for (name, bytes) in [("a.gz", gzip.finish().unwrap()), ("a.xz", xz.finish().unwrap()), ("a", text)] {
            let path = directory.path().join(name);
            assert!(name == "a" || bytes.len() < 1000);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_text_within(&path, 100_000).unwrap().len(), 100_000);
            let error = format!("{:#}", read_text_within(&path, 99_999).unwrap_err());
            assert!(error.contains(&format!("{name} holds more than 99999 bytes")), "{error}");
        }
    }

    #[test]
    fn unreadable_files_are_named_with_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let cases: [(&str, &[u8], &str); 6] = [
            ("a", b"ab\xff", "invalid UTF-8 at byte 2"),
            ("a.gz", b"plain", "is not gz data"),
            ("b.gz", b"\x1f\x8b\x08\x00", "damaged or truncated gzip"),
            ("c", b"\xfd7zXZ\0\0", "damaged or truncated xz"),
            ("d", b"BZh9", "bzip2"),
            ("e", b"\xff\xfea\0", "UTF-16"),
        ];
        for (name, bytes, words) in cases {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read_text(&path).unwrap_err());
            assert!(error.contains(words) && error.contains(name), "{error}");
        }
        assert!(format!("{:#}", read_text(Path::new("/nowhere/x")).unwrap_err()).contains("/nowhere/x"));
    }

    #[test]
    fn problems_are_counted_by_kind() {
        let mut problems = Problems::default();
        for id in 0..7 {
            problems.add(id, "answer moved");
        }
        problems.add("x", "empty");
        let report = problems.report(Path::new("f.json"));
        assert_eq!(report, ["f.json: 7 × answer moved: 0, 1, 2, 3, 4, …", "f.json: 1 × empty: x"]);
        assert_eq!(problems.count("moved"), 7);
    }

    #[test]
    fn the_format_is_told_by_the_inner_extension() {
        for (name, extension) in [("a.tsv.xz", "tsv"), ("x/b.JSONL", "jsonl"), ("c", ""), ("d.gz", "")] {
            assert_eq!(inner_extension(Path::new(name)), extension, "{name}");
        }
    }
}
