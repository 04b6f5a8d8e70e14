//! Which positions the generator must guess (docs/spec.md §3.1–2).

use std::ops::Range;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

use crate::store::examples::Example;
use crate::tensor::draws::MASKING;
use crate::tensor::random::{Stream, derive};
use crate::tokenizer::SpecialIds;

use super::MaskedExample;

/// A chosen position is shown as `[MASK]` with this probability, else as it is.
const MASK_PROBABILITY: f64 = 0.85;

/// A span ends after each of its words with this probability, and after so many words at the latest.
const SPAN_END: f64 = 0.2;
const LONGEST_SPAN: usize = 10;

/// N = ⌊(p + 0.005) · max length⌋, the most slots a sequence has.
///
/// In f64, as Python computes it; a maximum of 0 masks nothing.
pub fn slots(probability: f64, max_length: usize) -> usize {
    ((probability + 0.005) * max_length as f64) as usize
}

/// How many positions of a sequence are chosen, if it has as many candidates: clamp(round(p·length), 1, N),
/// the product and its rounding (half to even) in f32.
pub fn chosen(probability: f64, length: usize, slots: usize) -> usize {
    let n = (probability as f32 * length as f32).round_ties_even() as usize;
    n.max(1).min(slots)
}

/// What is masked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    Token,
    /// All pieces of a word or none.
    Word,
    /// Words that follow each other.
    Span,
}

impl Masking {
    pub const NAMES: [&'static str; 3] = ["token", "word", "span"];
}

impl FromStr for Masking {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "token" => Ok(Masking::Token),
            "word" => Ok(Masking::Word),
            "span" => Ok(Masking::Span),
            _ => bail!("{text} is none of {}", Masking::NAMES.join(", ")),
        }
    }
}

/// The share of the tokens that is masked: in a straight line from the first step of a run to the end of its last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub first: f64,
    pub last: f64,
    pub steps: u64,
}

impl Share {
    /// At the step that follows `step` others.
    pub fn at(&self, step: u64) -> f64 {
        let way = step.min(self.steps) as f64 / self.steps.max(1) as f64;
        // Not `first + …` alone: where both are equal, the share is that to the bit.
        if self.first == self.last { self.first } else { self.first + (self.last - self.first) * way }
    }
}

/// Masks examples; the same draws for the same key and sequence.
#[derive(Clone, Copy, Debug)]
pub struct Masker {
    special: SpecialIds,
    masking: Masking,
    probability: f64,
    max_length: usize,
}

impl Masker {
    /// Masks single tokens.
    ///
    /// Errors: sequences so short that no slot is left.
    pub fn new(special: SpecialIds, probability: f64, max_length: usize) -> Result<Self> {
        ensure!(
            slots(probability, max_length) > 0,
            "mask_probability is {probability}: at max_length {max_length} nothing would be masked; raise one of them"
        );
        Ok(Masker { special, masking: Masking::Token, probability, max_length })
    }

    pub fn with_masking(self, masking: Masking) -> Self {
        Masker { masking, ..self }
    }

    pub fn with_share(self, probability: f64) -> Self {
        Masker { probability, ..self }
    }

    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// The most slots a sequence has.
    pub fn slots(&self) -> usize {
        slots(self.probability, self.max_length)
    }

    /// Masks one example; `key` is the step's, `sequence` the example's number within the whole batch.
    ///
    /// Chosen without replacement from the tokens other than `[CLS]`, `[SEP]`, `[MASK]`; slots are in the
    /// order of the positions. An example that does not tell where its words begin has words of one token.
    pub fn mask(&self, example: &Example, key: [u32; 2], sequence: usize) -> MaskedExample {
        let mut draws = Stream::new(derive(key, MASKING, sequence as u32));
        let SpecialIds { cls, sep, mask, .. } = self.special;
        let mut ids = example.ids.clone();
        let positions: Vec<u32> = (0..ids.len() as u32)
            .filter(|&position| ![cls, sep, mask].contains(&ids[position as usize]))
            .collect();
        let count = chosen(self.probability, ids.len(), self.slots()).min(positions.len());
        let mut units = match self.masking {
            Masking::Token => tokens(positions, count, &mut draws),
            Masking::Word => words(pieces_of_words(&positions, example), count, &mut draws),
            Masking::Span => spans(&pieces_of_words(&positions, example), count, &mut draws),
        };
        units.sort_unstable_by_key(|unit| unit.start);
        let mut masked = Vec::with_capacity(count);
        for unit in units {
            let hidden = draws.uniform() < MASK_PROBABILITY;
            for position in unit {
                let id = &mut ids[position as usize];
                masked.push((position, *id));
                if hidden {
                    *id = mask;
                }
            }
        }
        MaskedExample::new(ids, example.first_segment, masked)
    }
}

/// Positions that are shown as `[MASK]` together, or all as they are.
type Unit = Range<u32>;

/// The head of a Fisher–Yates shuffle, an item at a time: every order of the items is equally likely.
fn draw<T>(items: &mut [T], drawn: usize, draws: &mut Stream) {
    let other = drawn + draws.below((items.len() - drawn) as u32) as usize;
    items.swap(drawn, other);
}

/// `count` of the positions: every set of them is equally likely.
fn tokens(mut positions: Vec<u32>, count: usize, draws: &mut Stream) -> Vec<Unit> {
    (0..count).for_each(|index| draw(&mut positions, index, draws));
    positions.truncate(count);
    positions.into_iter().map(single).collect()
}

fn single(position: u32) -> Unit {
    position..position + 1
}

/// The words of an example: runs of positions that may be masked.
fn pieces_of_words(positions: &[u32], example: &Example) -> Vec<Range<u32>> {
    let starts = |position: u32| example.words.as_ref().is_none_or(|words| words[position as usize]);
    let mut words: Vec<Range<u32>> = Vec::new();
    for &position in positions {
        match words.last_mut() {
            Some(word) if word.end == position && !starts(position) => word.end += 1,
            _ => words.push(single(position)),
        }
    }
    words
}

/// Whole words of `count` tokens, as BERT's whole-word masking chooses them: in an order that is drawn, each that still
/// fits; one that does not is passed over. So there are fewer than `count` where nothing is left that fits. Each token of
/// them is then shown or hidden on its own. Where no word fits at all, the beginning of the first one drawn is taken.
fn words(mut words: Vec<Range<u32>>, count: usize, draws: &mut Stream) -> Vec<Unit> {
    let mut left = count;
    let mut chosen = Vec::with_capacity(count);
    for index in 0..words.len() {
        if left == 0 {
            break;
        }
        draw(&mut words, index, draws);
        let word = words[index].clone();
        if word.len() <= left {
            left -= word.len();
            chosen.extend(word.map(single));
        }
    }
    if chosen.is_empty() {
        chosen.extend(words.first().into_iter().flat_map(|word| word.clone().take(count)).map(single));
    }
    chosen
}

/// Spans of words (SpanBERT): from a word that is drawn on, as many as `span_length` draws, up to one that is masked
/// already, to a symbol, or to the number of tokens that is left; until `count` tokens are masked or nothing more fits.
/// A span is shown or hidden as a whole. Where no word fits at all, the beginning of the first one drawn is taken.
fn spans(words: &[Range<u32>], count: usize, draws: &mut Stream) -> Vec<Unit> {
    let mut left = count;
    let mut order: Vec<usize> = (0..words.len()).collect();
    let mut taken = vec![false; words.len()];
    let mut chosen: Vec<Unit> = Vec::new();
    for index in 0..words.len() {
        if left == 0 {
            break;
        }
        draw(&mut order, index, draws);
        let first = order[index];
        if taken[first] {
            continue;
        }
        let longest = words.len().min(first + span_length(draws));
        let mut span = words[first].start..words[first].start;
        for word in first..longest {
            let Range { start, end } = words[word];
            if taken[word] || start != span.end || (end - span.start) as usize > left {
                break;
            }
            (taken[word], span.end) = (true, end);
        }
        if !span.is_empty() {
            left -= span.len();
            chosen.push(span);
        }
    }
    if chosen.is_empty()
        && let Some(&first) = order.first()
    {
        let Range { start, end } = words[first];
        chosen.push(start..end.min(start + count as u32));
    }
    chosen
}

/// Words of a span: geometric with [`SPAN_END`] among those up to [`LONGEST_SPAN`], 3.8 in the mean.
fn span_length(draws: &mut Stream) -> usize {
    let go_on = 1.0 - SPAN_END;
    let all = 1.0 - go_on.powi(LONGEST_SPAN as i32);
    let drawn = draws.uniform() * all;
    (1..LONGEST_SPAN).find(|&length| drawn < 1.0 - go_on.powi(length as i32)).unwrap_or(LONGEST_SPAN)
}

#[cfg(test)]
mod tests;
