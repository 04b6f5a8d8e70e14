//! The layout of a token store: one file, little-endian, read in place.
//!
//! ```text
//! offset 0      header, HEADER_LENGTH bytes (struct Header below; its CRC-32 is its last field)
//! then, each at a multiple of 64 bytes, zeros between them:
//!   tokens         u16 or u32 (Header::token_width): the pieces of all documents, one after another
//!   line ends      u64 each: where a line ends, counted in tokens from the start of the section
//!   document ends  u64 each: where a document ends, counted in lines
//!   words          a bit a token, the lowest of a byte first: 1 where a word begins (Header::words_kind; else nothing)
//!   tokenizer      the bytes of the SentencePiece model, so that a run can export it (FLAG_READY_MADE: JSON instead)
//!   checksums      u32 each: CRC-32 of the body, cut every CHUNK bytes
//! ```
//!
//! The *body* is everything from HEADER_LENGTH up to the checksums, the zeros between sections included,
//! so that every byte of the file is under a checksum: the header by its own, the body chunk by chunk,
//! the checksums by `Header::checksums_crc`; format 1 has had them from the start. A store without marks of words has
//! the bytes that it had before there were any, and a program from before reads one with marks, passing over them. Lines and documents are never empty: a line of no pieces
//! and a document of no lines are not stored, so both kinds of ends rise strictly.

use bytemuck::{Pod, Zeroable};

pub const MAGIC: [u8; 8] = *b"INAZUMA\x1a";
pub const VERSION: u32 = 1;
/// Written as a u32: a machine of the other byte order reads 0x04030201.
pub const BYTE_ORDER: u32 = 0x0102_0304;
pub const HEADER_LENGTH: u64 = 512;
pub const ALIGNMENT: u64 = 64;
/// Bytes of the body under one checksum.
pub const CHUNK: u64 = 1 << 20;

pub const FLAG_LOWER: u32 = 1;
pub const FLAG_PARAGRAPHS: u32 = 2;
/// The documents came as ids: the section of the tokenizer holds a `tokenizer::ReadyMade` in JSON.
pub const FLAG_READY_MADE: u32 = 4;

/// The largest vocabulary: what is counted by id fits into memory.
pub const LARGEST_VOCABULARY: u32 = 1 << 24;

/// `Header::unk` where the id of `<unk>` is not known.
pub const NO_UNKNOWN: u32 = u32::MAX;

/// `Header::words_kind`: 0 where no words are marked, else what marked them.
pub const WORDS_BY_PIECES: u32 = 1;
pub const WORDS_BY_SCRIPT: u32 = 2;
pub const WORDS_BY_ANALYSER: u32 = 3;

/// Where a section lies: bytes from the start of the file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
pub struct Section {
    pub offset: u64,
    pub length: u64,
}

/// The sections: their places in `Header::sections`, and `WORDS`, which came later (`Header::words`).
pub const TOKENS: usize = 0;
pub const LINE_ENDS: usize = 1;
pub const DOCUMENT_ENDS: usize = 2;
pub const TOKENIZER: usize = 3;
pub const CHECKSUMS: usize = 4;
pub const WORDS: usize = 5;
pub const SECTION_NAMES: [&str; 6] =
    ["tokens", "line ends", "document ends", "tokenizer", "checksums", "words"];
/// As they follow each other in the file.
pub const FILE_ORDER: [usize; 6] = [TOKENS, LINE_ENDS, DOCUMENT_ENDS, WORDS, TOKENIZER, CHECKSUMS];

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Header {
    pub magic: [u8; 8],
    pub version: u32,
    pub byte_order: u32,
    /// Bytes of a token: 2 where the vocabulary has at most 65,536 pieces, else 4.
    pub token_width: u32,
    pub flags: u32,
    pub vocab_size: u32,
    pub unk: u32,
    pub pad: u32,
    pub cls: u32,
    pub sep: u32,
    pub mask: u32,
    pub documents: u64,
    pub lines: u64,
    pub tokens: u64,
    /// How many of the tokens are `<unk>`.
    pub unknown: u64,
    /// SHA-256 of the tokenizer section.
    pub tokenizer_sha256: [u8; 32],
    pub sections: [Section; 5],
    pub file_length: u64,
    pub checksums_crc: u32,
    /// Which share of the documents this store was given, in millionths; 0 where nothing was held out.
    pub held_out_millionths: u32,
    /// 1 where this is the held-out part.
    pub held_out_part: u32,
    /// What marked where words begin; 0 where nothing did.
    pub words_kind: u32,
    /// The section of words, empty where none are marked.
    pub words: Section,
    pub reserved: [u32; 64],
    pub reserved_too: [u32; 5],
    /// CRC-32 of the bytes of the header before it.
    pub header_crc: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LENGTH as usize);

impl Header {
    /// All sections, by the names above.
    pub fn all_sections(&self) -> [Section; 6] {
        let [tokens, line_ends, document_ends, tokenizer, checksums] = self.sections;
        [tokens, line_ends, document_ends, tokenizer, checksums, self.words]
    }

    /// The CRC-32 of the header's own bytes, without the field that holds it.
    pub fn own_crc(&self) -> u32 {
        let bytes = bytemuck::bytes_of(self);
        crc32fast::hash(&bytes[..bytes.len() - size_of::<u32>()])
    }
}

/// The next multiple of `ALIGNMENT` at or after `offset`.
pub fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}

/// Bytes of a token for a vocabulary of this size.
pub fn token_width(vocab_size: usize) -> u32 {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}
