//! Texts and pairs as the ids that a model reads.

use anyhow::{Result, bail, ensure};

use crate::tokenizer::SpecialIds;

/// One sequence: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    pub ids: Vec<u32>,
    /// How many ids, from the first, are of segment 0: up to and including the first `[SEP]`.
    pub first_segment: usize,
    /// How many ids of the texts had no room.
    pub cut: usize,
}

impl Input {
    /// Segment ids, one for each id.
    pub fn segments(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.ids.len()).map(|position| u32::from(position >= self.first_segment))
    }
}

impl Input {
    /// Refuses what a model of so many positions and pieces cannot read.
    pub fn check(&self, most: usize, pieces: usize) -> Result<()> {
        let length = self.ids.len();
        ensure!(length > 0, "input_ids is empty");
        ensure!(length <= most, "input_ids has {length} ids; the model reads {most} at most");
        let outside = self.ids.iter().position(|&id| id as usize >= pieces);
        if let Some(place) = outside {
            bail!("input_ids[{place}] is {}; the vocabulary has {pieces} pieces", self.ids[place])
        }
        Ok(())
    }

    /// Ids with the segment of each: 0 up to some place, 1 from there.
    pub fn of_ids(ids: Vec<u32>, segments: &[u32]) -> Result<Self> {
        let (length, given) = (ids.len(), segments.len());
        ensure!(given == length, "token_type_ids has {given} elements, input_ids {length}");
        let first_segment = segments.iter().take_while(|&&segment| segment == 0).count();
        ensure!(
            segments[first_segment..].iter().all(|&segment| segment == 1),
            "token_type_ids must be zeros, then ones"
        );
        Ok(Input { ids, first_segment, cut: 0 })
    }
}

/// `[CLS] text [SEP]` of at most `max_length` ids (at least 2, which leave room for no text).
pub fn single(text: &[u32], max_length: usize, specials: SpecialIds) -> Input {
    let kept = text.len().min(max_length.saturating_sub(2));
    let mut ids = Vec::with_capacity(kept + 2);
    ids.push(specials.cls);
    ids.extend_from_slice(&text[..kept]);
    ids.push(specials.sep);
    Input { first_segment: ids.len(), ids, cut: text.len() - kept }
}

/// `[CLS] first [SEP] second [SEP]` of at most `max_length` ids (at least 3). What is too long loses ids from
/// the end of the longer text, one at a time; of the second where both are as long (as the reference does).
pub fn pair(first: &[u32], second: &[u32], max_length: usize, specials: SpecialIds) -> Input {
    let room = max_length.saturating_sub(3);
    let (a, b) = cut_longer(first.len(), second.len(), room);
    let mut ids = Vec::with_capacity(a + b + 3);
    ids.push(specials.cls);
    ids.extend_from_slice(&first[..a]);
    ids.push(specials.sep);
    let first_segment = ids.len();
    ids.extend_from_slice(&second[..b]);
    ids.push(specials.sep);
    Input { ids, first_segment, cut: first.len() - a + second.len() - b }
}

/// The lengths that are left of two texts.
fn cut_longer(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let half = room / 2;
    if second <= half {
        (room - second, second)
    } else if first <= room - half {
        (first, room - first)
    } else {
        (room - half, half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIALS: SpecialIds = SpecialIds { pad: 3, cls: 4, sep: 5, mask: 6 };

    #[test]
    fn texts_and_pairs_are_framed() {
        let input = single(&[10, 11, 12], 4, SPECIALS);
        assert_eq!(input, Input { ids: vec![4, 10, 11, 5], first_segment: 4, cut: 1 });
        let input = pair(&[10, 11], &[20], 9, SPECIALS);
        assert_eq!(input, Input { ids: vec![4, 10, 11, 5, 20, 5], first_segment: 4, cut: 0 });
        assert_eq!(input.segments().collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1]);
        assert_eq!(pair(&[], &[], 3, SPECIALS).ids, [4, 5, 5]);
    }

    #[test]
    fn the_longer_side_is_cut_as_the_reference_does() {
        for (first, second, room) in
            (0..9).flat_map(|a| (0..9).flat_map(move |b| (0..9).map(move |r| (a, b, r))))
        {
            let (mut a, mut b) = (first, second);
            while a + b > room {
                if a > b { a -= 1 } else { b -= 1 }
            }
            assert_eq!(cut_longer(first, second, room), (a, b), "{first} {second} {room}");
        }
    }
}
