//! Opening a store, and looking into it without copying.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use rayon::prelude::*;

use super::format::{
    ALIGNMENT, BYTE_ORDER, CHECKSUMS, CHUNK, DOCUMENT_ENDS, FLAG_LOWER, FLAG_PARAGRAPHS, FLAG_READY_MADE,
    HEADER_LENGTH, Header, LINE_ENDS, MAGIC, SECTION_NAMES, TOKENIZER, TOKENS, VERSION, token_width,
};
use crate::tokenizer::SpecialIds;

/// What `prepare --lines` made a line of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lines {
    /// Paragraphs split after 。！？ outside brackets (docs/spec.md §4).
    Sentence,
    /// Paragraphs as they come, as the reference implementation has it.
    Paragraph,
}

/// An open token store. Cheap to open: the tokens are mapped, not read; only the boundaries are looked at.
pub struct Store {
    path: PathBuf,
    map: Mmap,
    header: Header,
    tokenizer_hash: String,
}

impl Store {
    /// Opens a store and checks its header and its boundaries (not the tokens: that is `verify`).
    ///
    /// Errors, one line each: not there, not a store, another version or byte order, cut short, a damaged
    /// header, boundaries out of order.
    pub fn open(path: &Path) -> Result<Store> {
        let store = Store::map(path)?;
        let name = path.display();
        let header = &store.header;
        check_boundaries(store.line_ends(), header.tokens)
            .with_context(|| format!("{name}: damaged line ends; prepare the store again"))?;
        check_boundaries(store.document_ends(), header.lines)
            .with_context(|| format!("{name}: damaged document ends; prepare the store again"))?;
        Ok(store)
    }

    /// Maps the file and checks the header alone, so that `verify` can say more about a damaged one.
    pub(super) fn map(path: &Path) -> Result<Store> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open the store {name}"))?;
        let metadata = file.metadata().with_context(|| format!("cannot read {name}"))?;
        ensure!(metadata.is_file(), "{name} is not a token store: it is not a file");
        ensure!(
            metadata.len() >= HEADER_LENGTH,
            "{name} is not a token store: {} bytes, less than a header",
            metadata.len()
        );
        // SAFETY: a mapping of a file that someone else truncates or rewrites while it is open is undefined;
        // stores are written to another name and renamed, never changed in place.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {name}"))?;
        let header: Header = bytemuck::pod_read_unaligned(&map[..HEADER_LENGTH as usize]);
        check_header(&header, metadata.len()).with_context(|| name.to_string())?;
        let tokenizer_hash = crate::tokenizer::hex(&header.tokenizer_sha256);
        Ok(Store { path: path.to_path_buf(), map, header, tokenizer_hash })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file, mapped.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn section(&self, index: usize) -> &[u8] {
        let section = self.header.sections[index];
        // The bounds were checked when the store was opened.
        &self.map[section.offset as usize..(section.offset + section.length) as usize]
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
        self.section(TOKENIZER)
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

    /// Where each line ends, in tokens.
    pub fn line_ends(&self) -> &[u64] {
        cast(self.section(LINE_ENDS))
    }

    /// Where each document ends, in lines.
    pub fn document_ends(&self) -> &[u64] {
        cast(self.section(DOCUMENT_ENDS))
    }

    /// The lines of a document, as indices into `line_ends`.
    pub fn document_lines(&self, document: usize) -> Range<usize> {
        let ends = self.document_ends();
        let start = if document == 0 { 0 } else { ends[document - 1] };
        start as usize..ends[document] as usize
    }

    /// Appends the tokens of a range to `out`, widened to u32.
    pub fn read_tokens(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let (start, end) = (range.start as usize, range.end as usize);
        let bytes = self.section(TOKENS);
        match self.header.token_width {
            2 => out.extend(cast::<u16>(bytes)[start..end].iter().map(|&id| u32::from(id))),
            _ => out.extend_from_slice(&cast::<u32>(bytes)[start..end]),
        }
    }

    /// Entropy of the distribution of single tokens, in nats: what a model that knows only how frequent each
    /// piece is would score. Reads all tokens, on all cores; the same bits for any number of threads.
    pub fn unigram_entropy(&self) -> f64 {
        let counts = self.token_counts();
        let total = counts.iter().sum::<u64>() as f64;
        let share = |&count: &u64| count as f64 / total;
        counts.iter().filter(|&&count| count > 0).map(|count| -share(count) * share(count).ln()).sum()
    }

    /// How often each id occurs; ids outside the vocabulary (a damaged file) are not counted.
    pub fn token_counts(&self) -> Vec<u64> {
        let bytes = self.section(TOKENS);
        match self.header.token_width {
            2 => count_ids(cast::<u16>(bytes), self.vocab_size()),
            _ => count_ids(cast::<u32>(bytes), self.vocab_size()),
        }
    }
}

/// The section as numbers. The map starts at a page and sections are aligned and a whole number of elements
/// long (checked when the store was opened), so this cannot fail.
fn cast<T: bytemuck::Pod>(bytes: &[u8]) -> &[T] {
    bytemuck::cast_slice(bytes)
}

fn count_ids<T: Copy + Into<u32> + Sync>(ids: &[T], vocab_size: usize) -> Vec<u64> {
    ids.par_chunks(1 << 22)
        .map(|chunk| {
            let mut counts = vec![0u64; vocab_size];
            for &id in chunk {
                if let Some(count) = counts.get_mut(id.into() as usize) {
                    *count += 1;
                }
            }
            counts
        })
        .reduce(
            || vec![0; vocab_size],
            |mut left, right| {
                left.iter_mut().zip(right).for_each(|(l, r)| *l += r);
                left
            },
        )
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
    ];
    for (index, length) in expected {
        ensure!(
            length == Some(header.sections[index].length),
            "damaged header: the section of {} has {} bytes, which does not fit the counts",
            SECTION_NAMES[index],
            header.sections[index].length
        );
    }
    let mut position = HEADER_LENGTH;
    for (section, name) in header.sections.iter().zip(SECTION_NAMES) {
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

/// Ends rise strictly from above 0 to `total`.
fn check_boundaries(ends: &[u64], total: u64) -> Result<()> {
    ensure!(
        ends.last().copied().unwrap_or(0) == total,
        "the last end is {}, should be {total}",
        ends.last().copied().unwrap_or(0)
    );
    ensure!(ends.first() != Some(&0), "number 0 is empty");
    let bad = ends.par_windows(2).position_first(|pair| pair[0] >= pair[1]);
    if let Some(index) = bad {
        bail!("number {} ends at {}, the one before it at {}", index + 1, ends[index + 1], ends[index]);
    }
    Ok(())
}
