//! Training examples, cut from a store afresh for every epoch (docs/spec.md §4).
//!
//! # How a document is cut
//!
//! An example always takes the tokens that follow the previous one, without a gap: from a position in the
//! document, lines are gathered until their pieces reach the target (the line that reaches it whole) or the
//! document ends; they are dealt to A and B; A keeps its first max−2 pieces, B its first max−len(A)−3. Since
//! lines go to A first and to B from some line on, what is kept is a prefix of what was gathered, and *what is
//! cut off* is a suffix of it: where A alone is too long, A's tail and the whole of B. The next example of the
//! document starts exactly there. The remainder of a line that was cut in two counts as a line; the gathered
//! lines behind it keep their ends and are gathered again. So every token of a document stands in exactly one
//! example of an epoch, in order: nothing is lost and nothing stands twice.
//!
//! # Draws
//!
//! Example e of document d in an epoch has a key of its own, (seed, epoch, d, e), and draws in this order:
//! whether A has a limit, the coins of A's lines as they are needed. The target that follows it has its key
//! too, apart from those. The target survives document ends; so that documents can be cut in parallel, the one
//! drawn after the *last* example of document d has the key (seed, epoch, d, "last") in place of the example's
//! number: the first example of document d+1 asks for it without knowing how many examples document d had.
//! The very first target of an epoch is the max length.

use std::sync::Arc;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{Boundaries, Store, Words};
use crate::tensor::draws::{EXAMPLE_CUT, EXAMPLE_ORDER, EXAMPLE_TARGET, EXAMPLES, LAST_EXAMPLE};
use crate::tensor::random::{Stream, derive, root};

/// The shortest target that docs/spec.md §4 draws, and so the shortest max length that makes sense.
pub const MIN_LENGTH: usize = 5;
/// Lengths are kept in 16 bits.
pub const MAX_LENGTH: usize = u16::MAX as usize;

const SHORT_TARGET_PROBABILITY: f64 = 0.05;
const NO_LIMIT_PROBABILITY: f64 = 0.1;
const SECOND_LINE_PROBABILITY: f64 = 0.5;

/// Documents cut together by one thread: fixed, so that the order does not depend on the threads.
const DOCUMENTS_PER_TASK: u64 = 512;

/// One example as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where B is empty; at most the max length, not padded.
    pub ids: Vec<u32>,
    /// How many leading ids have segment 0: `[CLS] A [SEP]`.
    pub first_segment: usize,
    /// Of every id whether a word begins with it; nothing where nobody asked, or the store does not tell.
    pub words: Option<Vec<bool>>,
}

/// Where an example lies in the store: A and B follow each other there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// First token of A, in two halves so that an entry takes 12 bytes.
    start: [u32; 2],
    first: u16,
    second: u16,
}

impl Entry {
    fn start(&self) -> u64 {
        u64::from(self.start[0]) | u64::from(self.start[1]) << 32
    }

    /// Pieces of both segments.
    fn pieces(&self) -> u64 {
        u64::from(self.first) + u64::from(self.second)
    }
}

/// The examples of one epoch, in the order in which they are trained on: 12 bytes each.
///
/// Built from line and document ends alone: no token is read. The same for any number of threads.
pub struct EpochIndex {
    entries: Vec<Entry>,
}

impl EpochIndex {
    /// Cuts the store for an epoch and shuffles the examples. `max_length` counts `[CLS]` and `[SEP]`; it is
    /// brought into `MIN_LENGTH..=MAX_LENGTH` here, and `ExampleStream::new` refuses one outside.
    ///
    /// Errors: damaged boundaries.
    pub fn build(store: &Store, seed: u64, epoch: u64, max_length: usize) -> Result<EpochIndex> {
        let cutter = Cutter::new(store, seed, epoch, max_length);
        let cut = |task| {
            let mut entries = Vec::new();
            cutter.cut_task(task, |entry| entries.push(entry))?;
            Ok(entries)
        };
        let parts = cutter.tasks().map(cut).collect::<Result<Vec<Vec<Entry>>>>()?;
        let mut entries = Vec::with_capacity(parts.iter().map(Vec::len).sum());
        parts.iter().for_each(|part| entries.extend_from_slice(part));
        drop(parts);
        shuffle(&mut entries, derive(cutter.key, EXAMPLE_ORDER, 0));
        Ok(EpochIndex { entries })
    }

    /// How many examples `build` would make, without keeping them.
    pub fn count(store: &Store, seed: u64, epoch: u64, max_length: usize) -> Result<u64> {
        let cutter = Cutter::new(store, seed, epoch, max_length);
        let cut = |task| {
            let mut count = 0u64;
            cutter.cut_task(task, |_| count += 1)?;
            Ok(count)
        };
        cutter.tasks().map(cut).try_reduce(|| 0, |left, right| Ok(left + right))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Pieces in all examples: `[CLS]` and `[SEP]` not counted.
    pub fn pieces(&self) -> u64 {
        self.entries.iter().map(Entry::pieces).sum()
    }

    /// Ids in all examples, `[CLS]` and `[SEP]` counted: what a step computes on.
    pub fn ids(&self) -> u64 {
        let specials = |entry: &Entry| if entry.second > 0 { 3 } else { 2 };
        self.entries.iter().map(|entry| entry.pieces() + specials(entry)).sum()
    }

    /// Examples that have a second segment.
    pub fn with_second_segment(&self) -> usize {
        self.entries.iter().filter(|entry| entry.second > 0).count()
    }

    /// The nth example of the epoch, in its shuffled order. `n` must be below `len`.
    ///
    /// Errors: damaged tokens, or such as are not of the vocabulary.
    pub fn example(&self, store: &Store, n: usize) -> Result<Example> {
        let entry = self.entries[n];
        let special = store.special_ids();
        let tokens = store.read_tokens(entry.start()..entry.start() + entry.pieces())?;
        let (first, second) = tokens.split_at(usize::from(entry.first));
        let mut ids = Vec::with_capacity(tokens.len() + 3);
        ids.push(special.cls);
        ids.extend_from_slice(first);
        ids.push(special.sep);
        let first_segment = ids.len();
        if !second.is_empty() {
            ids.extend_from_slice(second);
            ids.push(special.sep);
        }
        Ok(Example { ids, first_segment, words: None })
    }

    /// The nth example, with where its words begin. A word that was cut in two begins again, and so does what follows a
    /// symbol.
    ///
    /// Errors: as `example`; a store that marks no words.
    pub fn marked_example(&self, store: &Store, n: usize) -> Result<Example> {
        let example = self.example(store, n)?;
        let entry = self.entries[n];
        let mut starts = store.read_word_starts(entry.start()..entry.start() + entry.pieces())?.into_iter();
        let middle = usize::from(entry.first) + 1;
        let mut words = vec![true; example.ids.len()];
        words[1..middle].fill_with(|| starts.next().unwrap_or(true));
        if entry.second > 0 {
            words[middle + 1..][..usize::from(entry.second)].fill_with(|| starts.next().unwrap_or(true));
            words[middle + 1] = true;
        }
        words[1] = true;
        Ok(Example { words: Some(words), ..example })
    }
}

/// Fisher and Yates' shuffle, drawn from one stream: exactly uniform also for a handful of examples.
fn shuffle(entries: &mut [Entry], key: [u32; 2]) {
    let mut draws = Stream::new(key);
    for last in (1..entries.len()).rev() {
        let count = last as u64 + 1;
        let other = match u32::try_from(count) {
            Ok(count) => u64::from(draws.below(count)),
            // Beyond 2^32 examples the bias of a plain product is below 2^-31.
            Err(_) => {
                let bits = u64::from(draws.next_u32()) << 32 | u64::from(draws.next_u32());
                ((u128::from(bits) * u128::from(count)) >> 64) as u64
            }
        };
        entries.swap(last, other as usize);
    }
}

/// Cuts documents of one epoch.
struct Cutter<'a> {
    store: &'a Store,
    /// Key of (seed, epoch).
    key: [u32; 2],
    max_length: usize,
}

impl<'a> Cutter<'a> {
    fn new(store: &'a Store, seed: u64, epoch: u64, max_length: usize) -> Self {
        let run = derive(root(seed), EXAMPLES, 0);
        Cutter {
            store,
            key: derive(run, epoch as u32, (epoch >> 32) as u32),
            max_length: max_length.clamp(MIN_LENGTH, MAX_LENGTH),
        }
    }

    fn tasks(&self) -> impl IndexedParallelIterator<Item = u64> {
        (0..self.store.documents().div_ceil(DOCUMENTS_PER_TASK) as usize)
            .into_par_iter()
            .map(|task| task as u64)
    }

    fn cut_task(&self, task: u64, mut emit: impl FnMut(Entry)) -> Result<()> {
        let first = task * DOCUMENTS_PER_TASK;
        let documents = first..(first + DOCUMENTS_PER_TASK).min(self.store.documents());
        let Boundaries { mut start, line_ends, document_ends } = self.store.boundaries(documents.clone())?;
        let mut line = 0;
        for (document, end) in documents.zip(document_ends) {
            let lines = &line_ends[line..end];
            self.cut_document(document, start, lines, &mut emit);
            start = lines.last().copied().unwrap_or(start);
            line = end;
        }
        Ok(())
    }

    /// Cuts the document that starts at a token and whose lines end at `ends`.
    fn cut_document(&self, document: u64, start: u64, ends: &[u64], emit: &mut impl FnMut(Entry)) {
        let (mut line, mut position) = (0, start);
        let mut target = match document {
            0 => self.max_length,
            _ => self.target_after(document - 1, LAST_EXAMPLE),
        };
        let mut example = 0u32;
        while line < ends.len() {
            let (first, second) = self.cut_example(&ends[line..], position, target, document, example);
            let start = [position as u32, (position >> 32) as u32];
            emit(Entry { start, first: first as u16, second: second as u16 });
            position += (first + second) as u64;
            while line < ends.len() && ends[line] <= position {
                line += 1;
            }
            target = self.target_after(document, example);
            example += 1;
        }
    }

    /// The lengths of A and B of the example that starts at `position`, in the line that ends at `ends[0]`.
    fn cut_example(
        &self,
        ends: &[u64],
        position: u64,
        target: usize,
        document: u64,
        example: u32,
    ) -> (usize, usize) {
        let mut draws = Stream::new(self.draw_key(EXAMPLE_CUT, document, example));
        let limit = match draws.uniform() < NO_LIMIT_PROBABILITY {
            true => u64::MAX,
            false => (target.saturating_sub(3) / 2) as u64,
        };
        let (mut first, mut second) = (0u64, 0u64);
        let mut line_start = position;
        for &end in ends {
            let length = end - line_start;
            line_start = end;
            let to_first = second == 0
                && (first == 0
                    || first + length < limit
                    || first < limit && draws.uniform() < SECOND_LINE_PROBABILITY);
            match to_first {
                true => first += length,
                false => second += length,
            }
            if first + second >= target as u64 {
                break;
            }
        }
        let max = self.max_length as u64;
        let first = first.min(max - 2);
        let second = second.min(max.saturating_sub(first + 3));
        (first as usize, second as usize)
    }

    /// The target of the example that follows `example` of `document` (`LAST_EXAMPLE`: its last one).
    fn target_after(&self, document: u64, example: u32) -> usize {
        let mut draws = Stream::new(self.draw_key(EXAMPLE_TARGET, document, example));
        match draws.uniform() < SHORT_TARGET_PROBABILITY {
            true => MIN_LENGTH + draws.below((self.max_length - MIN_LENGTH + 1) as u32) as usize,
            false => self.max_length,
        }
    }

    fn draw_key(&self, purpose: u32, document: u64, example: u32) -> [u32; 2] {
        let document_key = derive(self.key, document as u32, (document >> 32) as u32);
        derive(document_key, purpose, example)
    }
}

/// The examples of a run, numbered from 0 through all epochs: step s of batch size b trains on numbers
/// s·b to s·b+b−1, so that a run is resumed with nothing but its step.
///
/// Walking forward costs one `EpochIndex` per epoch. Jumping to a far number counts the epochs before it
/// (every epoch is cut differently and has a length of its own), which reads boundaries only.
pub struct ExampleStream {
    store: Arc<Store>,
    seed: u64,
    max_length: usize,
    /// Examples tell where their words begin.
    marked: bool,
    /// Number of the first example of each epoch counted so far.
    starts: Vec<u64>,
    epoch: u64,
    index: EpochIndex,
}

impl ExampleStream {
    /// Errors: a max length outside 5..=65535, a store without an example, damaged boundaries.
    pub fn new(store: Arc<Store>, seed: u64, max_length: usize) -> Result<Self> {
        ensure!(
            (MIN_LENGTH..=MAX_LENGTH).contains(&max_length),
            "max_length is {max_length}; it must lie in {MIN_LENGTH}..={MAX_LENGTH}"
        );
        let index = EpochIndex::build(&store, seed, 0, max_length)?;
        ensure!(
            !index.is_empty(),
            "{}: no document yields an example; prepare the store from text that is not empty",
            store.path().display()
        );
        let starts = vec![0, index.len() as u64];
        Ok(ExampleStream { store, seed, max_length, marked: false, starts, epoch: 0, index })
    }

    /// From here on examples tell where their words begin, if the store does.
    pub fn mark_words(&mut self) {
        self.marked = self.store.words() != Words::None;
    }

    /// Example number `n` of the run.
    pub fn example(&mut self, n: u64) -> Result<Example> {
        self.seek(n)?;
        let within = n - self.starts[self.epoch as usize];
        match self.marked {
            true => self.index.marked_example(&self.store, within as usize),
            false => self.index.example(&self.store, within as usize),
        }
    }

    /// The epoch (from 0) of the example asked for last.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes `index` the one of the epoch that holds number `n`.
    fn seek(&mut self, n: u64) -> Result<()> {
        let mut built = None;
        while self.starts[self.starts.len() - 1] <= n {
            let epoch = self.starts.len() as u64 - 1;
            let start = self.starts[epoch as usize];
            // Most often the epoch that comes next is the one wanted: build it at once rather than count first.
            let length = if epoch == self.epoch + 1 {
                let index = self.build(epoch)?;
                let length = index.len() as u64;
                built = Some((epoch, index));
                length
            } else {
                EpochIndex::count(&self.store, self.seed, epoch, self.max_length)?
            };
            self.starts.push(start + length);
        }
        let epoch = self.starts.partition_point(|&start| start <= n) as u64 - 1;
        if epoch != self.epoch {
            self.index = match built.take() {
                Some((of, index)) if of == epoch => index,
                _ => self.build(epoch)?,
            };
            self.epoch = epoch;
        }
        Ok(())
    }

    fn build(&self, epoch: u64) -> Result<EpochIndex> {
        EpochIndex::build(&self.store, self.seed, epoch, self.max_length)
    }
}

#[cfg(test)]
mod tests;
