//! What fuzz targets run: every reader of bytes from outside. None may panic, allocate by a length that it has not compared
//! with what is there, or take long. `fuzz/` gives them to libFuzzer, `fuzz_replay` replays its corpus and changed copies.

use std::cell::OnceCell;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::finetune::{hparams as finetune_hparams, package};
use crate::gpu::Tuning;
use crate::interop::tensors::Tensors;
use crate::interop::weights::WeightFile;
use crate::interop::{checkpoint, huggingface};
use crate::store::examples::EpochIndex;
use crate::store::format::{CHECKSUMS, CHUNK, HEADER_LENGTH, Header, Section, TOKENIZER};
use crate::store::{Store, ids, tfrecord, verify};
use crate::tasks::data::Purpose;
use crate::tasks::registry::TASKS;
use crate::tasks::source::{Line, Source};
use crate::tokenizer::model_file::ModelFile;
use crate::tokenizer::{ReadyMade, SpecialIds, Tokenizer, charsmap};
use crate::train::config::Sources;
use crate::train::parity;

/// Runs `read` on a file of this name that holds the bytes: for readers that want a path. Each thread has a folder of its
/// own, in memory where the system has such a place.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: OnceCell<Option<tempfile::TempDir>> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        let memory = Path::new("/dev/shm");
        let new = || if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let Some(folder) = folder.get_or_init(|| new().ok()) else { return };
        let path = folder.path().join(name);
        if std::fs::write(&path, bytes).is_ok() {
            read(&path);
        }
    });
}

/// A configuration in TOML. What is read is written to what reads the same.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(written) = Sources::rewritten(&text) {
        assert_eq!(Sources::rewritten(&written).ok().as_ref(), Some(&written), "{text:?}");
    }
}

/// `--set`, an assignment a line.
pub fn set(bytes: &[u8]) {
    let set = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    let _ = Sources { set, ..Sources::default() }.settings();
}

/// `--hparams` of both kinds of training: JSON, or a command line of the reference implementation.
pub fn hparams(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    // The name of a file is not what is tried here.
    if text.trim_end().ends_with(".json") {
        return;
    }
    TASKS.iter().for_each(|task| drop(finetune_hparams::translate(&text, task.name())));
    let _ = Sources { hparams: Some(text), ..Sources::default() }.settings();
}

/// A store as it comes: most are refused for their header.
pub fn store_header(bytes: &[u8]) {
    with_file("store", bytes, |path| drop(Store::open(path)));
}

/// A whole store: opened, and everything in it read. Its checksums are made to fit first, or nothing would get past them.
pub fn store(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    fit_checksums(&mut bytes);
    with_file("store", &bytes, |path| {
        let Ok(store) = Store::open(path) else { return };
        let vocabulary = store.vocab_size() as u32;
        if let Ok(index) = EpochIndex::build(&store, 1, 0, 16) {
            for example in (0..index.len()).filter_map(|n| index.example(&store, n).ok()) {
                assert!(example.ids.len() <= 16 && example.ids.iter().all(|&id| id < vocabulary));
            }
            for example in (0..index.len()).filter_map(|n| index.marked_example(&store, n).ok()) {
                assert!(example.words.is_some_and(|words| words.len() == example.ids.len() && words[0]));
            }
        }
        let _ = store.unigram_entropy();
        let _ = verify::info(&store);
        let _ = verify::verify(path);
    });
}

/// Gives a store of any bytes the checksums that fit them, as far as it has places for them.
pub fn fit_checksums(bytes: &mut [u8]) {
    let Some(header) = bytes.get(..HEADER_LENGTH as usize) else { return };
    let mut header: Header = bytemuck::pod_read_unaligned(header);
    let Section { offset, length } = header.sections[CHECKSUMS];
    if offset >= HEADER_LENGTH && offset.saturating_add(length) <= bytes.len() as u64 {
        let (body, checksums) =
            bytes[HEADER_LENGTH as usize..].split_at_mut((offset - HEADER_LENGTH) as usize);
        let checksums = &mut checksums[..length as usize];
        for (chunk, checksum) in body.chunks(CHUNK as usize).zip(checksums.chunks_exact_mut(4)) {
            checksum.copy_from_slice(&crc32fast::hash(chunk).to_le_bytes());
        }
        header.checksums_crc = crc32fast::hash(checksums);
        let Section { offset, length } = header.sections[TOKENIZER];
        let model = bytes.get(offset as usize..offset.saturating_add(length) as usize);
        header.tokenizer_sha256 = Sha256::digest(model.unwrap_or_default()).into();
    }
    header.file_length = bytes.len() as u64;
    header.header_crc = header.own_crc();
    bytes[..HEADER_LENGTH as usize].copy_from_slice(bytemuck::bytes_of(&header));
}

/// A file of tensors: as a checkpoint's, and as a golden.
pub fn safetensors(bytes: &[u8]) {
    with_file("model.safetensors", bytes, |path| {
        if let Ok(file) = WeightFile::open(path) {
            let names = Tensors::names(&file);
            names.iter().for_each(|name| drop(file.read(name)));
        }
        let _ = parity::golden::Golden::open(path);
    });
}

/// The small files of a run, a model and the cache.
pub fn records(bytes: &[u8]) {
    let _ = ReadyMade::from_json(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = Tuning::parse(&text);
    let folder = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    with_file("state.json", bytes, |path| drop(checkpoint::state(&folder(path))));
    with_file("config.toml", bytes, |path| drop(checkpoint::model(&folder(path))));
    with_file(huggingface::CONFIG, bytes, |path| drop(huggingface::read_config(&folder(path))));
    with_file(package::DESCRIPTION, bytes, |path| drop(package::read(&folder(path))));
}

/// A SentencePiece model: by our reader, and by the library.
pub fn sentencepiece(bytes: &[u8]) {
    if let Ok(model) = ModelFile::read(bytes) {
        let _ = charsmap::rules(&model.charsmap);
    }
    if let Ok(tokenizer) = Tokenizer::from_model(Path::new("model"), bytes.to_vec(), false) {
        for text in
            ["", "山川草木 a\u{300}ｶﾞ㍿", "\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "。 \u{3000} \u{10ffff}"]
        {
            let count = tokenizer.vocab_size() as u32;
            assert!(tokenizer.encode(text).into_iter().all(|id| id < count));
            let _ = tokenizer.encode_with_offsets(text);
        }
    }
}

/// Data of every task: SQuAD's JSON, tables in JSON, JSON lines and TSV, tags. The first byte says which name it has.
pub fn data(bytes: &[u8]) {
    let names = ["data.json", "data.jsonl", "data.tsv", "data"];
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    with_file(names[usize::from(*first) % names.len()], rest, |path| {
        let source = Source { path: path.to_owned(), ..Source::default() };
        for task in TASKS {
            for purpose in [Purpose::Train, Purpose::Evaluate] {
                let _ = task.examples(&source, purpose);
            }
        }
    });
}

/// Lines of `predict`.
pub fn lines(bytes: &[u8]) {
    for (index, line) in String::from_utf8_lossy(bytes).lines().enumerate() {
        if let Ok(line) = Line::new(index + 1, line) {
            let line = [line];
            TASKS.iter().for_each(|task| drop(task.parse(&line)));
        }
    }
}

/// Special ids of stores that are made of these inputs.
const SPECIAL: SpecialIds = SpecialIds { pad: 0, cls: 2, sep: 3, mask: 4 };

/// A TFRecord file. The checksums are no part of what is read: they are made to fit.
pub fn tf_record(bytes: &[u8]) {
    tfrecord::read_all(bytes, 97, &SPECIAL);
}

/// Lines of ready-made ids.
pub fn ready_made(bytes: &[u8]) {
    if let Ok(vocabulary) = ReadyMade::new(97, SPECIAL) {
        bytes.split(|&byte| byte == b'\n').for_each(|line| drop(ids::document(line, &vocabulary)));
    }
}
