//! Stores written, opened, damaged and prepared from text.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::examples::EpochIndex;
use super::format::{LINE_ENDS, SECTION_NAMES, TOKENIZER, TOKENS};
use super::prepare::{Options, prepare};
use super::verify::verify;
use super::writer::StoreWriter;
use super::{Lines, Store, Words};
use crate::corpus::input::Documents;
use crate::fuzzing::fit_checksums;
use crate::tensor::random::Stream;
use crate::tokenizer::{Tokenizer, train};

mod marks;
mod together;

/// A directory with a small tokenizer, removed at the end of the test.
pub struct Scratch {
    directory: tempfile::TempDir,
    pub tokenizer: Tokenizer,
}

impl Scratch {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = train::Options {
            vocab_size: 60,
            seed: 1,
            character_coverage: 1.0,
            max_sentences: 0,
            lower: true,
        };
        let text = "山川草木花鳥風月春夏秋冬東西南北";
        let characters: Vec<char> = text.chars().collect();
        let sentences = (0..500).map(|n| (0..9).map(|k| characters[(n * k + n / 16) % 16]).collect());
        let summary = train::train(sentences, options, &directory.path().join("small")).unwrap();
        let tokenizer = Tokenizer::open(&summary.model, true).unwrap();
        Scratch { directory, tokenizer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A store of random tokens in lines of very different lengths, some longer than any example.
pub fn random_store(scratch: &Scratch, documents: usize, seed: u32) -> Store {
    random_store_of(scratch, documents, seed, Words::None)
}

/// The same store with words of random lengths, two tokens in the mean.
pub fn marked_store(scratch: &Scratch, documents: usize, seed: u32) -> Store {
    random_store_of(scratch, documents, seed, Words::Pieces)
}

fn random_store_of(scratch: &Scratch, documents: usize, seed: u32, words: Words) -> Store {
    let path = scratch.path("random.store");
    let mut writer = StoreWriter::create(&path, &scratch.tokenizer, Lines::Sentence).unwrap();
    writer.mark_words(words).unwrap();
    let mut marks = Stream::new([seed, 2]);
    let mut draws = Stream::new([seed, 1]);
    for _ in 0..documents {
        let lines = 1 + draws.below(12);
        let lengths: Vec<u32> = (0..lines)
            .map(|_| match draws.below(10) {
                0 => 1 + draws.below(900),
                1..=3 => 1 + draws.below(4),
                _ => 1 + draws.below(60),
            })
            .collect();
        let tokens: Vec<u32> = (0..lengths.iter().sum()).map(|_| 7 + draws.below(53)).collect();
        let mut starts: Vec<bool> = tokens.iter().map(|_| marks.below(2) == 0).collect();
        let mut begin = 0;
        for &length in &lengths {
            starts[begin] = true;
            begin += length as usize;
        }
        writer.push_marked(&tokens, &lengths, &starts).unwrap();
    }
    writer.finish().unwrap();
    Store::open(&path).unwrap()
}

fn failure<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("should be refused"))
}

#[test]
fn a_store_gives_back_what_was_written() {
    let scratch = Scratch::new();
    let path = scratch.path("x.store");
    let mut writer = StoreWriter::create(&path, &scratch.tokenizer, Lines::Paragraph).unwrap();
    writer.push_document(&[10, 11, 0], &[2, 0, 1]).unwrap();
    writer.push_document(&[], &[0]).unwrap();
    writer.push_document(&[12], &[1]).unwrap();
    writer.finish().unwrap();
    let store = verify(&path).unwrap();
    assert_eq!((store.documents(), store.lines(), store.tokens(), store.unknown()), (2, 3, 4, 1));
    assert_eq!(store.line_ends().unwrap(), [2, 3, 4]);
    assert_eq!(store.document_ends().unwrap(), [2, 3]);
    assert_eq!(store.read_tokens(1..4).unwrap(), [11, 0, 12]);
    assert_eq!(store.tokenizer_model(), scratch.tokenizer.model());
    assert_eq!(store.tokenizer_hash(), scratch.tokenizer.hash());
    assert_eq!(store.special_ids(), scratch.tokenizer.special_ids().unwrap());
    assert_eq!((store.vocab_size(), store.lower(), store.lines_mode()), (60, true, Lines::Paragraph));
    assert!((store.unigram_entropy().unwrap() - 4f64.ln()).abs() < 1e-12);
    let info = super::verify::info(&store).unwrap();
    assert_eq!(info["tokens"], 4);
    assert_eq!(info["examples"][0]["tokens_used"], 1.0);
}

#[test]
fn any_flipped_byte_is_found_and_any_cut() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 4, 4);
    let whole = std::fs::read(store.path()).unwrap();
    let path = scratch.path("damaged.store");
    std::fs::write(&path, &whole).unwrap();
    let model = store.header().sections[TOKENIZER];
    let model = model.offset as usize + 64..(model.offset + model.length) as usize - 64;
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut put = |place: usize, byte: u8| {
        file.seek(SeekFrom::Start(place as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    // Every byte of the header, the tokens, the ends, the zeros between them and the checksums; of the tokenizer's
    // model, which is most of so small a store, one in 211.
    for place in (0..whole.len()).filter(|place| !model.contains(place) || place % 211 == 0) {
        put(place, whole[place] ^ 1 << (place % 8));
        let message = failure(verify(&path));
        assert!(message.contains("damaged.store"), "byte {place}: {message}");
        let _ = Store::open(&path);
        put(place, whole[place]);
    }
    verify(&path).unwrap();
    for length in [0, 1, 8, 511, 512, 600, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(failure(Store::open(&path)).contains("damaged.store"));
    }
    std::fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(failure(Store::open(&path)).contains("bytes long"));
    std::fs::write(&path, vec![b'a'; 4096]).unwrap();
    assert!(failure(Store::open(&path)).contains("not a token store"));
    assert!(failure(Store::open(Path::new("/nowhere"))).contains("/nowhere"));
}

/// A store of several chunks: damage is found by whoever first reads something of its chunk, and by nobody before.
#[test]
fn damage_is_found_where_it_is_read() {
    let scratch = Scratch::new();
    let path = scratch.path("large.store");
    let mut writer = StoreWriter::create(&path, &scratch.tokenizer, Lines::Sentence).unwrap();
    for document in 0..3000u32 {
        let lengths: Vec<u32> = (0..90).map(|line| 1 + (document + line) % 9).collect();
        let tokens: Vec<u32> = (0..lengths.iter().sum()).map(|n| 7 + (n + document) % 53).collect();
        writer.push_document(&tokens, &lengths).unwrap();
    }
    writer.finish().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let sections = verify(&path).unwrap().header().sections;
    let read = |place: u64| {
        let mut bytes = whole.clone();
        bytes[place as usize] ^= 8;
        std::fs::write(&path, bytes).unwrap();
        let store = Store::open(&path)?;
        let index = EpochIndex::build(&store, 0, 0, 128)?;
        (0..index.len()).try_for_each(|n| index.example(&store, n).map(|_| ()))
    };
    for (section, opened) in [(TOKENS, true), (LINE_ENDS, true), (TOKENIZER, false)] {
        let place = sections[section].offset + sections[section].length / 2;
        let message = failure(read(place));
        let [start, end] = ["between bytes ", " and "].map(|word| {
            let rest = message.split(word).nth(1).unwrap();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
        });
        assert!((start..end).contains(&place) && message.contains(SECTION_NAMES[section]), "{message}");
        assert!(message.contains("`inazuma store verify"), "{message}");
        assert_eq!(Store::open(&path).is_ok(), opened, "{message}");
    }
}

/// What was read once is compared again whenever it is read: the file may be changed, cut, or not be what was opened.
#[test]
fn a_store_that_changes_is_found_out() {
    let scratch = Scratch::new();
    let store = random_store(&scratch, 20, 4);
    let tokens = store.read_tokens(0..store.tokens()).unwrap();
    let whole = std::fs::read(store.path()).unwrap();
    let place = store.header().sections[TOKENS].offset as usize;
    let mut file = std::fs::OpenOptions::new().write(true).open(store.path()).unwrap();
    let mut put = |place: usize, bytes: &[u8]| {
        file.seek(SeekFrom::Start(place as u64)).unwrap();
        file.write_all(bytes).unwrap();
    };
    put(place, &[0xff]);
    assert!(
        failure(store.read_tokens(0..9))
            .contains("changed while it was in use, between bytes 512 and 4608 (tokens")
    );
    put(place, &whole[place..place + 1]);
    assert_eq!(store.read_tokens(0..9).unwrap(), tokens[..9]);
    put(store.header().sections[LINE_ENDS].offset as usize, &[0xff]);
    assert!(failure(EpochIndex::build(&store, 0, 0, 64).map(|_| ())).contains("changed while it was in use"));
    std::fs::OpenOptions::new().write(true).open(store.path()).unwrap().set_len(700).unwrap();
    assert!(failure(store.read_tokens(200..300)).contains("random.store: cut short while it was in use"));
}

/// Ids and boundaries that no `prepare` writes, under checksums that are right.
#[test]
fn what_was_written_wrong_is_named_with_its_place() {
    let scratch = Scratch::new();
    let path = scratch.path("wrong.store");
    let mut writer = StoreWriter::create(&path, &scratch.tokenizer, Lines::Sentence).unwrap();
    writer.push_document(&[10, 11, 12], &[2, 1]).unwrap();
    writer.push_document(&[13, 60, 14], &[3]).unwrap();
    writer.finish().unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.read_tokens(0..4).unwrap(), [10, 11, 12, 13]);
    let message = failure(store.read_tokens(0..6));
    assert!(message.contains("token 4, number 1 of document 1") && message.contains("is 60"), "{message}");
    assert!(message.contains("60 pieces"), "{message}");
    let message = failure(verify(&path));
    assert!(message.contains("inconsistent") && message.contains("is 60"), "{message}");

    let mut bytes = std::fs::read(&path).unwrap();
    let ends = store.header().sections[LINE_ENDS].offset as usize;
    bytes[ends] = 7;
    fit_checksums(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let store = Store::open(&path).unwrap();
    let message = failure(EpochIndex::build(&store, 0, 0, 64).map(|_| ()));
    assert!(message.contains("wrong line ends: number 0 of 3 ends at 7"), "{message}");
}

/// Headers made to harm, with a checksum that fits: refused, never a panic.
#[test]
fn forged_headers_are_refused() {
    let scratch = Scratch::new();
    let whole = std::fs::read(random_store(&scratch, 5, 4).path()).unwrap();
    let path = scratch.path("forged.store");
    let mut draws = Stream::new([3, 3]);
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        let place = 8 + draws.below(224) as usize;
        bytes[place] = draws.next_u32() as u8;
        let crc = crc32fast::hash(&bytes[..508]);
        bytes[508..512].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(store) = Store::open(&path) {
            let _ = super::verify::info(&store);
            let _ = verify(&path);
        }
    }
}

fn write_text(scratch: &Scratch, documents: usize) -> PathBuf {
    let path = scratch.path("text.txt");
    let mut text = String::new();
    for n in 0..documents {
        for k in 0..n % 5 + 1 {
            text += &"山川草木花鳥。風月「春夏。」秋冬東西南北！".repeat((n * 7 + k) % 9 + 1);
            text += &format!("{n}\n");
        }
        text.push('\n');
    }
    std::fs::write(&path, text).unwrap();
    path
}

fn options(threads: usize, held_out: f64) -> Options {
    Options { threads, held_out, ..Options::default() }
}

#[test]
fn prepare_writes_the_same_store_with_any_number_of_threads() {
    let scratch = Scratch::new();
    let text = write_text(&scratch, 6000);
    let plain = |threads: usize| Options { words: Words::None, ..options(threads, 0.1) };
    let run = |threads: usize| {
        let out = scratch.path(&format!("t{threads}.store"));
        let documents = Documents::open(std::slice::from_ref(&text)).unwrap();
        let summary = prepare(documents, &scratch.tokenizer, &out, &options(threads, 0.1), |_| {});
        let summary = summary.unwrap().unwrap();
        let held_out = summary.held_out.unwrap();
        assert_eq!(summary.store.documents + held_out.documents, 6000);
        assert!((400..800).contains(&held_out.documents), "{}", held_out.documents);
        let held_out_path = crate::files::with_suffix(&out, ".held-out");
        verify(&out).unwrap();
        verify(&held_out_path).unwrap();
        // The same tokens as without marks; every sign is a word, so there are more than lines.
        let store = Store::open(&out).unwrap();
        let starts = store.read_word_starts(0..store.tokens()).unwrap();
        assert!(starts.iter().filter(|&&start| start).count() as u64 > store.lines());
        let without = scratch.path("plain.store");
        let documents = Documents::open(std::slice::from_ref(&text)).unwrap();
        prepare(documents, &scratch.tokenizer, &without, &plain(threads), |_| {}).unwrap();
        let without = Store::open(&without).unwrap();
        assert_eq!(
            without.read_tokens(0..without.tokens()).unwrap(),
            store.read_tokens(0..store.tokens()).unwrap()
        );
        (std::fs::read(out).unwrap(), std::fs::read(held_out_path).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[cfg(unix)]
#[test]
fn a_pipe_or_device_is_not_replaced_by_a_store() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = StoreWriter::create(&pipe, &scratch.tokenizer, Lines::Sentence).err().expect("refused");
    assert!(refused.to_string().contains("is a device or a pipe"), "{refused:#}");
    assert!(!scratch.path("pipe.partial").exists());
}

#[test]
fn prepare_leaves_a_whole_store_or_none() {
    let scratch = Scratch::new();
    let out = scratch.path("out.store");
    let run = |text: &Path, held_out: f64| {
        let documents = Documents::open(&[text.to_path_buf()])?;
        prepare(documents, &scratch.tokenizer, &out, &options(2, held_out), |_| {})
    };
    let bad = scratch.path("bad.txt");
    let mut bytes = std::fs::read(write_text(&scratch, 3000)).unwrap();
    bytes.extend(b"\xff\n");
    std::fs::write(&bad, bytes).unwrap();
    assert!(failure(run(&bad, 0.0)).contains("invalid UTF-8"));
    let blank = scratch.path("blank.txt");
    std::fs::write(&blank, "\n\n").unwrap();
    assert!(failure(run(&blank, 0.0)).contains("no text"));
    let left = || {
        std::fs::read_dir(scratch.directory.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("out.store"))
            .count()
    };
    assert_eq!(left(), 0);
    // What a killed run leaves is written over; what another one is writing is not touched.
    let partial = scratch.path("out.store.partial");
    std::fs::write(&partial, "half").unwrap();
    run(&write_text(&scratch, 40), 0.4).unwrap();
    assert_eq!(left(), 2);
    run(&write_text(&scratch, 10), 0.0).unwrap();
    assert_eq!(left(), 1, "the held-out part of the replaced store is gone");
    let _writing = StoreWriter::create(&out, &scratch.tokenizer, Lines::Sentence).unwrap();
    assert!(failure(run(&write_text(&scratch, 10), 0.0)).contains("another `inazuma prepare`"));
}
