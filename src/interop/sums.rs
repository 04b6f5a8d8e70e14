//! What a file was when it was written: its length, and checksums that say where it no longer is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes under one checksum: few enough that a person can look at the place.
const BLOCK: usize = 1 << 20;

/// Length and checksums of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    pub bytes: u64,
    /// CRC-32 of each MiB in hexadecimal digits, with spaces between them.
    crc32: String,
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum Damage {
    /// It cannot be read.
    Unreadable(io::Error),
    Length {
        found: u64,
        written: u64,
    },
    /// Bytes in this range are not those that were written.
    Changed(Range<u64>),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Damage::Length { found, written } => write!(f, "has {found} bytes of {written}"),
            Damage::Changed(range) => {
                write!(f, "bytes {} to {} are not those that were written", range.start, range.end - 1)
            }
        }
    }
}

impl FileSum {
    /// Reads the file to its end and compares. It is read, not mapped: a sector that the disk no longer gives is an
    /// error then, not the end of the program.
    pub fn verify(&self, path: &Path) -> Result<(), Damage> {
        let mut file = File::open(path).map_err(Damage::Unreadable)?;
        let found = file.metadata().map_err(Damage::Unreadable)?.len();
        if found != self.bytes {
            return Err(Damage::Length { found, written: self.bytes });
        }
        let mut sums = self.crc32.split(' ').filter(|sum| !sum.is_empty());
        let mut buffer = vec![0; BLOCK];
        let mut at = 0;
        while at < self.bytes {
            let length = (self.bytes - at).min(BLOCK as u64);
            let block = &mut buffer[..length as usize];
            file.read_exact(block).map_err(Damage::Unreadable)?;
            let sum = sums.next().and_then(|sum| u32::from_str_radix(sum, 16).ok());
            if sum != Some(crc32fast::hash(block)) {
                return Err(Damage::Changed(at..at + length));
            }
            at += length;
        }
        Ok(())
    }
}

/// Passes on what is written and sums it up.
pub struct Summing<W> {
    inner: W,
    bytes: u64,
    block: crc32fast::Hasher,
    sums: Vec<u32>,
}

impl<W> Summing<W> {
    pub fn new(inner: W) -> Self {
        Summing { inner, bytes: 0, block: crc32fast::Hasher::new(), sums: Vec::new() }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK - (self.bytes % BLOCK as u64) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK as u64) {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.sums.push(std::mem::take(&mut self.block).finalize());
    }

    /// What was written into, and the sums of that.
    pub fn finish(mut self) -> (W, FileSum) {
        if !self.bytes.is_multiple_of(BLOCK as u64) {
            self.close();
        }
        let digits: Vec<String> = self.sums.iter().map(|sum| format!("{sum:08x}")).collect();
        (self.inner, FileSum { bytes: self.bytes, crc32: digits.join(" ") })
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around those of blocks, written in pieces of many lengths.
    #[test]
    fn what_was_written_is_verified_and_a_changed_bit_is_placed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 77] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * i / 7) as u8).collect();
            let mut summing = Summing::new(Vec::new());
            let mut rest = &bytes[..];
            let mut piece = 1;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                summing.write_all(now).unwrap();
                (rest, piece) = (later, piece * 3 + 1);
            }
            let (written, sum) = summing.finish();
            assert!(written == bytes && sum.bytes == length as u64);
            std::fs::write(&path, &bytes).unwrap();
            sum.verify(&path).unwrap();
            if length == 0 {
                continue;
            }
            let last = length - 1;
            let mut changed = bytes.clone();
            changed[last] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let first = (last / BLOCK * BLOCK) as u64;
            match sum.verify(&path) {
                Err(Damage::Changed(range)) => assert_eq!(range, first..length as u64),
                other => panic!("{other:?}"),
            }
            std::fs::write(&path, &bytes[..last]).unwrap();
            let said = sum.verify(&path).unwrap_err().to_string();
            assert_eq!(said, format!("has {last} bytes of {length}"));
        }
    }
}
