//! Documents of one batch, encoded, and how they travel to the rank that writes.

use anyhow::{Context, Result, ensure};
use bytemuck::{Pod, Zeroable};
use sha2::{Digest, Sha256};

use super::source::Batch;
use super::{Options, falls_below};
use crate::corpus::input::Document;
use crate::store::format::token_width;
use crate::store::reader::Lines;
use crate::store::sentences;
use crate::store::words::Marker;
use crate::tokenizer::Tokenizer;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    pub tokens: Vec<u32>,
    /// Of each token whether it begins a word; empty where that is not marked.
    pub starts: Vec<bool>,
    pub line_lengths: Vec<u32>,
    pub documents: Vec<EncodedDocument>,
    pub read: Read,
}

/// How far the input is read behind the round that a batch is of, as [`Batch`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Read {
    bytes: u64,
    checksum: u32,
    is_last: u32,
}

impl Read {
    pub fn new(bytes: u64, checksum: u32, is_last: bool) -> Self {
        Read { bytes, checksum, is_last: is_last.into() }
    }

    pub fn bytes(self) -> u64 {
        self.bytes
    }

    pub fn is_last(self) -> bool {
        self.is_last != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EncodedDocument {
    tokens: u64,
    lines: u32,
    held_out: u32,
}

impl EncodedDocument {
    pub fn tokens(self) -> usize {
        self.tokens as usize
    }

    pub fn lines(self) -> usize {
        self.lines as usize
    }

    pub fn is_held_out(self) -> bool {
        self.held_out != 0
    }
}

impl Encoded {
    pub fn of(batch: &Batch, tokenizer: &Tokenizer, marker: &Marker, options: &Options) -> Result<Self> {
        let read = Read::new(batch.bytes_read, batch.checksum, batch.is_last);
        let mut encoded = Encoded { read, ..Encoded::default() };
        for document in &batch.documents {
            encoded.document(document, tokenizer, marker, options)?;
        }
        Ok(encoded)
    }

    fn document(
        &mut self,
        document: &Document,
        tokenizer: &Tokenizer,
        marker: &Marker,
        options: &Options,
    ) -> Result<()> {
        let (tokens, lines) = (self.tokens.len(), self.line_lengths.len());
        let mut done = Ok(());
        let mut take = |line: &str| {
            if done.is_ok() {
                done = self.line(line, tokenizer, marker);
            }
        };
        for paragraph in document.paragraphs() {
            match options.lines {
                Lines::Paragraph => take(paragraph),
                Lines::Sentence => sentences::split(paragraph, &mut take),
            }
        }
        done?;
        self.documents.push(EncodedDocument {
            tokens: (self.tokens.len() - tokens) as u64,
            lines: u32::try_from(self.line_lengths.len() - lines).context("a document of too many lines")?,
            held_out: (options.held_out > 0.0 && is_held_out(document, options.held_out)).into(),
        });
        Ok(())
    }

    fn line(&mut self, text: &str, tokenizer: &Tokenizer, marker: &Marker) -> Result<()> {
        let before = self.tokens.len();
        marker.encode(text, tokenizer, &mut self.tokens, &mut self.starts)?;
        let length = self.tokens.len() - before;
        if length > 0 {
            self.line_lengths.push(length as u32);
        }
        Ok(())
    }
}

/// Whether a document is held out: by the hash of its text, so that it does not depend on the order of the
/// input, on the tokenizer, or on what else there is; the same text twice is never on both sides.
fn is_held_out(document: &Document, share: f64) -> bool {
    let mut hasher = Sha256::new();
    for paragraph in document.paragraphs() {
        hasher.update(paragraph.as_bytes());
        hasher.update(b"\n");
    }
    falls_below(hasher, share)
}

/// What a message begins with.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Counts {
    documents: u64,
    lines: u64,
    tokens: u64,
    /// Of marks: as many as tokens, or none.
    starts: u64,
    read: Read,
}

impl Encoded {
    /// As a message of one byte order: an id takes as many bytes as in the store, a mark a bit.
    pub fn pack(&self, vocab_size: usize) -> Vec<u8> {
        let counts = Counts {
            documents: self.documents.len() as u64,
            lines: self.line_lengths.len() as u64,
            tokens: self.tokens.len() as u64,
            starts: self.starts.len() as u64,
            read: self.read,
        };
        let mut bytes = bytemuck::bytes_of(&counts).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&self.documents));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.line_lengths));
        match token_width(vocab_size) {
            2 => bytes.extend(self.tokens.iter().flat_map(|&id| (id as u16).to_ne_bytes())),
            _ => bytes.extend_from_slice(bytemuck::cast_slice(&self.tokens)),
        }
        let byte = |bits: &[bool]| bits.iter().rev().fold(0u8, |byte, &bit| byte << 1 | u8::from(bit));
        bytes.extend(self.starts.chunks(8).map(byte));
        bytes
    }

    /// What of a message all ranks look at.
    pub fn read_of(message: &[u8]) -> Result<Read> {
        let counts: Counts = take_one(&mut &message[..])?;
        Ok(counts.read)
    }

    pub fn unpack(mut message: &[u8], vocab_size: usize) -> Result<Self> {
        let rest = &mut message;
        let counts: Counts = take_one(rest)?;
        let documents: Vec<EncodedDocument> = take(rest, counts.documents)?;
        let line_lengths: Vec<u32> = take(rest, counts.lines)?;
        let tokens = match token_width(vocab_size) {
            2 => take::<u16>(rest, counts.tokens)?.into_iter().map(u32::from).collect(),
            _ => take::<u32>(rest, counts.tokens)?,
        };
        let bytes: Vec<u8> = take(rest, counts.starts.div_ceil(8))?;
        let mut starts: Vec<bool> =
            bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 != 0)).collect();
        starts.truncate(usize::try_from(counts.starts)?);
        let of_documents = documents.iter().fold((0, 0), |(tokens, lines), document| {
            (document.tokens.saturating_add(tokens), u64::from(document.lines) + lines)
        });
        ensure!(rest.is_empty() && of_documents == (counts.tokens, counts.lines), DAMAGED);
        Ok(Encoded { tokens, starts, line_lengths, documents, read: counts.read })
    }
}

const DAMAGED: &str = "what another rank has encoded came damaged; please report this";

fn take_one<T: Pod>(rest: &mut &[u8]) -> Result<T> {
    take(rest, 1)?.pop().context(DAMAGED)
}

/// The next numbers of a message.
fn take<T: Pod>(rest: &mut &[u8], count: u64) -> Result<Vec<T>> {
    let bytes = usize::try_from(count)?.checked_mul(size_of::<T>()).context(DAMAGED)?;
    let (taken, behind) = rest.split_at_checked(bytes).context(DAMAGED)?;
    *rest = behind;
    Ok(bytemuck::pod_collect_to_vec(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_arrives() {
        let document = |tokens, lines, held_out| EncodedDocument { tokens, lines, held_out };
        let mut encoded = Encoded {
            tokens: (0..19).map(|n| 3000 * n).collect(),
            starts: (0..19).map(|n| n % 3 == 0).collect(),
            line_lengths: vec![9, 1, 9],
            documents: vec![document(10, 2, 0), document(0, 0, 1), document(9, 1, 1)],
            read: Read::new(77, u32::MAX, false),
        };
        for (vocab_size, width) in [(60_000, 2), (100_000, 4)] {
            let message = encoded.pack(vocab_size);
            assert_eq!(message.len(), 48 + 3 * 16 + 3 * 4 + 19 * width + 3);
            assert_eq!(Encoded::unpack(&message, vocab_size).unwrap(), encoded);
            assert_eq!(Encoded::read_of(&message).unwrap(), encoded.read);
            for length in 0..message.len() {
                assert!(Encoded::unpack(&message[..length], vocab_size).is_err(), "{length}");
            }
        }
        encoded.starts.clear();
        assert_eq!(Encoded::unpack(&encoded.pack(60_000), 60_000).unwrap(), encoded);
        encoded.documents[0].tokens = 11;
        assert!(Encoded::unpack(&encoded.pack(60_000), 60_000).is_err());
        let none = Encoded::default();
        assert_eq!(Encoded::unpack(&none.pack(60_000), 60_000).unwrap(), none);
    }
}
