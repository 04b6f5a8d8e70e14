//! From text to a store: documents are read in order, encoded on all cores, and written in order.
//!
//! Workers take turns at the input (reading is a few hundredths of the work), each for one batch; the batches
//! have numbers, and the writer writes them by number, so the store is the same for any number of threads.
//! Tickets bound how far the workers may run ahead of a slow batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::format::Header;
use super::reader::Lines;
use super::sentences;
use super::words::{Marker, Words};
use super::writer::StoreWriter;
use crate::corpus::input::{Document, Documents};
use crate::files::with_suffix;
use crate::tokenizer::{Tokenizer, Vocabulary};

/// Bytes of text in a batch.
const BATCH_BYTES: usize = 1 << 18;
/// Batches under way for each thread.
const BATCHES_PER_THREAD: usize = 8;

pub struct Options {
    pub lines: Lines,
    pub words: Words,
    /// The analyser's, of `Words::Lindera`.
    pub dictionary: Option<PathBuf>,
    pub threads: usize,
    /// Share of the documents that go to `STORE.held-out` instead.
    pub held_out: f64,
}

/// How far `prepare` has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub bytes_read: u64,
    pub bytes_total: u64,
    pub tokens: u64,
}

/// What `prepare` made.
pub struct Summary {
    pub store: Header,
    pub held_out: Option<Header>,
    /// Documents that gave no piece.
    pub empty_documents: u64,
}

/// Documents of one batch, encoded.
#[derive(Default)]
struct Encoded {
    tokens: Vec<u32>,
    /// Of each token whether it begins a word; empty where that is not marked.
    starts: Vec<bool>,
    line_lengths: Vec<u32>,
    documents: Vec<EncodedDocument>,
    bytes_read: u64,
}

struct EncodedDocument {
    tokens: usize,
    lines: usize,
    held_out: bool,
}

/// The input and the right to take from it.
struct Source {
    documents: Documents,
    tickets: Receiver<()>,
    next: u64,
    finished: bool,
}

/// Encodes `documents` into the store `out` (and `out`.held-out).
pub fn prepare(
    documents: Documents,
    tokenizer: &Tokenizer,
    out: &Path,
    options: &Options,
    mut report: impl FnMut(Progress),
) -> Result<Summary> {
    let marker = Marker::new(options.words, tokenizer, options.dictionary.as_deref())?;
    let vocabulary = Vocabulary::Model(tokenizer);
    let mut writers = Writers::create(out, &vocabulary, options.lines, options.words, options.held_out)?;
    let bytes_total = documents.bytes_total;
    let threads = options.threads.max(1);
    let (ticket, tickets) = channel();
    for _ in 0..threads * BATCHES_PER_THREAD {
        ticket.send(())?;
    }
    let source = Mutex::new(Source { documents, tickets, next: 0, finished: false });
    let (results, encoded) = channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (results, source, marker) = (results.clone(), &source, &marker);
            scope.spawn(move || work(source, tokenizer, marker, options, &results));
        }
        drop(results);
        // Dropping `encoded` and `ticket` on an error is what stops the workers.
        let (encoded, ticket) = (encoded, ticket);
        let mut waiting = BTreeMap::new();
        let mut next = 0u64;
        let mut progress = Progress { bytes_total, ..Progress::default() };
        for (number, batch) in &encoded {
            waiting.insert(number, batch);
            while let Some(batch) = waiting.remove(&next) {
                let batch: Encoded = batch?;
                writers.write(&batch)?;
                progress.bytes_read = batch.bytes_read;
                progress.tokens += batch.tokens.len() as u64;
                report(progress);
                next += 1;
                // The workers are gone once the input is at its end.
                let _ = ticket.send(());
            }
        }
        Ok::<(), anyhow::Error>(())
    })?;
    writers.finish(out)
}

fn work(
    source: &Mutex<Source>,
    tokenizer: &Tokenizer,
    marker: &Marker,
    options: &Options,
    results: &Sender<(u64, Result<Encoded>)>,
) {
    let take = || source.lock().unwrap_or_else(PoisonError::into_inner).take();
    while let Some((number, batch)) = take() {
        let encoded = batch.and_then(|(documents, bytes_read)| {
            Ok(Encoded { bytes_read, ..encode(&documents, tokenizer, marker, options)? })
        });
        if results.send((number, encoded)).is_err() {
            return;
        }
    }
}

type Batch = (u64, Result<(Vec<Document>, u64)>);

impl Source {
    /// The next batch and its number; nothing at the end of the input, or where the writer has given up.
    fn take(&mut self) -> Option<Batch> {
        if self.finished || self.tickets.recv().is_err() {
            return None;
        }
        let (mut documents, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            match self.documents.next() {
                Some(Ok(document)) => {
                    bytes += document.text.len();
                    documents.push(document);
                }
                Some(Err(error)) => {
                    self.finished = true;
                    return Some((self.next, Err(error)));
                }
                None => {
                    self.finished = true;
                    break;
                }
            }
        }
        let number = self.next;
        self.next += 1;
        (!documents.is_empty()).then_some((number, Ok((documents, self.documents.bytes_read))))
    }
}

fn encode(
    documents: &[Document],
    tokenizer: &Tokenizer,
    marker: &Marker,
    options: &Options,
) -> Result<Encoded> {
    let mut encoded = Encoded::default();
    for document in documents {
        let (tokens, lines) = (encoded.tokens.len(), encoded.line_lengths.len());
        let mut done = Ok(());
        let mut take = |line: &str| {
            if done.is_ok() {
                done = encoded.line(line, tokenizer, marker);
            }
        };
        for paragraph in document.paragraphs() {
            match options.lines {
                Lines::Paragraph => take(paragraph),
                Lines::Sentence => sentences::split(paragraph, &mut take),
            }
        }
        done?;
        encoded.documents.push(EncodedDocument {
            tokens: encoded.tokens.len() - tokens,
            lines: encoded.line_lengths.len() - lines,
            held_out: options.held_out > 0.0 && is_held_out(document, options.held_out),
        });
    }
    Ok(encoded)
}

impl Encoded {
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

/// Whether a hash is among the first `share` of all hashes.
pub(super) fn falls_below(hasher: Sha256, share: f64) -> bool {
    let digest: [u8; 32] = hasher.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    (u64::from_be_bytes(first) >> 11) as f64 / (1u64 << 53) as f64 > 1.0 - share
}

/// The store, and its held-out part where there is one.
pub(super) struct Writers {
    store: StoreWriter,
    held_out: Option<StoreWriter>,
    empty_documents: u64,
}

impl Writers {
    pub fn create(
        out: &Path,
        vocabulary: &Vocabulary<'_>,
        lines: Lines,
        words: Words,
        share: f64,
    ) -> Result<Writers> {
        ensure!((0.0..1.0).contains(&share), "the share held out must be below 100%");
        let mut store = StoreWriter::create_for(out, vocabulary, lines)?;
        store.set_held_out(share, false);
        store.mark_words(words)?;
        let mut held_out = None;
        let mut found_partial = store.found_partial;
        if share > 0.0 {
            let path = with_suffix(out, ".held-out");
            let writer = held_out.insert(StoreWriter::create_for(&path, vocabulary, lines)?);
            writer.set_held_out(share, true);
            writer.mark_words(words)?;
            found_partial |= writer.found_partial;
        }
        if found_partial {
            note!("inazuma: an earlier `prepare` of {} was interrupted; starting over", out.display());
        }
        Ok(Writers { store, held_out, empty_documents: 0 })
    }

    fn write(&mut self, batch: &Encoded) -> Result<()> {
        let (mut token, mut line) = (0, 0);
        for document in &batch.documents {
            let tokens = &batch.tokens[token..token + document.tokens];
            let lines = &batch.line_lengths[line..line + document.lines];
            let starts = batch.starts.get(token..token + document.tokens).unwrap_or_default();
            self.push(tokens, lines, starts, document.held_out)?;
            (token, line) = (token + document.tokens, line + document.lines);
        }
        Ok(())
    }

    /// Appends a document to the part it belongs to.
    pub fn push(&mut self, tokens: &[u32], lines: &[u32], starts: &[bool], held_out: bool) -> Result<()> {
        self.empty_documents += u64::from(tokens.is_empty());
        match &mut self.held_out {
            Some(writer) if held_out => writer.push_marked(tokens, lines, starts),
            _ => self.store.push_marked(tokens, lines, starts),
        }
    }

    pub fn finish(self, out: &Path) -> Result<Summary> {
        if self.store.documents() == 0 {
            bail!("no document of the input yields a piece for {}; nothing is written", out.display());
        }
        let held_out = match self.held_out {
            Some(writer) if writer.documents() > 0 => Some(writer.complete()?),
            Some(_) => {
                warning!("inazuma: warning: no document was held out; the input has too few for that share");
                None
            }
            None => None,
        };
        let store = self.store.complete()?;
        // Both are on the disk. An earlier store goes before its held-out part is replaced: beside that of another
        // one it would be trained on what it is judged by.
        let path = with_suffix(out, ".held-out");
        if out.exists() {
            note!("inazuma: replacing {}, which an earlier run wrote", out.display());
            if held_out.is_some() || path.exists() {
                std::fs::remove_file(out).with_context(|| format!("cannot replace {}", out.display()))?;
            }
        }
        let held_out = match held_out {
            Some(held_out) => Some(held_out.rename()?),
            None => {
                remove_stale(&path)?;
                None
            }
        };
        Ok(Summary { store: store.rename()?, held_out, empty_documents: self.empty_documents })
    }
}

/// Removes the held-out part of the store that is replaced by one without.
fn remove_stale(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    note!("inazuma: removing {}, which belonged to the store this one replaces", path.display());
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
