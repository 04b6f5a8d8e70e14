//! SentencePiece: training a model, encoding text to ids, and offsets back into the text.
//!
//! `shim.cpp` is our C interface over the library that sentencepiece-sys builds, `ffi` its safe side,
//! `train` the training of a model from text (through `trainer`), of which `sample` keeps a part, `lower` the lower-casing that keeps offsets,
//! `vocabulary` what is known where texts come as ids; `model_file` and `charsmap` read a model for what the library does
//! not hand out.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub mod charsmap;
mod ffi;
mod lower;
pub mod model_file;
#[cfg(feature = "tokenizer-training")]
pub mod sample;
#[cfg(all(test, feature = "tokenizer-training"))]
mod tests;
#[cfg(feature = "tokenizer-training")]
pub mod train;
#[cfg(feature = "tokenizer-training")]
mod trainer;
mod vocabulary;

pub use vocabulary::{ReadyMade, Vocabulary};

/// The ids of the four symbols that pre-training needs, looked up by name in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE", deny_unknown_fields)]
pub struct SpecialIds {
    pub pad: u32,
    pub cls: u32,
    pub sep: u32,
    pub mask: u32,
}

/// A piece of a text, and the bytes of the text that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    /// First byte in the text as it was given, before lower-casing and normalisation; at a character.
    pub begin: usize,
    /// One past the last byte. Equal to `begin` for a piece without a text of its own (the dummy prefix "▁";
    /// all but the last of the pieces that one character was normalised into, as ㍿ into 株式 and 会社).
    pub end: usize,
}

/// SentencePiece works on 32-bit positions of a text that its normaliser may have made three times as long;
/// longer texts than this are encoded in parts.
const LONGEST_TEXT: usize = 1 << 28;

/// A SentencePiece model, ready to encode from any number of threads.
pub struct Tokenizer {
    path: PathBuf,
    model: Vec<u8>,
    hash: String,
    processor: ffi::Processor,
    lower: bool,
}

impl Tokenizer {
    /// Loads a model file. With `lower`, texts are lower-cased (as `str::to_lowercase`) before SentencePiece.
    pub fn open(path: &Path, lower: bool) -> Result<Tokenizer> {
        let model =
            std::fs::read(path).with_context(|| format!("cannot read the tokenizer {}", path.display()))?;
        Self::from_model(path, model, lower)
    }

    /// Takes the bytes of a model, as a store or a run keeps them; `path` is what errors call it.
    pub fn from_model(path: &Path, model: Vec<u8>, lower: bool) -> Result<Tokenizer> {
        let name = path.display();
        ensure!(!model.is_empty(), "{name} is empty, not a SentencePiece model");
        model_file::ModelFile::check(&model)
            .with_context(|| format!("{name} is not a SentencePiece model, or is damaged"))?;
        let processor = match ffi::Processor::load(&model) {
            Ok(processor) if processor.size() > 0 => processor,
            Ok(_) => bail!("{name} is not a SentencePiece model: it has no pieces"),
            // SentencePiece's own words here name a line of its source.
            Err(_) => bail!("{name} is not a SentencePiece model, or is damaged"),
        };
        Ok(Tokenizer { path: path.to_path_buf(), hash: hash(&model), model, processor, lower })
    }

    /// The ids of a text. `[CLS]` and the like inside it are text, not symbols.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of a text to `out`.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        let text = match self.lower {
            true => lower::to_lowercase(text),
            false => Cow::Borrowed(text),
        };
        for part in parts(&text) {
            // It has no way to fail on valid UTF-8; a text that it refused would be one unknown.
            if self.processor.encode(part, out).is_err() {
                out.push(self.unknown_id());
            }
        }
    }

    /// Appends the ids of a text through the library's own id-only call, without lower-casing: for measurements.
    pub fn encode_as_the_library(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        parts(text).try_for_each(|part| self.processor.encode_as_the_library(part, out))
    }

    /// The pieces of a text, with the same ids as `encode` and their places in the text as it was given.
    pub fn encode_with_offsets(&self, text: &str) -> Vec<Piece> {
        let lowered = self.lower.then(|| lower::Lowered::new(text));
        let encoded = lowered.as_ref().map_or(text, |lowered| lowered.text());
        let mut pieces = Vec::new();
        let mut start = 0;
        for part in parts(encoded) {
            let mut found = Vec::new();
            if self.processor.encode_offsets(part, &mut found).is_err() {
                found = vec![(self.unknown_id(), 0, part.len())];
            }
            pieces.extend(found.into_iter().map(|(id, begin, end)| {
                let (begin, end) = (start + begin, start + end);
                let (begin, end) = match &lowered {
                    Some(lowered) => lowered.original(begin, end),
                    None => (begin, end),
                };
                Piece { id, begin, end }
            }));
            start += part.len();
        }
        pieces
    }

    pub fn vocab_size(&self) -> usize {
        self.processor.size()
    }

    pub fn lower(&self) -> bool {
        self.lower
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the model file.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// SHA-256 of the model file, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The id of a piece by its name, or nothing where the model has no such piece.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.processor.id_of(piece)
    }

    /// The id of `<unk>`.
    pub fn unknown_id(&self) -> u32 {
        self.processor.unknown()
    }

    /// The ids of `[PAD] [CLS] [SEP] [MASK]`. An error names those that the model lacks, or has as ordinary
    /// pieces (a text could then produce them).
    pub fn special_ids(&self) -> Result<SpecialIds> {
        let find = |name: &str| self.id_of(name).filter(|&id| self.processor.is_control(id));
        let names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"];
        if let [Some(pad), Some(cls), Some(sep), Some(mask)] = names.map(find) {
            return Ok(SpecialIds { pad, cls, sep, mask });
        }
        let missing: Vec<&str> = names.into_iter().filter(|name| find(name).is_none()).collect();
        bail!(
            "{}: the model has no control symbol {}; train one with `inazuma tokenizer train`",
            self.path.display(),
            missing.join(" ")
        )
    }
}

/// The text, cut at characters into parts that SentencePiece can number.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.len() <= LONGEST_TEXT {
            return Some(text);
        }
        let (part, after) = split_before(text, LONGEST_TEXT);
        rest = Some(after);
        Some(part)
    })
}

/// The text in two, the first part at most `longest` bytes (of at least one character) long.
fn split_before(text: &str, longest: usize) -> (&str, &str) {
    let mut place = longest.min(text.len());
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    text.split_at(place)
}

/// SHA-256 of a model's bytes, in hexadecimal.
pub fn hash(model: &[u8]) -> String {
    hex(&Sha256::digest(model))
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
