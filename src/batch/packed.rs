//! Sequences packed into rows without padding, with the lists that kernels need to read and sum them.

pub use crate::ops::constants::NO_ID;
use crate::ops::constants::{NO_SLOT, PADDING};

/// A sequence after masking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedExample {
    /// What the generator reads, without padding.
    pub input_ids: Vec<u32>,
    /// Segment of every token.
    pub segments: Vec<u32>,
    /// Chosen positions and what stood there. Their order is that of the slots.
    pub masked: Vec<(u32, u32)>,
}

impl MaskedExample {
    /// A sequence whose first `first_segment` tokens have segment 0 and the others 1.
    pub fn new(input_ids: Vec<u32>, first_segment: usize, masked: Vec<(u32, u32)>) -> Self {
        let segments = (0..input_ids.len()).map(|position| u32::from(position >= first_segment)).collect();
        MaskedExample { input_ids, segments, masked }
    }
}

/// Rows by the id they hold, for the gradient of the word embeddings (`ops::table_gradient`).
///
/// `rows[starts[k]..starts[k + 1]]` are the rows of the k-th distinct id, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordLists {
    /// `[T]`: distinct ids ascending, then [`NO_ID`].
    pub ids: Vec<u32>,
    /// One more than distinct ids.
    pub starts: Vec<u32>,
    /// Rows sorted by (id, row).
    pub rows: Vec<u32>,
}

impl WordLists {
    /// Lists of (id, row) pairs out of `tokens` rows; id in the high half.
    fn new(mut pairs: Vec<u64>, tokens: usize) -> Self {
        pairs.sort_unstable();
        let mut lists = WordLists::default();
        for (index, pair) in pairs.iter().enumerate() {
            let id = (pair >> 32) as u32;
            if lists.ids.last() != Some(&id) {
                lists.ids.push(id);
                lists.starts.push(index as u32);
            }
            lists.rows.push(*pair as u32);
        }
        lists.starts.push(pairs.len() as u32);
        // To the end: what an earlier, longer batch left behind must not be taken for ids.
        lists.ids.resize(tokens, NO_ID);
        lists
    }
}

/// One micro-batch, packed and ready to upload. T tokens, B sequences, M masked slots in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Number within the whole batch of this micro-batch's first sequence.
    pub first_sequence: usize,
    /// `[B + 1]`: first row of every sequence, and T.
    pub starts: Vec<u32>,
    /// `[T]`, after masking.
    pub input_ids: Vec<u32>,
    /// `[T]` each: position within the sequence, segment, local number of the sequence.
    pub positions: Vec<u32>,
    pub segments: Vec<u32>,
    pub sequences: Vec<u32>,
    /// `[M]` each: packed row, original id, local number of the sequence, slot within the sequence.
    pub masked_rows: Vec<u32>,
    pub masked_ids: Vec<u32>,
    pub masked_sequences: Vec<u32>,
    pub masked_slots: Vec<u32>,
    /// `[T]`: the masked slot of a row, or [`NO_SLOT`].
    pub slot_of_row: Vec<u32>,
    /// All rows by the id the generator reads.
    pub generator_words: WordLists,
    /// As `generator_words`, without masked rows: what the discriminator reads there, only the device knows.
    pub discriminator_words: WordLists,
}

impl PackedBatch {
    /// Packs `examples`, which stand in the whole batch from number `first_sequence` on.
    pub fn pack(first_sequence: usize, examples: &[MaskedExample]) -> PackedBatch {
        let mut batch = PackedBatch { first_sequence, starts: vec![0], ..PackedBatch::default() };
        for (sequence, example) in examples.iter().enumerate() {
            batch.append(sequence as u32, example);
        }
        let tokens = batch.tokens();
        let pair = |(row, &id): (usize, &u32)| u64::from(id) << 32 | row as u64;
        let all = batch.input_ids.iter().enumerate();
        let kept = all.clone().filter(|&(row, _)| batch.slot_of_row[row] == NO_SLOT);
        let discriminator_words = WordLists::new(kept.map(pair).collect(), tokens);
        batch.generator_words = WordLists::new(all.map(pair).collect(), tokens);
        batch.discriminator_words = discriminator_words;
        batch
    }

    /// As [`PackedBatch::pack`], then every sequence's padding up to `length` as a sequence of its own: the
    /// work of a padded batch, the losses and gradients of the packed one. To compare with, not to train with.
    pub fn padded(first_sequence: usize, examples: &[MaskedExample], length: usize, pad: u32) -> PackedBatch {
        let mut batch = PackedBatch::pack(first_sequence, examples);
        for (index, example) in examples.iter().enumerate() {
            let missing = length.saturating_sub(example.input_ids.len());
            let sequence = (examples.len() + index) as u32;
            let padding = MaskedExample::new(vec![pad; missing], missing, Vec::new());
            batch.append(sequence, &padding);
            let real = batch.slot_of_row.len() - missing;
            batch.slot_of_row[real..].fill(PADDING);
        }
        let rows = batch.tokens();
        batch.generator_words.ids.resize(rows, NO_ID);
        batch.discriminator_words.ids.resize(rows, NO_ID);
        batch
    }

    fn append(&mut self, sequence: u32, example: &MaskedExample) {
        assert_eq!(example.input_ids.len(), example.segments.len(), "a segment for every token");
        let first = self.tokens() as u32;
        let length = example.input_ids.len();
        self.input_ids.extend_from_slice(&example.input_ids);
        self.segments.extend_from_slice(&example.segments);
        self.positions.extend(0..length as u32);
        self.sequences.extend(std::iter::repeat_n(sequence, length));
        self.slot_of_row.extend(std::iter::repeat_n(NO_SLOT, length));
        for (slot, &(position, id)) in example.masked.iter().enumerate() {
            let row = first + position;
            self.slot_of_row[row as usize] = self.masked_rows.len() as u32;
            self.masked_rows.push(row);
            self.masked_ids.push(id);
            self.masked_sequences.push(sequence);
            self.masked_slots.push(slot as u32);
        }
        self.starts.push(self.input_ids.len() as u32);
    }

    /// T, the rows in use.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// B, the sequences.
    pub fn sequence_count(&self) -> usize {
        self.starts.len() - 1
    }

    /// M, the masked slots in use.
    pub fn masked(&self) -> usize {
        self.masked_rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> PackedBatch {
        PackedBatch::pack(
            6,
            &[
                MaskedExample::new(vec![4, 6, 9, 5], 4, vec![(1, 8)]),
                MaskedExample::new(vec![4, 9, 5, 6, 9, 5], 3, vec![(3, 7), (4, 9)]),
            ],
        )
    }

    #[test]
    fn rows_follow_each_other_without_gaps() {
        let batch = batch();
        assert_eq!((batch.first_sequence, batch.tokens(), batch.sequence_count()), (6, 10, 2));
        assert_eq!(batch.starts, [0, 4, 10]);
        assert_eq!(batch.input_ids, [4, 6, 9, 5, 4, 9, 5, 6, 9, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.segments, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(batch.sequences, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(batch.masked_rows, [1, 7, 8]);
        assert_eq!(batch.masked_ids, [8, 7, 9]);
        assert_eq!(batch.masked_sequences, [0, 1, 1]);
        assert_eq!(batch.masked_slots, [0, 0, 1]);
        const NONE: u32 = NO_SLOT;
        assert_eq!(batch.slot_of_row, [NONE, 0, NONE, NONE, NONE, NONE, NONE, 1, 2, NONE]);
    }

    #[test]
    fn word_lists_hold_every_row_once_in_order() {
        let batch = batch();
        let words = &batch.generator_words;
        assert_eq!(words.ids, [&[4, 5, 6, 9][..], &[NO_ID; 6]].concat());
        assert_eq!(words.starts, [0, 2, 5, 7, 10]);
        assert_eq!(words.rows, [0, 4, 3, 6, 9, 1, 7, 2, 5, 8]);
        let words = &batch.discriminator_words;
        assert_eq!(words.ids, [&[4, 5, 9][..], &[NO_ID; 7]].concat());
        assert_eq!(words.starts, [0, 2, 5, 7]);
        assert_eq!(words.rows, [0, 4, 3, 6, 9, 2, 5]);
    }

    /// Where all ids differ there is no room for an end mark, and none is needed.
    #[test]
    fn distinct_ids_need_no_end() {
        let batch = PackedBatch::pack(0, &[MaskedExample::new(vec![4, 9, 5], 3, vec![])]);
        assert_eq!(batch.generator_words.ids, [4, 5, 9]);
        assert_eq!(batch.generator_words.starts, [0, 1, 2, 3]);
        assert_eq!(batch.masked(), 0);
    }

    /// Packing the sequences apart or together lists the same rows for every id, up to where they start.
    #[test]
    fn lists_do_not_depend_on_the_split() {
        let examples = [
            MaskedExample::new(vec![4, 6, 9, 5], 4, vec![(1, 8)]),
            MaskedExample::new(vec![4, 9, 5, 6, 9, 5], 3, vec![(3, 7), (4, 9)]),
        ];
        let by_id = |words: &WordLists, offset: u32| -> Vec<(u32, u32)> {
            let ranges = words.starts.windows(2).zip(&words.ids);
            ranges
                .flat_map(|(ends, &id)| {
                    let rows = &words.rows[ends[0] as usize..ends[1] as usize];
                    rows.iter().map(move |&row| (id, row + offset)).collect::<Vec<_>>()
                })
                .collect()
        };
        let whole = by_id(&batch().discriminator_words, 0);
        let mut parts = by_id(&PackedBatch::pack(0, &examples[..1]).discriminator_words, 0);
        parts.extend(by_id(&PackedBatch::pack(1, &examples[1..]).discriminator_words, 4));
        parts.sort_unstable();
        assert_eq!(whole, parts);
    }
}
