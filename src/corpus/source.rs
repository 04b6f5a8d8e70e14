//! Reading a dump and cutting it into work: whole bzip2 streams where there are several, pieces of XML otherwise.
//!
//! How a file is cut depends on its bytes alone, never on the number of threads; so does the output.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::files::say_if_typed;

use super::bzip::{Fed, StreamDecoder, find_stream_start};
use super::{Place, Problem};

/// Compressed bytes read at a time.
const READ_STEP: usize = 1 << 20;
/// Neighbouring small streams travel together until they have this many compressed bytes.
const SEGMENT_MIN: usize = 256 << 10;
/// A stream longer than this is decoded here, piece by piece, while other threads clean what came before.
const SEGMENT_MAX: usize = 4 << 20;
/// Decoded XML is handed on in pieces of about this size.
pub(super) const XML_PIECE: usize = 4 << 20;

/// A piece of a dump, in file order.
pub(super) enum Work {
    /// Whole bzip2 streams; the first starts at byte `offset` of the file.
    Segment { offset: u64, bytes: Vec<u8> },
    /// Decoded XML, cut anywhere.
    Xml { place: Place, bytes: Vec<u8> },
    /// Something unreadable; what follows does not continue what came before.
    Problem(Problem),
}

/// Gives the next piece on; false when nobody wants any more.
pub(super) type Sink<'a> = dyn FnMut(Work) -> bool + 'a;

/// Opens a dump for reading; `-` is standard input.
///
/// # Errors
/// A missing or unreadable file, a directory, or a compression we do not read, each with what to do.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        say_if_typed("a dump");
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.is_dir() {
        bail!("{} is a directory; give the dump file itself", path.display());
    }
    Ok(Box::new(file))
}

/// Reads `input` to its end and gives its pieces to `sink` in order.
///
/// # Errors
/// A read error of the operating system, or a format that is neither bzip2 nor XML. Damaged bzip2 is not an error
/// here: it becomes a [`Work::Problem`] and reading goes on behind it.
pub(super) fn split(input: &mut dyn Read, sink: &mut Sink) -> Result<()> {
    let mut buffer = Buffer::new(input);
    buffer.fill()?;
    let head = buffer.rest();
    if head.starts_with(b"BZh") {
        return split_bzip2(&mut buffer, sink);
    }
    let foreign: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip (gzip -dc FILE)"),
        (b"\xfd7zXZ", "xz (xz -dc FILE)"),
        (b"7z\xbc\xaf", "7-Zip (7z x -so FILE)"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd (zstd -dc FILE)"),
    ];
    for (magic, name) in foreign {
        if head.starts_with(magic) {
            bail!("byte 0: compressed with {name}; decompress it into `inazuma extract -` or give the .bz2");
        }
    }
    loop {
        let place = Place::plain(buffer.offset());
        while buffer.rest().len() < XML_PIECE && buffer.fill()? {}
        let bytes = buffer.take(buffer.rest().len());
        if bytes.is_empty() || !sink(Work::Xml { place, bytes }) {
            return Ok(());
        }
    }
}

fn split_bzip2(buffer: &mut Buffer, sink: &mut Sink) -> Result<()> {
    let mut searched = 1;
    loop {
        let rest = buffer.rest();
        if let Some(found) = find_stream_start(&rest[searched.min(rest.len())..]) {
            let end = searched + found;
            searched = end + 1;
            if end >= SEGMENT_MIN {
                let offset = buffer.offset();
                let bytes = buffer.take(end);
                if !sink(Work::Segment { offset, bytes }) {
                    return Ok(());
                }
                searched = 1;
            }
            continue;
        }
        // The pattern may lie across the end of what has been read.
        searched = searched.max(rest.len().saturating_sub(9));
        if rest.len() > SEGMENT_MAX {
            if !split_long_stream(buffer, sink)? {
                return Ok(());
            }
            searched = 0;
            while buffer.rest().len() < 10 && buffer.fill()? {}
            if buffer.rest().starts_with(b"BZh") {
                searched = 1;
            }
            if buffer.rest().iter().any(|&b| b != 0) && searched == 0 {
                let problem = Problem::garbage(buffer.offset());
                if !sink(Work::Problem(problem)) {
                    return Ok(());
                }
            }
            if searched == 0 {
                resync(buffer)?;
                searched = 1;
            }
        } else if !buffer.fill()? {
            let offset = buffer.offset();
            let bytes = buffer.take(buffer.rest().len());
            if !bytes.is_empty() {
                sink(Work::Segment { offset, bytes });
            }
            return Ok(());
        }
    }
}

/// Skips at least one byte, and on to the next stream start or the end of the input.
fn resync(buffer: &mut Buffer) -> Result<()> {
    buffer.skip(buffer.rest().len().min(1));
    loop {
        if let Some(found) = find_stream_start(buffer.rest()) {
            buffer.skip(found);
            return Ok(());
        }
        buffer.skip(buffer.rest().len().saturating_sub(9));
        if !buffer.fill()? {
            buffer.skip(buffer.rest().len());
            return Ok(());
        }
    }
}

/// Decodes the stream at the buffer's start, however long it is. False when the sink wants no more.
fn split_long_stream(buffer: &mut Buffer, sink: &mut Sink) -> Result<bool> {
    let offset = buffer.offset();
    let mut decoder = StreamDecoder::new();
    let mut out = Vec::new();
    let mut into = 0;
    loop {
        let fed = {
            let limit = out.len() + XML_PIECE;
            decoder.feed(buffer.rest(), &mut out, limit)
        };
        let (state, used) = match fed {
            Ok(result) => result,
            Err(_) => {
                let place = Place::stream(offset, into);
                let going = sink(Work::Xml { place, bytes: out });
                let problem = Problem::damaged(offset, offset + decoder.consumed());
                resync(buffer)?;
                return Ok(going && sink(Work::Problem(problem)));
            }
        };
        buffer.skip(used);
        let complete = state == Fed::End;
        let at_end = !complete && state == Fed::NeedsInput && !buffer.fill()?;
        // Only what the block checksums cover is handed on.
        let sound = out.len() - decoder.unverified().min(out.len());
        if sound >= XML_PIECE || complete || at_end {
            let rest = out.split_off(sound);
            let bytes = std::mem::replace(&mut out, rest);
            let place = Place::stream(offset, into);
            into += bytes.len() as u64;
            if !sink(Work::Xml { place, bytes }) {
                return Ok(false);
            }
        }
        if at_end {
            let end = offset + decoder.consumed();
            return Ok(sink(Work::Problem(Problem::cut_short(offset, end))));
        }
        if complete {
            return Ok(true);
        }
    }
}

/// A read buffer that knows its place in the file and moves its bytes only when it refills.
struct Buffer<'a> {
    input: &'a mut dyn Read,
    bytes: Vec<u8>,
    start: usize,
    offset: u64,
    ended: bool,
}

impl<'a> Buffer<'a> {
    fn new(input: &'a mut dyn Read) -> Self {
        Self { input, bytes: Vec::new(), start: 0, offset: 0, ended: false }
    }

    /// The byte of the file at which [`Self::rest`] starts.
    fn offset(&self) -> u64 {
        self.offset
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.rest()[..count].to_vec();
        self.skip(count);
        taken
    }

    /// Reads on; false at the end of the input.
    fn fill(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        let end = self.offset + self.bytes.len() as u64;
        let mut step = (&mut *self.input).take(READ_STEP as u64);
        let read =
            step.read_to_end(&mut self.bytes).with_context(|| format!("cannot read on at byte {end}"))?;
        self.ended = read == 0;
        Ok(read > 0)
    }
}
