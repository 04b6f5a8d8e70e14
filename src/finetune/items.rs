//! What is learned from: sequences with their targets, and how they are packed into micro-batches.

use std::ops::Range;

use crate::batch::{MaskedExample, PackedBatch};
use crate::model::BatchCapacity;
use crate::model::finetune::{Head, Targets};
use crate::ops::row_loss::NO_TARGET;

use super::features::Input;

/// What a sequence should become.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The first and last position of the answer (both 0: none here). `context` are the positions that may win
    /// beside `[CLS]`.
    Span {
        first: u32,
        last: u32,
        context: Range<u32>,
        impossible: bool,
    },
    Class(u32),
    Number(f32),
    /// A class for every position, `NO_TARGET` where there is none.
    Tags(Vec<u32>),
    /// This one of a multiple choice says nothing by itself.
    Part,
}

/// Sequences that stay together: one, or the choices of a question, of which `choice` is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub sequences: Vec<(Input, Target)>,
    pub choice: Option<u32>,
}

impl Item {
    pub fn one(input: Input, target: Target) -> Self {
        Item { sequences: vec![(input, target)], choice: None }
    }

    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|(input, _)| input.ids.len()).sum()
    }

    /// How much it counts in the denominator of the loss.
    pub fn weight(&self) -> usize {
        let labelled = |target: &Target| match target {
            Target::Tags(tags) => tags.iter().filter(|&&tag| tag != NO_TARGET).count(),
            Target::Part => 0,
            _ => 1,
        };
        self.sequences.iter().map(|(_, target)| labelled(target)).sum::<usize>()
            + usize::from(self.choice.is_some())
    }
}

/// Sequences of an item of this head.
pub fn group_size(head: Head) -> usize {
    if let Head::Choice(choices) = head { choices } else { 1 }
}

/// What a micro-batch holds: as many tokens as `tokens` at most, but one item at least.
pub fn capacity(head: Head, batch_size: usize, max_length: usize, tokens: usize) -> BatchCapacity {
    let group = group_size(head);
    let tokens = tokens.clamp(group * max_length, (batch_size * group * max_length).max(1));
    // No sequence is shorter than [CLS] and [SEP].
    let sequences = (batch_size * group).min(tokens / 2).max(group);
    BatchCapacity { tokens, sequences, masked: sequences.div_ceil(group), max_length }
}

/// Ranges of items, in order, that each fit the capacity.
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

/// Packs items with their targets for a plan with this head.
pub fn pack_items(first_sequence: usize, items: &[&Item], head: Head) -> (PackedBatch, Targets) {
    let sequences = || items.iter().flat_map(|item| &item.sequences);
    let batch = pack(first_sequence, sequences().map(|(input, _)| input));
    let mut targets = Targets::default();
    for (input, target) in sequences() {
        match target {
            Target::Span { first, last, context, impossible } => {
                targets.allowed.extend(
                    (0..input.ids.len() as u32)
                        .map(|position| u32::from(position == 0 || context.contains(&position))),
                );
                targets.starts.push(*first);
                match head {
                    Head::Span => targets.starts.push(*last),
                    _ => targets.ends.push(*last),
                }
                targets.impossible.push(f32::from(u8::from(*impossible)));
            }
            Target::Class(class) => targets.classes.push(*class),
            Target::Number(number) => targets.numbers.push(*number),
            Target::Tags(tags) => targets.classes.extend(tags),
            Target::Part => {}
        }
    }
    targets.classes.extend(items.iter().filter_map(|item| item.choice));
    targets.place_firsts(&batch);
    (batch, targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(length: u32) -> Input {
        Input { ids: (0..length).collect(), first_segment: 2, cut: 0 }
    }

    #[test]
    fn items_fill_micro_batches_in_order() {
        let capacity = capacity(Head::Span, 4, 10, 20);
        assert_eq!((capacity.tokens, capacity.sequences), (20, 4));
        let lengths = [(10, 1), (10, 1), (3, 1), (3, 1), (3, 1), (3, 1), (3, 1), (10, 1)];
        assert_eq!(split(&lengths, &capacity), [0..2, 2..6, 6..8]);
        assert_eq!(super::capacity(Head::Choice(5), 4, 10, 20).tokens, 50);
    }

    #[test]
    fn targets_stand_where_the_heads_look() {
        let span = Target::Span { first: 3, last: 4, context: 2..5, impossible: false };
        let items = [
            Item::one(input(6), span),
            Item::one(input(3), Target::Span { first: 0, last: 0, context: 2..2, impossible: true }),
        ];
        let items: Vec<&Item> = items.iter().collect();
        let (batch, targets) = pack_items(7, &items, Head::Span);
        assert_eq!((batch.first_sequence, batch.starts.clone()), (7, vec![0, 6, 9]));
        assert_eq!(targets.allowed, [1, 0, 1, 1, 1, 0, 1, 0, 0]);
        assert_eq!(targets.starts, [3, 4, 0, 0]);
        let (_, targets) = pack_items(0, &items, Head::JointSpan { answerability: true });
        assert_eq!((targets.starts, targets.ends), (vec![3, 0], vec![4, 0]));
        assert_eq!(targets.impossible, [0.0, 1.0]);
        assert_eq!(targets.first_of[6], 1);
        assert_eq!(items[0].weight(), 1);
    }
}
