//! The bytes of a store, none of which is handed out before it has been checked.
//!
//! The file has one CRC-32 for each [`CHUNK`] of its body. When something of a chunk is wanted for the first time, the
//! chunk is read whole and compared with it; from then on a CRC-32 of each [`PAGE`] of it is kept in memory (a thousandth
//! of the store), and every later read compares the very bytes it is about to hand out with those. So a file that is
//! changed while it is in use is found out whenever that happens, and what was handed out was always what `prepare` wrote.
//!
//! The file is read by position, not mapped: where it is cut short, or the disk fails, a read is an ordinary error, while
//! touching a map is a SIGBUS that ends the process (docs/reliability.md has what either costs).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;

use super::format::{CHECKSUMS, CHUNK, HEADER_LENGTH, Header, SECTION_NAMES, Section};

/// Bytes under one checksum of those kept in memory: a read of an example touches one or two.
const PAGE: u64 = 4096;

/// The body of an open store.
pub(super) struct Blocks {
    path: PathBuf,
    file: File,
    sections: [Section; 6],
    /// As the file has them: one for each chunk.
    checksums: Vec<u32>,
    /// CRC-32 of each page of the chunks that were read.
    pages: Vec<OnceLock<Box<[u32]>>>,
}

impl Blocks {
    /// Reads the checksums of a file whose header was checked.
    pub(super) fn open(path: &Path, file: File, header: &Header) -> Result<Blocks> {
        let Section { offset, length } = header.sections[CHECKSUMS];
        let bytes = read(path, &file, offset..offset + length)?;
        ensure!(
            crc32fast::hash(&bytes) == header.checksums_crc,
            "damaged in the checksums (bytes {offset} to {}); prepare the store again",
            offset + length
        );
        let checksums: Vec<u32> = numbers(&bytes, u32::from_ne_bytes).collect();
        let pages = checksums.iter().map(|_| OnceLock::new()).collect();
        Ok(Blocks { path: path.to_owned(), file, sections: header.all_sections(), checksums, pages })
    }

    /// The bytes of a part of a section, counted from the section's start.
    ///
    /// # Errors
    /// The chunk they lie in is damaged, or was changed or cut off after it was opened; the disk failed.
    pub(super) fn read(&self, section: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let Section { offset, length } = self.sections[section];
        if range.is_empty() {
            return Ok(Vec::new());
        }
        ensure!(
            range.end <= length,
            "{}: nothing at {range:?} of its {}",
            self.path.display(),
            SECTION_NAMES[section]
        );
        let wanted = offset + range.start..offset + range.end;
        let first = floor(wanted.start, PAGE);
        let end = (floor(wanted.end - 1, PAGE) + PAGE).min(self.end());
        let mut bytes = self.bytes(first..end)?;
        for (index, page) in bytes.chunks(PAGE as usize).enumerate() {
            let start = first + index as u64 * PAGE;
            let (chunk, within) = place(start);
            if crc32fast::hash(page) != self.pages(chunk)?[within] {
                return Err(self.changed(start..start + page.len() as u64));
            }
        }
        bytes.truncate((wanted.end - first) as usize);
        bytes.drain(..(wanted.start - first) as usize);
        Ok(bytes)
    }

    /// The chunks whose checksums are wrong, in order.
    pub(super) fn damaged(&self) -> Result<Vec<usize>> {
        let wrong = |chunk| Ok(crc32fast::hash(&self.bytes(self.chunk(chunk))?) != self.checksums[chunk]);
        let wrong: Vec<Result<bool>> = (0..self.checksums.len()).into_par_iter().map(wrong).collect();
        let mut damaged = Vec::new();
        for (chunk, wrong) in wrong.into_iter().enumerate() {
            if wrong? {
                damaged.push(chunk);
            }
        }
        Ok(damaged)
    }

    pub(super) fn chunks(&self) -> usize {
        self.checksums.len()
    }

    /// Where a chunk lies in the file.
    pub(super) fn chunk(&self, chunk: usize) -> Range<u64> {
        let start = HEADER_LENGTH + chunk as u64 * CHUNK;
        start..(start + CHUNK).min(self.end())
    }

    /// The checksums of a chunk's pages; the chunk is checked when they are asked for first.
    fn pages(&self, chunk: usize) -> Result<&[u32]> {
        if let Some(pages) = self.pages[chunk].get() {
            return Ok(pages);
        }
        let bytes = self.bytes(self.chunk(chunk))?;
        if crc32fast::hash(&bytes) != self.checksums[chunk] {
            let Range { start, end } = self.chunk(chunk);
            return Err(anyhow!(
                "{0}: damaged between bytes {start} and {end} ({1}); `inazuma store verify {0}` finds what else is, \
                 `inazuma prepare` makes it again",
                self.path.display(),
                self.sections_in(start..end)
            ));
        }
        let pages = bytes.chunks(PAGE as usize).map(crc32fast::hash).collect();
        Ok(self.pages[chunk].get_or_init(|| pages))
    }

    /// The names of the sections that a range of the file touches.
    pub(super) fn sections_in(&self, range: Range<u64>) -> String {
        let touched =
            |section: &Section| section.offset < range.end && section.offset + section.length > range.start;
        let sections = self.sections.iter().zip(SECTION_NAMES);
        let names: Vec<&str> =
            sections.filter(|(section, _)| touched(section)).map(|(_, name)| name).collect();
        names.join(", ")
    }

    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        read(&self.path, &self.file, range)
    }

    fn changed(&self, range: Range<u64>) -> anyhow::Error {
        anyhow!(
            "{}: changed while it was in use, between bytes {} and {} ({}); leave a store alone while a run reads it, and \
             see what `inazuma store verify` says of it",
            self.path.display(),
            range.start,
            range.end,
            self.sections_in(range.clone())
        )
    }

    /// Where the body ends.
    fn end(&self) -> u64 {
        self.sections[CHECKSUMS].offset
    }
}

/// The start of the page or chunk that holds a byte of the file.
fn floor(byte: u64, size: u64) -> u64 {
    HEADER_LENGTH + (byte - HEADER_LENGTH) / size * size
}

/// The chunk of a page that starts at this byte of the file, and which of the chunk's pages it is.
fn place(page: u64) -> (usize, usize) {
    let page = (page - HEADER_LENGTH) / PAGE;
    let in_chunk = CHUNK / PAGE;
    ((page / in_chunk) as usize, (page % in_chunk) as usize)
}

/// The numbers that bytes hold.
pub(super) fn numbers<T, const N: usize>(bytes: &[u8], number: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |&bytes| number(bytes))
}

/// Reads a range of the file. The caller has seen that the file was as long as that when it was opened.
pub(super) fn read(path: &Path, file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    read_at(file, &mut bytes, range.start).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => anyhow!(
            "{}: cut short while it was in use (it ends before byte {}); prepare the store again",
            path.display(),
            range.end
        ),
        _ => anyhow!(error).context(format!(
            "cannot read {}, bytes {} to {}",
            path.display(),
            range.start,
            range.end
        )),
    })?;
    Ok(bytes)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
