//! Which positions the generator must guess (docs/spec.md §3.1–2).

use anyhow::{Result, ensure};

use crate::store::examples::Example;
use crate::tensor::draws::MASKING;
use crate::tensor::random::{Stream, derive};
use crate::tokenizer::SpecialIds;

use super::MaskedExample;

/// A chosen position is shown as `[MASK]` with this probability, else as it is.
const MASK_PROBABILITY: f64 = 0.85;

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

/// Masks examples; the same draws for the same key and sequence.
#[derive(Clone, Copy, Debug)]
pub struct Masker {
    special: SpecialIds,
    probability: f64,
    slots: usize,
}

impl Masker {
    /// Errors: sequences so short that no slot is left.
    pub fn new(special: SpecialIds, probability: f64, max_length: usize) -> Result<Self> {
        let slots = slots(probability, max_length);
        ensure!(
            slots > 0,
            "mask_probability is {probability}: at max_length {max_length} nothing would be masked; raise one of them"
        );
        Ok(Masker { special, probability, slots })
    }

    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// The most slots a sequence has.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Masks one example; `key` is the step's, `sequence` the example's number within the whole batch.
    ///
    /// Chosen without replacement from the tokens other than `[CLS]`, `[SEP]`, `[MASK]`; slots are in the
    /// order of the positions.
    pub fn mask(&self, example: &Example, key: [u32; 2], sequence: usize) -> MaskedExample {
        let mut draws = Stream::new(derive(key, MASKING, sequence as u32));
        let SpecialIds { cls, sep, mask, .. } = self.special;
        let mut ids = example.ids.clone();
        let mut positions: Vec<u32> = (0..ids.len() as u32)
            .filter(|&position| ![cls, sep, mask].contains(&ids[position as usize]))
            .collect();
        let count = chosen(self.probability, ids.len(), self.slots).min(positions.len());
        // The head of a Fisher–Yates shuffle: every set of positions is equally likely.
        for index in 0..count {
            let other = index + draws.below((positions.len() - index) as u32) as usize;
            positions.swap(index, other);
        }
        positions.truncate(count);
        positions.sort_unstable();
        let masked = positions
            .iter()
            .map(|&position| {
                let id = ids[position as usize];
                if draws.uniform() < MASK_PROBABILITY {
                    ids[position as usize] = mask;
                }
                (position, id)
            })
            .collect();
        MaskedExample::new(ids, example.first_segment, masked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: SpecialIds = SpecialIds { pad: 3, cls: 4, sep: 5, mask: 6 };

    fn example(length: usize) -> Example {
        let mut ids: Vec<u32> = (0..length as u32).map(|n| 100 + n).collect();
        (ids[0], ids[length / 2], ids[length - 1]) = (4, 5, 5);
        Example { ids, first_segment: length / 2 + 1 }
    }

    #[test]
    fn counts_are_the_references() {
        assert_eq!(slots(0.15, 512), 79);
        assert_eq!(slots(0.15, 128), 19);
        assert_eq!(slots(0.25, 512), 130);
        assert_eq!(chosen(0.15, 512, 79), 77);
        assert_eq!(chosen(0.25, 512, 130), 128);
        // Half to even: 0.25 · 10 = 2.5 and 0.25 · 14 = 3.5, both exact.
        assert_eq!((chosen(0.25, 10, 99), chosen(0.25, 14, 99)), (2, 4));
        // 0.15f32 · 10 rounds to exactly 1.5 in f32, and half goes to even.
        assert_eq!(chosen(0.15, 10, 99), 2);
        assert_eq!((chosen(0.15, 3, 19), chosen(0.9, 100, 19)), (1, 19));
    }

    #[test]
    fn chooses_as_many_as_it_should_and_no_symbol() {
        let masker = Masker::new(SPECIAL, 0.15, 128).unwrap();
        let (mut shown, mut all) = (0, 0);
        let mut hits = [0usize; 100];
        for sequence in 0..2000 {
            let example = example(100);
            let masked = masker.mask(&example, [1, 2], sequence);
            assert_eq!(masked.masked.len(), 15);
            assert!(masked.masked.is_sorted_by(|a, b| a.0 < b.0), "ascending, none twice");
            let mut restored = masked.input_ids.clone();
            for &(position, id) in &masked.masked {
                let position = position as usize;
                hits[position] += 1;
                assert!(masked.input_ids[position] == 6 || masked.input_ids[position] == id);
                shown += usize::from(masked.input_ids[position] == 6);
                all += 1;
                restored[position] = id;
            }
            assert_eq!(restored, example.ids);
            assert_eq!(masked.segments.iter().filter(|&&s| s == 0).count(), 51);
        }
        let share = shown as f64 / all as f64;
        assert!((share - 0.85).abs() < 0.01, "{share}");
        assert_eq!((hits[0], hits[50], hits[99]), (0, 0, 0));
        // 30,000 draws over 97 places: 309 each, σ about 16.
        let others = hits.iter().enumerate().filter(|(n, _)| ![0, 50, 99].contains(n));
        assert!(others.clone().all(|(_, &n)| (230..390).contains(&n)), "{hits:?}");
    }

    #[test]
    fn draws_depend_on_key_and_sequence_alone() {
        let masker = Masker::new(SPECIAL, 0.15, 128).unwrap();
        let first = masker.mask(&example(90), [1, 2], 3);
        assert_eq!(first, masker.mask(&example(90), [1, 2], 3));
        assert_ne!(first.masked, masker.mask(&example(90), [1, 2], 4).masked);
        assert_ne!(first.masked, masker.mask(&example(90), [2, 2], 3).masked);
    }

    #[test]
    fn without_candidates_nothing_is_masked() {
        let masker = Masker::new(SPECIAL, 0.15, 128).unwrap();
        let symbols = Example { ids: vec![4, 6, 5], first_segment: 3 };
        let masked = masker.mask(&symbols, [0, 0], 0);
        assert_eq!((masked.input_ids, masked.masked), (vec![4, 6, 5], vec![]));
        let one = Example { ids: vec![4, 70, 5], first_segment: 3 };
        assert_eq!(masker.mask(&one, [0, 0], 0).masked, [(1, 70)]);
        assert!(Masker::new(SPECIAL, 0.15, 6).is_err());
    }
}
