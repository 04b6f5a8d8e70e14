//! Marks of where words begin, written, read and damaged.

use super::*;
use crate::store::verify::info;

/// Marks of words are one more section, under checksums as all are; a store without them has not a byte of it.
#[test]
fn marks_of_words_are_kept_and_checked() {
    let scratch = Scratch::new();
    let plain = std::fs::read(random_store(&scratch, 9, 4).path()).unwrap();
    let store = marked_store(&scratch, 9, 4);
    let section = store.header().words;
    assert_eq!((section.length, section.offset % 64), (store.tokens().div_ceil(8), 0));
    assert_eq!((store.words(), Store::open(store.path()).unwrap().words()), (Words::Pieces, Words::Pieces));
    let marks = store.read_word_starts(0..store.tokens()).unwrap();
    for range in [0..1, 7..8, 5..29, 1000..1003, store.tokens() - 1..store.tokens()] {
        let part = marks[range.start as usize..range.end as usize].to_vec();
        assert_eq!(store.read_word_starts(range).unwrap(), part);
    }
    let shown = info(&verify(store.path()).unwrap()).unwrap();
    assert_eq!(shown["words"]["marked_by"], "pieces");
    assert_eq!(shown["words"]["words"], marks.iter().filter(|&&mark| mark).count());
    let marked = std::fs::read(store.path()).unwrap();

    // Without marks: nothing in the header, and the same sections one after another.
    assert!(plain[212..508].iter().all(|&byte| byte == 0));
    let sections = [TOKENS, LINE_ENDS].map(|index| store.header().sections[index]);
    for section in sections {
        let range = section.offset as usize..(section.offset + section.length) as usize;
        assert_eq!(plain[range.clone()], marked[range]);
    }
    assert_eq!(marked.len() - plain.len(), section.length.next_multiple_of(64) as usize);

    // Any flipped byte of the section, and a file without marks that is asked for them.
    let path = scratch.path("damaged.store");
    for place in [section.offset, section.offset + section.length / 2, section.offset + section.length - 1] {
        let mut bytes = marked.clone();
        bytes[place as usize] ^= 16;
        std::fs::write(&path, bytes).unwrap();
        let store = Store::open(&path);
        let read = failure(store.and_then(|store| store.read_word_starts(0..9)));
        assert!(read.contains("damaged between bytes") && read.contains("words"), "{read}");
        assert!(failure(verify(&path)).contains("words"));
    }
    std::fs::write(&path, &plain).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.words(), Words::None);
    assert!(failure(store.read_word_starts(0..9)).contains("prepare --words script"));
    assert_eq!(info(&store).unwrap()["words"]["marked_by"], "none");
}

/// What no `prepare` writes, under checksums that are right.
#[test]
fn marks_that_were_written_wrong_are_refused() {
    let scratch = Scratch::new();
    let path = scratch.path("wrong.store");
    let write = |starts: &[bool]| {
        let mut writer = StoreWriter::create(&path, &scratch.tokenizer, Lines::Sentence)?;
        writer.mark_words(Words::Script)?;
        writer.push_marked(&[10, 11, 12], &[2, 1], starts)?;
        writer.finish()
    };
    write(&[true, false, true]).unwrap();
    verify(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    write(&[true, false, false]).unwrap();
    assert!(failure(verify(&path)).contains("line 1 (from 0) begins within a word"));
    assert!(failure(write(&[true])).contains("not marked"));
    // A header that says there are marks of more or fewer tokens, or elsewhere.
    let whole = bytes.clone();
    for (place, words) in
        [(216, "out of place"), (224, "section of words has"), (212, "section of words has")]
    {
        bytes.copy_from_slice(&whole);
        bytes[place] = if place == 212 { 0 } else { 77 };
        fit_checksums(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let error = failure(Store::open(&path));
        assert!(error.contains(words), "{place}: {error}");
    }
}
