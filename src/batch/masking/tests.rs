//! Counts, distributions, and that draws repeat.

use super::*;

const SPECIAL: SpecialIds = SpecialIds { pad: 3, cls: 4, sep: 5, mask: 6 };

fn example(length: usize) -> Example {
    let mut ids: Vec<u32> = (0..length as u32).map(|n| 100 + n).collect();
    (ids[0], ids[length / 2], ids[length - 1]) = (4, 5, 5);
    Example { ids, first_segment: length / 2 + 1, words: None }
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
    let symbols = Example { ids: vec![4, 6, 5], first_segment: 3, words: None };
    let masked = masker.mask(&symbols, [0, 0], 0);
    assert_eq!((masked.input_ids, masked.masked), (vec![4, 6, 5], vec![]));
    let one = Example { ids: vec![4, 70, 5], first_segment: 3, words: None };
    assert_eq!(masker.mask(&one, [0, 0], 0).masked, [(1, 70)]);
    assert!(Masker::new(SPECIAL, 0.15, 6).is_err());
}

/// The draws of single tokens as they were before there was anything else.
#[test]
fn single_tokens_are_drawn_as_they_always_were() {
    let masker = Masker::new(SPECIAL, 0.15, 128).unwrap();
    for sequence in 0..50 {
        let example = example(20 + sequence);
        let mut draws = Stream::new(derive([7, 9], MASKING, sequence as u32));
        let mut ids = example.ids.clone();
        let mut positions: Vec<u32> =
            (0..ids.len() as u32).filter(|&at| ![4, 5, 6].contains(&ids[at as usize])).collect();
        let count = chosen(0.15, ids.len(), 19).min(positions.len());
        for index in 0..count {
            let other = index + draws.below((positions.len() - index) as u32) as usize;
            positions.swap(index, other);
        }
        positions.truncate(count);
        positions.sort_unstable();
        let mut masked = Vec::new();
        for position in positions {
            masked.push((position, ids[position as usize]));
            if draws.uniform() < 0.85 {
                ids[position as usize] = 6;
            }
        }
        assert_eq!(
            masker.mask(&example, [7, 9], sequence),
            MaskedExample::new(ids, example.first_segment, masked)
        );
    }
}

/// An example of words of these lengths, over and over, in each of its segments.
fn in_words(length: usize, lengths: &[usize]) -> Example {
    let example = example(length);
    let again = || lengths.iter().cycle().flat_map(|&n| std::iter::once(true).chain(vec![false; n - 1]));
    let mut starts = again();
    let mut words = vec![true; length];
    for (position, word) in words.iter_mut().enumerate().take(length - 1).skip(1) {
        match position == length / 2 {
            true => starts = again(),
            false => *word = starts.next().unwrap(),
        }
    }
    Example { words: Some(words), ..example }
}

fn words_of(example: &Example) -> Vec<Range<u32>> {
    let ordinary: Vec<u32> =
        (0..example.ids.len() as u32).filter(|&at| example.ids[at as usize] > 6).collect();
    pieces_of_words(&ordinary, example)
}

#[test]
fn words_are_masked_whole() {
    let masker = Masker::new(SPECIAL, 0.15, 128).unwrap().with_masking(Masking::Word);
    let example = in_words(100, &[1, 3, 2, 5, 1, 2]);
    let words = words_of(&example);
    assert_eq!(words.iter().map(Range::len).sum::<usize>(), 97);
    assert!(words.iter().any(|word| word.end == 50) && words.iter().any(|word| word.start == 51));
    let (mut shown, mut all, mut counts) = (0, 0, vec![0usize; words.len()]);
    for sequence in 0..4000 {
        let masked = masker.mask(&example, [1, 2], sequence);
        assert_eq!(masked, masker.mask(&example, [1, 2], sequence));
        assert!(masked.masked.is_sorted_by(|a, b| a.0 < b.0));
        let positions: Vec<u32> = masked.masked.iter().map(|&(position, _)| position).collect();
        // There is always a word of one token left: the number is that of single tokens.
        assert_eq!(positions.len(), 15);
        for (word, count) in words.iter().zip(&mut counts) {
            let inside = positions.iter().filter(|position| word.contains(position)).count();
            assert!(inside == 0 || inside == word.len(), "{word:?} in {positions:?}");
            *count += usize::from(inside > 0);
        }
        for &(position, id) in &masked.masked {
            let at = masked.input_ids[position as usize];
            assert!(at == 6 || at == id);
            (shown, all) = (shown + usize::from(at == 6), all + 1);
        }
    }
    assert!((shown as f64 / all as f64 - 0.85).abs() < 0.01);
    // Long words are masked less often than short ones, as what does not fit is passed over: 0.202 and 0.126 by 20,000
    // draws of another program.
    let of_length = |length: usize| {
        let of: Vec<usize> =
            words.iter().zip(&counts).filter(|(w, _)| w.len() == length).map(|(_, &n)| n).collect();
        of.iter().sum::<usize>() as f64 / of.len() as f64 / 4000.0
    };
    assert!((0.19..0.21).contains(&of_length(1)), "{}", of_length(1));
    assert!((0.115..0.135).contains(&of_length(5)), "{}", of_length(5));
    // Tokens of a word are shown or hidden each on its own.
    let mixed = (0..200).any(|sequence| {
        let masked = masker.mask(&example, [3, 4], sequence);
        words.iter().filter(|word| word.len() == 5).any(|word| {
            let hidden = word.clone().filter(|&at| masked.input_ids[at as usize] == 6).count();
            hidden > 0 && hidden < 5 && masked.masked.iter().any(|&(at, _)| at == word.start)
        })
    });
    assert!(mixed);
}

#[test]
fn what_does_not_fit_is_passed_over() {
    let masker = Masker::new(SPECIAL, 0.15, 128).unwrap();
    // 15 tokens of words of four: three words, and no fourth.
    for (masking, lengths, count) in [
        (Masking::Word, &[4][..], 12),
        (Masking::Span, &[4], 12),
        // No word fits: the beginning of one.
        (Masking::Word, &[60], 15),
        (Masking::Span, &[60], 15),
        // Words of one token are tokens.
        (Masking::Word, &[1], 15),
        (Masking::Span, &[1], 15),
    ] {
        for sequence in 0..200 {
            let masked = masker.with_masking(masking).mask(&in_words(99, lengths), [1, 2], sequence).masked;
            assert_eq!(masked.len(), count, "{masking:?} {lengths:?}");
            let first = masked[0].0;
            assert!(count < 15 || lengths == [1] || masked.iter().map(|m| m.0).eq(first..first + 15));
        }
        let nothing = Example { ids: vec![4, 6, 5], first_segment: 3, words: None };
        assert_eq!(masker.with_masking(masking).mask(&nothing, [0, 0], 0).masked, []);
    }
}

#[test]
fn spans_have_geometric_lengths() {
    let mut draws = Stream::new([5, 5]);
    let mut counts = [0usize; LONGEST_SPAN + 1];
    (0..100_000).for_each(|_| counts[span_length(&mut draws)] += 1);
    let all = 1.0 - 0.8f64.powi(10);
    for (length, &count) in counts.iter().enumerate().skip(1) {
        let expected = 0.2 * 0.8f64.powi(length as i32 - 1) / all * 1e5;
        assert!((count as f64 - expected).abs() < 5.0 * expected.sqrt(), "{length}: {count}, not {expected}");
    }
    let mean = counts.iter().enumerate().map(|(length, &count)| length * count).sum::<usize>() as f64 / 1e5;
    assert!((mean - 3.797).abs() < 0.04, "{mean}");
}

#[test]
fn spans_are_whole_words_that_are_shown_or_hidden_together() {
    let masker = Masker::new(SPECIAL, 0.15, 512).unwrap().with_masking(Masking::Span);
    let example = in_words(512, &[1, 2, 1, 3]);
    let words = words_of(&example);
    let (mut runs, mut tokens, mut hidden, mut units) = (0usize, 0usize, 0usize, 0usize);
    for sequence in 0..400 {
        let masked = masker.mask(&example, [1, 2], sequence);
        assert_eq!(masked, masker.mask(&example, [1, 2], sequence));
        let positions: Vec<u32> = masked.masked.iter().map(|&(position, _)| position).collect();
        assert_eq!(positions.len(), 77);
        assert!(positions.is_sorted_by(|a, b| a < b) && !positions.contains(&256));
        for word in &words {
            let inside = positions.iter().filter(|position| word.contains(position)).count();
            assert!(inside == 0 || inside == word.len());
            let masks = word.clone().filter(|&at| masked.input_ids[at as usize] == 6).count();
            assert!(masks == 0 || masks == word.len(), "a word that is hidden in part");
            (hidden, units) = (hidden + usize::from(masks > 0), units + usize::from(inside > 0));
        }
        runs += positions.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() + 1;
        tokens += positions.len();
    }
    assert!((hidden as f64 / units as f64 - 0.85).abs() < 0.02, "{hidden} of {units}");
    // Spans of 3.8 words of 1.75 tokens, of which some are cut and some touch.
    let mean = tokens as f64 / runs as f64;
    assert!((5.0..8.0).contains(&mean), "{mean}");
}

#[test]
fn the_share_goes_in_a_straight_line() {
    let share = Share { first: 0.3, last: 0.1, steps: 100 };
    assert_eq!((share.at(0), share.at(100), share.at(200)), (0.3, 0.1, 0.1));
    assert!((share.at(50) - 0.2).abs() < 1e-12);
    let constant = Share { first: 0.15, last: 0.15, steps: 7 };
    assert!((0..9).all(|step| constant.at(step) == 0.15));
    let masker = Masker::new(SPECIAL, 0.3, 128).unwrap();
    assert_eq!((masker.slots(), masker.with_share(0.1).slots()), (39, 13));
    assert_eq!(masker.with_share(share.at(50)).mask(&example(100), [1, 2], 0).masked.len(), 20);
}
