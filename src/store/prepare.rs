//! From text to a store: documents are read in order, encoded on all cores, and written in order.
//!
//! Workers take turns at the input (reading is a few hundredths of the work), each for one batch; the batches
//! have numbers, and the writer writes them by number, so the store is the same for any number of threads.
//! Tickets bound how far the workers may run ahead of a slow batch.
//!
//! Several processes do the same in rounds: all read everything, in a round each encodes the batch that has its number, and
//! the first one, which alone writes, writes them in that order. So the store is the same for any number of processes, too.
//! `source` reads, `encoded` encodes, `exchange` is what the processes tell each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::format::Header;
use super::reader::Lines;
use super::words::{Marker, Words};
use super::writer::StoreWriter;
use crate::corpus::input::Documents;
use crate::files::with_suffix;
use crate::ranks::Ranks;
use crate::tokenizer::{Tokenizer, Vocabulary};

mod encoded;
mod exchange;
mod source;

use encoded::Encoded;
use exchange::{Round, of_one_kind};
use source::Source;

/// Bytes of text in a batch.
const BATCH_BYTES: usize = 1 << 18;
/// Rounds under way for each thread.
const ROUNDS_PER_THREAD: usize = 8;

pub struct Options {
    pub lines: Lines,
    pub words: Words,
    /// The analyser's, of `Words::Lindera`.
    pub dictionary: Option<PathBuf>,
    pub threads: usize,
    /// Share of the documents that go to `STORE.held-out` instead.
    pub held_out: f64,
    /// The processes that divide the work; the threads are each one's.
    pub ranks: Ranks,
    /// Bytes of text that a thread takes at once. What is written does not depend on it.
    pub batch_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lines: Lines::Sentence,
            words: Words::Script,
            dictionary: None,
            threads: 1,
            held_out: 0.0,
            ranks: Ranks::default(),
            batch_bytes: BATCH_BYTES,
        }
    }
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

/// Encodes `documents` into the store `out` (and `out`.held-out). Of several processes the first one writes and reports, and
/// has the summary.
///
/// # Errors
/// Of one process are those of all.
pub fn prepare(
    documents: Documents,
    tokenizer: &Tokenizer,
    out: &Path,
    options: &Options,
    mut report: impl FnMut(Progress),
) -> Result<Option<Summary>> {
    let ranks = &options.ranks;
    of_one_kind(&documents, tokenizer, out, options)?;
    let marker = ranks.agree(Marker::new(options.words, tokenizer, options.dictionary.as_deref()))?;
    let vocabulary = Vocabulary::Model(tokenizer);
    let create = || Writers::create(out, &vocabulary, options.lines, options.words, options.held_out);
    let mut writers = ranks.agree(ranks.is_first().then(create).transpose())?;
    let bytes_total = documents.bytes_total;
    let threads = options.threads.max(1);
    let (ticket, tickets) = channel();
    for _ in 0..threads * ROUNDS_PER_THREAD {
        ticket.send(())?;
    }
    let source = Mutex::new(Source::new(documents, tickets, options));
    let (results, encoded) = channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (results, source, marker) = (results.clone(), &source, &marker);
            scope.spawn(move || work(source, tokenizer, marker, options, &results));
        }
        drop(results);
        // Dropping these on an error is what stops the workers.
        let (mut encoded, ticket) = (InOrder::new(encoded), ticket);
        let mut progress = Progress { bytes_total, ..Progress::default() };
        let mut written = Ok(());
        loop {
            // What the first one could not write, the others hear of in the next round.
            let own = std::mem::replace(&mut written, Ok(())).and_then(|()| encoded.next());
            let Some(Round { batches, bytes_read }) = Round::exchange(ranks, own, tokenizer.vocab_size())?
            else {
                return Ok::<(), anyhow::Error>(());
            };
            if let Some(writers) = &mut writers {
                written = batches.iter().try_for_each(|batch| writers.write(batch));
                progress.bytes_read = bytes_read;
                progress.tokens += batches.iter().map(|batch| batch.tokens.len() as u64).sum::<u64>();
                report(progress);
            }
            // The workers are gone once the input is at its end.
            let _ = ticket.send(());
        }
    })?;
    ranks.agree(writers.map(|writers| writers.finish(out)).transpose())
}

fn work(
    source: &Mutex<Source>,
    tokenizer: &Tokenizer,
    marker: &Marker,
    options: &Options,
    results: &Sender<(u64, Result<Encoded>)>,
) {
    let take = || source.lock().unwrap_or_else(PoisonError::into_inner).take();
    while let Some((round, batch)) = take() {
        let encoded = batch.and_then(|batch| Encoded::of(&batch, tokenizer, marker, options));
        if results.send((round, encoded)).is_err() {
            return;
        }
    }
}

/// What the workers have encoded, by the number of the round.
struct InOrder {
    encoded: Receiver<(u64, Result<Encoded>)>,
    waiting: BTreeMap<u64, Result<Encoded>>,
    next: u64,
}

impl InOrder {
    fn new(encoded: Receiver<(u64, Result<Encoded>)>) -> Self {
        InOrder { encoded, waiting: BTreeMap::new(), next: 0 }
    }

    fn next(&mut self) -> Result<Encoded> {
        loop {
            if let Some(encoded) = self.waiting.remove(&self.next) {
                self.next += 1;
                return encoded;
            }
            let gone = "the threads that encode have ended too early; please report this";
            let (round, encoded) = self.encoded.recv().context(gone)?;
            self.waiting.insert(round, encoded);
        }
    }
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
            let (tokens, lines) = (token..token + document.tokens(), line..line + document.lines());
            (token, line) = (tokens.end, lines.end);
            let starts = batch.starts.get(tokens.clone()).unwrap_or_default();
            self.push(&batch.tokens[tokens], &batch.line_lengths[lines], starts, document.is_held_out())?;
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
