//! Properties of cutting: nothing lost, nothing doubled, lengths within limits, draws that repeat.

use super::*;
use crate::store::tests::{Scratch, marked_store, random_store};

const LENGTHS: [usize; 6] = [5, 6, 8, 31, 128, 512];

fn in_order(index: &EpochIndex) -> Vec<Entry> {
    let mut entries = index.entries.clone();
    entries.sort_by_key(Entry::start);
    entries
}

#[test]
fn every_token_stands_in_one_example_of_its_document() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 300, 7);
    let (line_ends, document_ends) = (store.line_ends().unwrap(), store.document_ends().unwrap());
    for max_length in LENGTHS {
        for epoch in 0..3 {
            let entries = in_order(&EpochIndex::build(&store, 5, epoch, max_length).unwrap());
            let mut next = 0;
            for entry in &entries {
                assert_eq!(entry.start(), next, "length {max_length}: a gap or an overlap");
                next += entry.pieces();
                let (first, second) = (entry.first as usize, entry.second as usize);
                assert!(first >= 1 && first <= max_length - 2);
                assert!(second == 0 || first + second + 3 <= max_length);
                // A ends with a line, unless it was cut because it is too long.
                let boundary = line_ends.binary_search(&(entry.start() + first as u64)).is_ok();
                assert!(boundary || first == max_length - 2);
            }
            assert_eq!(next, store.tokens());
            for &lines in &document_ends {
                let end = line_ends[lines as usize - 1];
                let crossing = entries.iter().any(|e| e.start() < end && e.start() + e.pieces() > end);
                assert!(!crossing, "an example reaches over the end of a document");
            }
        }
    }
}

/// docs/spec.md §4 word for word, on lists of lines, with the draws of `Cutter`.
fn by_the_book(cutter: &Cutter, document: u64, lines: &[Vec<u64>]) -> Vec<(Vec<u64>, Vec<u64>)> {
    let mut waiting: std::collections::VecDeque<Vec<u64>> = lines.to_vec().into();
    let max = cutter.max_length;
    let mut target = if document == 0 { max } else { cutter.target_after(document - 1, LAST_EXAMPLE) };
    let mut examples = Vec::new();
    while !waiting.is_empty() {
        let mut gathered: Vec<Vec<u64>> = Vec::new();
        while gathered.iter().map(Vec::len).sum::<usize>() < target {
            let Some(line) = waiting.pop_front() else {
                break;
            };
            gathered.push(line);
        }
        let number = examples.len() as u32;
        let mut draws = Stream::new(cutter.draw_key(EXAMPLE_CUT, document, number));
        let unlimited = draws.uniform() < 0.1;
        let limit = if unlimited { usize::MAX } else { (target - 3) / 2 };
        let (mut a, mut b): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut a_lines = Vec::new();
        for line in &gathered {
            if b.is_empty()
                && (a.is_empty() || a.len() + line.len() < limit || a.len() < limit && draws.uniform() < 0.5)
            {
                a.extend(line);
            } else {
                b.extend(line);
            }
            a_lines.push(line.len());
        }
        a.truncate(max - 2);
        b.truncate(max.saturating_sub(a.len() + 3));
        let mut kept = a.len() + b.len();
        let mut carried = Vec::new();
        for mut line in gathered {
            let cut = kept.min(line.len());
            kept -= cut;
            line.drain(..cut);
            if !line.is_empty() {
                carried.push(line);
            }
        }
        carried.into_iter().rev().for_each(|line| waiting.push_front(line));
        examples.push((a, b));
        target = cutter.target_after(document, number);
    }
    examples
}

#[test]
fn cutting_is_what_the_specification_says() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 200, 11);
    for max_length in LENGTHS {
        let cutter = Cutter::new(&store, 3, 1, max_length);
        for document in 0..store.documents() {
            let Boundaries { start, line_ends, .. } = store.boundaries(document..document + 1).unwrap();
            let starts = std::iter::once(start).chain(line_ends.iter().copied());
            let lines: Vec<Vec<u64>> =
                starts.zip(&line_ends).map(|(start, &end)| (start..end).collect()).collect();
            let mut cut = Vec::new();
            cutter.cut_document(document, start, &line_ends, &mut |entry| {
                let middle = entry.start() + u64::from(entry.first);
                let end = entry.start() + entry.pieces();
                cut.push(((entry.start()..middle).collect(), (middle..end).collect()));
            });
            assert_eq!(cut, by_the_book(&cutter, document, &lines), "document {document}");
        }
    }
}

#[test]
fn an_index_does_not_depend_on_the_threads() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 2000, 3);
    let build = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| EpochIndex::build(&store, 9, 4, 64).unwrap())
    };
    let one = build(1);
    assert_eq!(one.entries, build(3).entries);
    assert_eq!(one.len() as u64, EpochIndex::count(&store, 9, 4, 64).unwrap());
    assert_ne!(one.entries, EpochIndex::build(&store, 9, 5, 64).unwrap().entries);
    assert_ne!(one.entries, EpochIndex::build(&store, 10, 4, 64).unwrap().entries);
    assert_ne!(one.entries, in_order(&one), "not shuffled");
}

#[test]
fn draws_have_their_probabilities() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 10, 3);
    let cutter = Cutter::new(&store, 1, 0, 512);
    let targets: Vec<usize> = (0..40_000).map(|n| cutter.target_after(n / 8, (n % 8) as u32)).collect();
    let short: Vec<usize> = targets.into_iter().filter(|&target| target != 512).collect();
    let share = short.len() as f64 / 40_000.0;
    assert!((share - 0.05).abs() < 0.005, "{share}");
    let mean = short.iter().sum::<usize>() as f64 / short.len() as f64;
    assert!((mean - 258.0).abs() < 12.0, "{mean}");
    assert!(short.iter().all(|target| (5..512).contains(target)));
}

#[test]
fn examples_are_framed_by_the_special_symbols() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 100, 5);
    let special = store.special_ids();
    let index = EpochIndex::build(&store, 1, 0, 40).unwrap();
    let mut all = Vec::new();
    for n in 0..index.len() {
        let Example { ids, first_segment, .. } = index.example(&store, n).unwrap();
        assert!(ids.len() <= 40 && ids[0] == special.cls && ids[ids.len() - 1] == special.sep);
        assert_eq!(ids[first_segment - 1], special.sep);
        assert_ne!(first_segment + 1, ids.len(), "an empty second segment");
        all.extend(ids.into_iter().filter(|&id| id != special.cls && id != special.sep));
    }
    let mut stored = store.read_tokens(0..store.tokens()).unwrap();
    all.sort_unstable();
    stored.sort_unstable();
    assert_eq!(all, stored);
    assert!(index.with_second_segment() > 0);
}

#[test]
fn a_stream_finds_any_example_from_its_number() {
    let scratch = Scratch::new();
    let store = Arc::new(random_store(&scratch, 20, 2));
    let mut stream = ExampleStream::new(store.clone(), 7, 64).unwrap();
    let total = stream.starts[1] * 4;
    let walked: Vec<(Example, u64)> =
        (0..total).map(|n| (stream.example(n).unwrap(), stream.epoch())).collect();
    assert!(walked.last().unwrap().1 >= 3);
    for n in [total - 1, 0, total / 2, 3, total / 3] {
        let mut fresh = ExampleStream::new(store.clone(), 7, 64).unwrap();
        assert_eq!((fresh.example(n).unwrap(), fresh.epoch()), walked[n as usize]);
        assert_eq!((stream.example(n).unwrap(), stream.epoch()), walked[n as usize]);
    }
    assert!(ExampleStream::new(store.clone(), 7, 4).is_err());
    assert!(ExampleStream::new(store, 7, 1 << 16).is_err());
}

/// The marks of an example are those of its tokens in the store; symbols and what follows them begin words.
#[test]
fn examples_tell_where_their_words_begin() {
    let scratch = Scratch::new();
    let store = Arc::new(marked_store(&scratch, 60, 5));
    let marks = store.read_word_starts(0..store.tokens()).unwrap();
    let index = EpochIndex::build(&store, 7, 0, 40).unwrap();
    let mut cut = 0;
    for n in 0..index.len() {
        let (example, entry) = (index.marked_example(&store, n).unwrap(), index.entries[n]);
        let words = example.words.clone().unwrap();
        assert_eq!(Example { words: None, ..example }, index.example(&store, n).unwrap());
        let (start, first, second) =
            (entry.start() as usize, usize::from(entry.first), usize::from(entry.second));
        let mut expected = vec![true];
        expected.extend(&marks[start..start + first]);
        expected.push(true);
        if second > 0 {
            expected.extend(&marks[start + first..start + first + second]);
            expected.push(true);
        }
        cut += usize::from(!expected[1]);
        expected[1] = true;
        assert_eq!(words, expected);
    }
    assert!(cut > 0, "no example begins within a word");
    let mut stream = ExampleStream::new(store.clone(), 7, 40).unwrap();
    assert_eq!(stream.example(3).unwrap().words, None);
    stream.mark_words();
    assert_eq!(stream.example(3).unwrap(), index.marked_example(&store, 3).unwrap());
    let mut plain = ExampleStream::new(Arc::new(random_store(&scratch, 60, 5)), 7, 40).unwrap();
    plain.mark_words();
    assert_eq!(plain.example(3).unwrap().words, None);
}
