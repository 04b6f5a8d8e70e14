//! Writing a store: streamed to `STORE.partial`, renamed to STORE when it is whole and on the disk.
//!
//! Killed at any moment, it leaves a whole STORE (the old one or the new) or none, and a `.partial` that the next run
//! writes over. The partial file is locked, so that two runs cannot write one store.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytemuck::Zeroable;
use sha2::{Digest, Sha256};

use super::format::{
    ALIGNMENT, BYTE_ORDER, CHECKSUMS, CHUNK, DOCUMENT_ENDS, FLAG_LOWER, FLAG_PARAGRAPHS, FLAG_READY_MADE,
    HEADER_LENGTH, Header, LINE_ENDS, MAGIC, NO_UNKNOWN, Section, TOKENIZER, TOKENS, VERSION, align,
    token_width,
};
use super::reader::Lines;
use super::words::Words;
use crate::files::{lock, with_suffix};
use crate::tokenizer::{Tokenizer, Vocabulary};

const BUFFER: usize = 1 << 20;

/// A store in the making.
pub struct StoreWriter {
    path: PathBuf,
    partial: PathBuf,
    body: Body,
    header: Header,
    model: Vec<u8>,
    line_ends: Spool,
    document_ends: Spool,
    /// Where words begin, if that is marked.
    words: Option<Bits>,
    /// An earlier run was interrupted and left its partial file.
    pub found_partial: bool,
    renamed: bool,
}

/// Given up, by an error or by choice: nothing is left behind.
impl Drop for StoreWriter {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

impl StoreWriter {
    /// Starts a store of what `tokenizer` makes. Refuses a tokenizer without the four special symbols.
    pub fn create(path: &Path, tokenizer: &Tokenizer, lines: Lines) -> Result<StoreWriter> {
        Self::create_for(path, &Vocabulary::Model(tokenizer), lines)
    }

    /// Starts a store of ids of this vocabulary.
    pub fn create_for(path: &Path, vocabulary: &Vocabulary<'_>, lines: Lines) -> Result<StoreWriter> {
        let special = vocabulary.special()?;
        let model = vocabulary.bytes();
        if path.is_dir() {
            bail!("{} is a directory; --out wants the name of a file", path.display());
        }
        if path.exists() && !path.is_file() {
            bail!("{} is a device or a pipe; --out wants the name of a file", path.display());
        }
        let partial = with_suffix(path, ".partial");
        let found_partial = partial.exists();
        let file = lock(&partial, "prepare")?;
        let directory = directory_of(path);
        let mut header = Header::zeroed();
        header.magic = MAGIC;
        header.version = VERSION;
        header.byte_order = BYTE_ORDER;
        header.vocab_size = u32::try_from(vocabulary.size()).context("the vocabulary is too large")?;
        header.token_width = token_width(vocabulary.size());
        header.flags = if vocabulary.lower() { FLAG_LOWER } else { 0 };
        header.flags |= if matches!(vocabulary, Vocabulary::ReadyMade(_)) { FLAG_READY_MADE } else { 0 };
        header.flags |= if lines == Lines::Paragraph { FLAG_PARAGRAPHS } else { 0 };
        header.unk = vocabulary.unknown().unwrap_or(NO_UNKNOWN);
        (header.pad, header.cls) = (special.pad, special.cls);
        (header.sep, header.mask) = (special.sep, special.mask);
        header.tokenizer_sha256 = Sha256::digest(&model).into();
        Ok(StoreWriter {
            path: path.to_path_buf(),
            partial,
            body: Body::start(file)?,
            header,
            model,
            line_ends: Spool::new(directory)?,
            document_ends: Spool::new(directory)?,
            words: None,
            found_partial,
            renamed: false,
        })
    }

    /// Notes which part of the input this store was given: the share held out, and whether it is that part.
    pub fn set_held_out(&mut self, share: f64, part: bool) {
        self.header.held_out_millionths = (share * 1e6).round() as u32;
        self.header.held_out_part = u32::from(part);
    }

    /// The store marks where words begin, as these tell: to be said before the first document.
    pub fn mark_words(&mut self, words: Words) -> Result<()> {
        self.header.words_kind = words.kind();
        self.words = match words {
            Words::None => None,
            _ => Some(Bits { spool: Spool::new(directory_of(&self.path))?, last: 0, count: 0 }),
        };
        Ok(())
    }

    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Appends a document of a store that marks no words.
    pub fn push_document(&mut self, tokens: &[u32], line_lengths: &[u32]) -> Result<()> {
        self.push_marked(tokens, line_lengths, &[])
    }

    /// Appends a document: its tokens, the length of each line, and of each token whether it begins a word (nothing where
    /// the store does not mark that). Empty lines and documents are left out.
    pub fn push_marked(&mut self, tokens: &[u32], line_lengths: &[u32], starts: &[bool]) -> Result<()> {
        debug_assert_eq!(tokens.len() as u64, line_lengths.iter().map(|&n| u64::from(n)).sum::<u64>());
        if tokens.is_empty() {
            return Ok(());
        }
        if let Some(words) = &mut self.words {
            ensure!(starts.len() == tokens.len(), "a document whose words are not marked");
            words.push(starts)?;
        }
        let header = &mut self.header;
        let mut end = header.tokens;
        for &length in line_lengths.iter().filter(|&&length| length > 0) {
            end += u64::from(length);
            self.line_ends.write(&end.to_ne_bytes())?;
            header.lines += 1;
        }
        self.document_ends.write(&header.lines.to_ne_bytes())?;
        header.documents += 1;
        header.tokens = end;
        header.unknown += tokens.iter().filter(|&&id| id == header.unk).count() as u64;
        let written = match header.token_width {
            2 => {
                let narrow: Vec<u16> = tokens.iter().map(|&id| id as u16).collect();
                self.body.write(bytemuck::cast_slice(&narrow))
            }
            _ => self.body.write(bytemuck::cast_slice(tokens)),
        };
        written.with_context(|| format!("cannot write {}", self.partial.display()))
    }

    /// Writes the other sections and the header, and gives the store its name.
    pub fn finish(self) -> Result<Header> {
        self.complete()?.rename()
    }

    /// Writes the other sections and the header: the store is whole and on the disk, under its partial name.
    pub fn complete(mut self) -> Result<WholeStore> {
        let header = self.write_rest().with_context(|| format!("cannot write {}", self.partial.display()))?;
        Ok(WholeStore { writer: self, header })
    }

    fn write_rest(&mut self) -> Result<Header> {
        let body = &mut self.body;
        let header = &mut self.header;
        let mut sections = [Section::default(); 5];
        sections[TOKENS] = Section { offset: HEADER_LENGTH, length: body.offset - HEADER_LENGTH };
        for (index, spool) in [(LINE_ENDS, &mut self.line_ends), (DOCUMENT_ENDS, &mut self.document_ends)] {
            sections[index].offset = body.pad()?;
            spool.copy_to(body)?;
            sections[index].length = body.offset - sections[index].offset;
        }
        if let Some(words) = &mut self.words {
            header.words.offset = body.pad()?;
            words.copy_to(body)?;
            header.words.length = body.offset - header.words.offset;
        }
        sections[TOKENIZER].offset = body.pad()?;
        body.write(&self.model)?;
        sections[TOKENIZER].length = self.model.len() as u64;
        sections[CHECKSUMS].offset = body.pad()?;
        let checksums = body.checksums();
        let bytes: &[u8] = bytemuck::cast_slice(&checksums);
        sections[CHECKSUMS].length = bytes.len() as u64;
        body.file.write_all(bytes)?;
        header.sections = sections;
        header.file_length = sections[CHECKSUMS].offset + sections[CHECKSUMS].length;
        header.checksums_crc = crc32fast::hash(bytes);
        header.header_crc = header.own_crc();
        body.file.seek(SeekFrom::Start(0))?;
        body.file.write_all(bytemuck::bytes_of(header))?;
        body.file.flush()?;
        body.file.get_ref().sync_all()?;
        Ok(*header)
    }
}

/// A store that is whole but for its name; dropped, it is gone.
pub struct WholeStore {
    writer: StoreWriter,
    header: Header,
}

impl WholeStore {
    pub fn rename(mut self) -> Result<Header> {
        let writer = &mut self.writer;
        std::fs::rename(&writer.partial, &writer.path)
            .with_context(|| format!("cannot rename {}", writer.partial.display()))?;
        writer.renamed = true;
        Ok(self.header)
    }
}

/// The body of the file, checksummed as it is written.
struct Body {
    file: BufWriter<File>,
    offset: u64,
    chunk: crc32fast::Hasher,
    checksums: Vec<u32>,
}

impl Body {
    fn start(file: File) -> Result<Body> {
        let mut file = BufWriter::with_capacity(BUFFER, file);
        file.write_all(&[0; HEADER_LENGTH as usize]).context("cannot write the store")?;
        Ok(Body { file, offset: HEADER_LENGTH, chunk: crc32fast::Hasher::new(), checksums: Vec::new() })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        while !bytes.is_empty() {
            let left = CHUNK - (self.offset - HEADER_LENGTH) % CHUNK;
            let (now, later) = bytes.split_at(bytes.len().min(left as usize));
            self.chunk.update(now);
            self.offset += now.len() as u64;
            if now.len() as u64 == left {
                self.checksums.push(std::mem::take(&mut self.chunk).finalize());
            }
            bytes = later;
        }
        Ok(())
    }

    /// Zeros up to the next section, whose offset it returns.
    fn pad(&mut self) -> Result<u64> {
        let zeros = align(self.offset) - self.offset;
        self.write(&[0; ALIGNMENT as usize][..zeros as usize])?;
        Ok(self.offset)
    }

    /// The checksums of all chunks, the last one as long as it is.
    fn checksums(&mut self) -> Vec<u32> {
        if !(self.offset - HEADER_LENGTH).is_multiple_of(CHUNK) {
            self.checksums.push(std::mem::take(&mut self.chunk).finalize());
        }
        std::mem::take(&mut self.checksums)
    }
}

/// The directory that a file lies in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Bits, eight to a byte, the lowest first.
struct Bits {
    spool: Spool,
    last: u8,
    count: u64,
}

impl Bits {
    fn push(&mut self, bits: &[bool]) -> Result<()> {
        for &bit in bits {
            self.last |= u8::from(bit) << (self.count % 8);
            self.count += 1;
            if self.count.is_multiple_of(8) {
                self.spool.write(&[std::mem::take(&mut self.last)])?;
            }
        }
        Ok(())
    }

    /// The last byte is filled up with zeros.
    fn copy_to(&mut self, body: &mut Body) -> Result<()> {
        if !self.count.is_multiple_of(8) {
            self.spool.write(&[self.last])?;
        }
        self.spool.copy_to(body)
    }
}

/// Numbers kept in an unnamed file until their section is written: memory does not grow with the corpus.
struct Spool {
    file: BufWriter<File>,
}

impl Spool {
    fn new(directory: &Path) -> Result<Spool> {
        let file = tempfile::tempfile_in(directory)
            .with_context(|| format!("cannot write into {}", directory.display()))?;
        Ok(Spool { file: BufWriter::with_capacity(BUFFER, file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context("cannot write a temporary file beside the store")
    }

    fn copy_to(&mut self, body: &mut Body) -> Result<()> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => body.write(&buffer[..read])?,
            }
        }
    }
}
