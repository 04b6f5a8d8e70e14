//! Opening a store, and reading from it: nothing of it is given out that was not checked (`blocks`).

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::blocks::{Blocks, numbers, read};
use super::format::{
    ALIGNMENT, BYTE_ORDER, CHECKSUMS, CHUNK, DOCUMENT_ENDS, FILE_ORDER, FLAG_LOWER, FLAG_PARAGRAPHS,
    FLAG_READY_MADE, HEADER_LENGTH, Header, LARGEST_VOCABULARY, LINE_ENDS, MAGIC, SECTION_NAMES, TOKENIZER,
    TOKENS, VERSION, WORDS, token_width,
};
use super::words::Words;
use crate::tokenizer::SpecialIds;

/// What `prepare --lines` made a line of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lines {
    /// Paragraphs split after 。！？ outside brackets (docs/spec.md §4).
    Sentence,
    /// Paragraphs as they come, as the reference implementation has it.
    Paragraph,
}

/// An open token store. Quick to open whatever its size: only the header, the checksums and the tokenizer are read then.
pub struct Store {
    path: PathBuf,
    blocks: Blocks,
    header: Header,
    tokenizer: Vec<u8>,
    tokenizer_hash: String,
}

/// Where the lines and documents of a part of a store end.
pub struct Boundaries {
    /// The first token of the part.
    pub start: u64,
    /// Where each of its lines ends, in tokens of the store.
    pub line_ends: Vec<u64>,
    /// Where each of its documents ends, in lines of the part.
    pub document_ends: Vec<usize>,
}

impl Store {
    /// Opens a store. What is read later is checked then; `verify` reads all of it.
    ///
    /// Errors, one line each: not there, not a store, another version or byte order, cut short, a damaged
    /// header, damaged checksums, a damaged tokenizer.
    pub fn open(path: &Path) -> Result<Store> {
        let mut store = Store::open_unread(path)?;
        store.tokenizer = store.blocks.read(TOKENIZER, 0..store.header.sections[TOKENIZER].length)?;
        let hash: [u8; 32] = Sha256::digest(&store.tokenizer).into();
        ensure!(
            hash == store.header.tokenizer_sha256,
            "{}: the tokenizer inside is not the one of the header; prepare the store again",
            path.display()
        );
        Ok(store)
    }

    /// Reads the header and the checksums alone, so that `verify` can say more about a damaged store.
    pub(super) fn open_unread(path: &Path) -> Result<Store> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open the store {name}"))?;
        let metadata = file.metadata().with_context(|| format!("cannot read {name}"))?;
        ensure!(metadata.is_file(), "{name} is not a token store: it is not a file");
        ensure!(
            metadata.len() >= HEADER_LENGTH,
            "{name} is not a token store: {} bytes, less than a header",
            metadata.len()
        );
        let header: Header = bytemuck::pod_read_unaligned(&read(path, &file, 0..HEADER_LENGTH)?);
        check_header(&header, metadata.len()).with_context(|| name.to_string())?;
        let blocks = Blocks::open(path, file, &header).with_context(|| name.to_string())?;
        let tokenizer_hash = crate::tokenizer::hex(&header.tokenizer_sha256);
        Ok(Store { path: path.to_path_buf(), blocks, header, tokenizer: Vec::new(), tokenizer_hash })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The ids of the special symbols, as the tokenizer has them.
    pub fn special_ids(&self) -> SpecialIds {
        SpecialIds {
            pad: self.header.pad,
            cls: self.header.cls,
            sep: self.header.sep,
            mask: self.header.mask,
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// SHA-256 of the tokenizer's model file, in hexadecimal.
    pub fn tokenizer_hash(&self) -> &str {
        &self.tokenizer_hash
    }

    /// The bytes of the tokenizer's model file, or what stands for it where ids came ready-made.
    pub fn tokenizer_model(&self) -> &[u8] {
        &self.tokenizer
    }

    /// Whether the text was lower-cased before SentencePiece.
    pub fn lower(&self) -> bool {
        self.header.flags & FLAG_LOWER != 0
    }

    /// Whether its documents came as ids of another tokenizer (`prepare --ids`).
    pub fn is_ready_made(&self) -> bool {
        self.header.flags & FLAG_READY_MADE != 0
    }

    pub fn lines_mode(&self) -> Lines {
        if self.header.flags & FLAG_PARAGRAPHS != 0 { Lines::Paragraph } else { Lines::Sentence }
    }

    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    pub fn lines(&self) -> u64 {
        self.header.lines
    }

    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// How many of the tokens are `<unk>`.
    pub fn unknown(&self) -> u64 {
        self.header.unknown
    }

    /// Where each line ends, in tokens: all of them.
    pub fn line_ends(&self) -> Result<Vec<u64>> {
        Ok(self.ends(LINE_ENDS, 0..self.lines())?.1)
    }

    /// Where each document ends, in lines: all of them.
    pub fn document_ends(&self) -> Result<Vec<u64>> {
        Ok(self.ends(DOCUMENT_ENDS, 0..self.documents())?.1)
    }

    /// The lines of some documents.
    pub fn boundaries(&self, documents: Range<u64>) -> Result<Boundaries> {
        let (first, ends) = self.ends(DOCUMENT_ENDS, documents)?;
        let last = ends.last().copied().unwrap_or(first);
        let (start, line_ends) = self.ends(LINE_ENDS, first..last)?;
        let document_ends = ends.into_iter().map(|end| (end - first) as usize).collect();
        Ok(Boundaries { start, line_ends, document_ends })
    }

    /// Ends of lines or documents, and the one before them (0 before the first).
    ///
    /// Errors: damaged, or not rising strictly from above 0 to what they count, as those of every store do.
    fn ends(&self, section: usize, range: Range<u64>) -> Result<(u64, Vec<u64>)> {
        let (count, total) = match section {
            LINE_ENDS => (self.lines(), self.tokens()),
            _ => (self.documents(), self.lines()),
        };
        let first = range.start.saturating_sub(1);
        let bytes = self.blocks.read(section, first * 8..range.end * 8)?;
        let mut ends: Vec<u64> = numbers(&bytes, u64::from_ne_bytes).collect();
        let before = if range.start == 0 || ends.is_empty() { 0 } else { ends.remove(0) };
        let mut previous = before;
        for (index, &end) in ends.iter().enumerate() {
            let (number, name) = (range.start + index as u64, SECTION_NAMES[section]);
            let rises = previous < end && if number + 1 == count { end == total } else { end < total };
            ensure!(
                rises,
                "{}: wrong {name}: number {number} of {count} ends at {end}, the one before it at {previous}, the last \
                 should at {total}; prepare the store again",
                self.path.display()
            );
            previous = end;
        }
        Ok((before, ends))
    }

    /// The tokens of a range, widened to u32.
    ///
    /// Errors: damaged, changed since the store was opened, an id outside of the vocabulary.
    pub fn read_tokens(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let width = u64::from(self.header.token_width);
        let bytes = self.blocks.read(TOKENS, range.start * width..range.end * width)?;
        let ids: Vec<u32> = match width {
            2 => numbers(&bytes, u16::from_ne_bytes).map(u32::from).collect(),
            _ => numbers(&bytes, u32::from_ne_bytes).collect(),
        };
        if let Some(place) = ids.iter().position(|&id| id >= self.header.vocab_size) {
            return Err(self.outside(range.start + place as u64, ids[place]));
        }
        Ok(ids)
    }

    /// What marked where words begin; `Words::None` where nothing did.
    pub fn words(&self) -> Words {
        Words::of_kind(self.header.words_kind)
    }

    /// Of each token of a range whether a word begins with it.
    ///
    /// Errors: a store whose words are not marked; damaged, or changed since it was opened.
    pub fn read_word_starts(&self, range: Range<u64>) -> Result<Vec<bool>> {
        ensure!(
            self.words() != Words::None,
            "{}: does not mark where words begin; `inazuma prepare --words script` makes one that does",
            self.path.display()
        );
        let first = range.start / 8;
        let bytes = self.blocks.read(WORDS, first..range.end.div_ceil(8))?;
        let bit = |token: u64| bytes[(token / 8 - first) as usize] >> (token % 8) & 1 == 1;
        Ok(range.map(bit).collect())
    }

    /// Names the place of an id that lies outside of the vocabulary.
    fn outside(&self, token: u64, id: u32) -> anyhow::Error {
        let place = self.place(token).map_or(String::new(), |(document, within)| {
            format!(", number {within} of document {document} (all counted from 0)")
        });
        anyhow!(
            "{}: token {token}{place} is {id}, outside of the vocabulary of {} pieces: a store that was written wrong; \
             prepare it again",
            self.path.display(),
            self.header.vocab_size
        )
    }

    /// The document that a token belongs to, and which of its tokens it is.
    fn place(&self, token: u64) -> Result<(u64, u64)> {
        let end = |section, index: u64| Ok::<u64, anyhow::Error>(self.ends(section, index..index + 1)?.1[0]);
        let line = first_above(self.lines(), |line| Ok(end(LINE_ENDS, line)? > token))?;
        let document = first_above(self.documents(), |document| Ok(end(DOCUMENT_ENDS, document)? > line))?;
        let start = self.boundaries(document..document + 1)?.start;
        Ok((document, token - start))
    }

    /// Entropy of the distribution of single tokens, in nats: what a model that knows only how frequent each
    /// piece is would score. Reads all tokens, on all cores; the same bits for any number of threads.
    pub fn unigram_entropy(&self) -> Result<f64> {
        let counts = self.token_counts()?;
        let total = counts.iter().sum::<u64>() as f64;
        let share = |&count: &u64| count as f64 / total;
        Ok(counts.iter().filter(|&&count| count > 0).map(|count| -share(count) * share(count).ln()).sum())
    }

    /// How often each id occurs, up to the highest that does. Reads all tokens, on all cores.
    pub fn token_counts(&self) -> Result<Vec<u64>> {
        let count = |mut counts: Vec<u64>, part: u64| -> Result<Vec<u64>> {
            let tokens = part * TOKENS_AT_ONCE..((part + 1) * TOKENS_AT_ONCE).min(self.tokens());
            let ids = self.read_tokens(tokens)?;
            let highest = ids.iter().max().map_or(0, |&id| id as usize + 1);
            counts.resize(highest.max(counts.len()), 0);
            ids.into_iter().for_each(|id| counts[id as usize] += 1);
            Ok(counts)
        };
        let add = |mut left: Vec<u64>, mut right: Vec<u64>| {
            if left.len() < right.len() {
                std::mem::swap(&mut left, &mut right);
            }
            left.iter_mut().zip(right).for_each(|(l, r)| *l += r);
            Ok(left)
        };
        let parts = (0..self.tokens().div_ceil(TOKENS_AT_ONCE)).into_par_iter();
        parts.try_fold(Vec::new, count).try_reduce(Vec::new, add)
    }
}

/// Tokens that are counted at once.
const TOKENS_AT_ONCE: u64 = 1 << 21;

/// The first number below `count` of which `above` holds; it holds of all that follow it.
fn first_above(count: u64, above: impl Fn(u64) -> Result<bool>) -> Result<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match above(middle)? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(low)
}

fn check_header(header: &Header, file_length: u64) -> Result<()> {
    ensure!(header.magic == MAGIC, "not a token store (`inazuma prepare` makes one)");
    if header.byte_order != BYTE_ORDER {
        bail!("a token store of a machine with another byte order; prepare it again here");
    }
    ensure!(
        header.version == VERSION,
        "a token store of format {}, this program reads format {VERSION}; prepare it again",
        header.version
    );
    ensure!(
        header.own_crc() == header.header_crc,
        "damaged header (its checksum does not match); prepare the store again"
    );
    ensure!(
        header.file_length == file_length,
        "{file_length} bytes long, should be {}: cut short or appended to; prepare it again",
        header.file_length
    );
    check_sections(header)
}

/// Sections in order, aligned, within the file, and as long as the counts say. The checksum of the header
/// makes these hold for any file of ours; they are for files made to harm.
fn check_sections(header: &Header) -> Result<()> {
    ensure!(
        header.vocab_size <= LARGEST_VOCABULARY,
        "damaged header: a vocabulary of {} pieces; there are at most {LARGEST_VOCABULARY}",
        header.vocab_size
    );
    let special = [header.pad, header.cls, header.sep, header.mask];
    ensure!(
        special.iter().all(|&id| id < header.vocab_size),
        "damaged header: special ids {special:?} of a vocabulary of {} pieces",
        header.vocab_size
    );
    ensure!(
        header.token_width == token_width(header.vocab_size as usize),
        "damaged header: tokens of {} bytes for {} pieces",
        header.token_width,
        header.vocab_size
    );
    let body = header.sections[CHECKSUMS].offset.saturating_sub(HEADER_LENGTH);
    let expected = [
        (TOKENS, header.tokens.checked_mul(u64::from(header.token_width))),
        (LINE_ENDS, header.lines.checked_mul(8)),
        (DOCUMENT_ENDS, header.documents.checked_mul(8)),
        (CHECKSUMS, body.div_ceil(CHUNK).checked_mul(4)),
        (WORDS, Some(if header.words_kind == 0 { 0 } else { header.tokens.div_ceil(8) })),
    ];
    let sections = header.all_sections();
    for (index, length) in expected {
        ensure!(
            length == Some(sections[index].length),
            "damaged header: the section of {} has {} bytes, which does not fit the counts",
            SECTION_NAMES[index],
            sections[index].length
        );
    }
    ensure!(
        header.documents <= header.lines && header.lines <= header.tokens,
        "damaged header: {} documents of {} lines of {} tokens",
        header.documents,
        header.lines,
        header.tokens
    );
    ensure!(
        (header.tokens > 0) == (header.documents > 0),
        "damaged header: {} tokens in {} documents",
        header.tokens,
        header.documents
    );
    let mut position = HEADER_LENGTH;
    let present = |index: &usize| *index != WORDS || header.words_kind != 0;
    for index in FILE_ORDER.into_iter().filter(present) {
        let (section, name) = (sections[index], SECTION_NAMES[index]);
        let end = section.offset.checked_add(section.length);
        let Some(end) = end.filter(|&end| {
            section.offset >= position && section.offset % ALIGNMENT == 0 && end <= header.file_length
        }) else {
            bail!("damaged header: the section of {name} is out of place");
        };
        position = end;
    }
    Ok(())
}
