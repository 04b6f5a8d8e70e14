//! What is learned from: sequences that stay together with their label, and how they are packed into micro-batches.

use std::ops::Range;

use crate::batch::{MaskedExample, PackedBatch};
use crate::model::BatchCapacity;

use super::features::Input;

/// Sequences that stay together: one, or the choices of a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Item<L> {
    pub sequences: Vec<Input>,
    pub label: L,
}

impl<L> Item<L> {
    pub fn one(input: Input, label: L) -> Self {
        Item { sequences: vec![input], label }
    }
}

/// How much an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub tokens: usize,
    pub sequences: usize,
    /// How much it counts in the denominator of the loss.
    pub weight: usize,
}

/// What a micro-batch of items of `group` sequences holds: as many tokens as `tokens` at most, but one item at least.
pub fn capacity(group: usize, batch_size: usize, max_length: usize, tokens: usize) -> BatchCapacity {
    let tokens = tokens.clamp(group * max_length, (batch_size * group * max_length).max(1));
    // No sequence is shorter than [CLS] and [SEP].
    let sequences = (batch_size * group).min(tokens / 2).max(group);
    BatchCapacity { tokens, sequences, labelled: sequences.div_ceil(group), max_length }
}

/// Ranges of items (tokens and sequences of each), in order, that each fit the capacity.
pub fn split(lengths: &[(usize, usize)], capacity: &BatchCapacity) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut tokens, mut sequences) = (0, 0, 0);
    for (index, &(item_tokens, item_sequences)) in lengths.iter().enumerate() {
        let full = tokens + item_tokens > capacity.tokens || sequences + item_sequences > capacity.sequences;
        if full && index > start {
            ranges.push(start..index);
            (start, tokens, sequences) = (index, 0, 0);
        }
        tokens += item_tokens;
        sequences += item_sequences;
    }
    if start < lengths.len() {
        ranges.push(start..lengths.len());
    }
    ranges
}

/// Packs inputs whose first is number `first_sequence` of the whole batch.
pub fn pack<'a>(first_sequence: usize, inputs: impl Iterator<Item = &'a Input>) -> PackedBatch {
    let examples: Vec<MaskedExample> =
        inputs.map(|input| MaskedExample::new(input.ids.clone(), input.first_segment, Vec::new())).collect();
    PackedBatch::pack(first_sequence, &examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_fill_micro_batches_in_order() {
        let capacity = capacity(1, 4, 10, 20);
        assert_eq!((capacity.tokens, capacity.sequences), (20, 4));
        let lengths = [(10, 1), (10, 1), (3, 1), (3, 1), (3, 1), (3, 1), (3, 1), (10, 1)];
        assert_eq!(split(&lengths, &capacity), [0..2, 2..6, 6..8]);
        assert_eq!(super::capacity(5, 4, 10, 20).tokens, 50);
    }
}
