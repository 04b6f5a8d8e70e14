//! Exactness against the reference's ids, and behaviour on awkward text.

use crate::testing::{shared, skipped};

use super::*;

const MODEL: &str = "data/sentencepiece/konoha-wiki-ja-32k.model";

fn small_model() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let options =
        train::Options { vocab_size: 60, seed: 1, character_coverage: 0.9995, max_sentences: 0, lower: true };
    let prefix = directory.path().join("small");
    let summary = train::train(sentences(), options, &prefix).unwrap();
    assert_eq!(summary.pieces, 60);
    (directory, summary.model)
}

fn sentences() -> impl Iterator<Item = String> {
    let words = ["山の上に", "雲が出た", "川を渡る", "舟はない", "ABC", "雨が降る", "、"];
    (0..400).map(move |n| format!("{}{}{}。", words[n % 7], words[n / 7 % 7], words[n / 49 % 7]))
}

#[test]
fn ids_equal_the_references() {
    let (Some(model), Some(golden)) = (shared(MODEL), shared("goldens/tokenizer-konoha-wiki-ja-32k.jsonl"))
    else {
        return;
    };
    let plain = Tokenizer::open(&model, false).unwrap();
    let lower = Tokenizer::open(&model, true).unwrap();
    let mut rows = 0;
    for line in std::fs::read_to_string(golden).unwrap().lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = row["text"].as_str().unwrap();
        let ids = |field: &str| serde_json::from_value::<Vec<u32>>(row[field].clone()).unwrap();
        assert_eq!(plain.encode(text), ids("ids"), "{text:?}");
        assert_eq!(lower.encode(text), ids("ids_lower"), "{text:?}, lower-cased");
        for tokenizer in [&plain, &lower] {
            check_offsets(tokenizer, text);
        }
        rows += 1;
    }
    assert!(rows >= 400, "{rows} rows");
    let special = plain.special_ids().unwrap();
    assert_eq!([special.pad, special.cls, special.sep, special.mask], [3, 4, 5, 6]);
}

/// Offsets come with the ids of `encode`, rise, and lie on characters of the text.
fn check_offsets(tokenizer: &Tokenizer, text: &str) {
    let pieces = tokenizer.encode_with_offsets(text);
    let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
    assert_eq!(ids, tokenizer.encode(text), "{text:?}");
    let mut last = 0;
    for piece in pieces {
        assert!(last <= piece.begin && piece.begin <= piece.end, "{text:?} {piece:?}");
        assert!(text.get(piece.begin..piece.end).is_some(), "{text:?} {piece:?}");
        last = piece.begin;
    }
}

#[test]
fn models_without_the_symbols_are_refused_by_name() {
    let Some(model) = shared("data/sentencepiece/google-test-ja-8k.model") else {
        return;
    };
    let error = Tokenizer::open(&model, true).unwrap().special_ids().unwrap_err();
    assert!(error.to_string().contains("[PAD] [CLS] [SEP] [MASK]"), "{error}");
}

#[test]
fn awkward_texts_neither_panic_nor_become_symbols() {
    let (_directory, model) = small_model();
    let tokenizer = Tokenizer::open(&model, true).unwrap();
    let special = tokenizer.special_ids().unwrap();
    assert_eq!([special.pad, special.cls, special.sep, special.mask], [3, 4, 5, 6]);
    assert_eq!(tokenizer.unknown_id(), 0);
    assert_eq!(tokenizer.id_of("no such piece"), None);
    for text in ["", " ", "\0", "a\0b", "[CLS][MASK]", "İΣΑΣ", "㍿ｶﾞ", "\u{301}", "👨‍👩‍👧", "\u{10ffff}\u{fffd}"]
    {
        let ids = tokenizer.encode(text);
        assert!(ids.iter().all(|&id| !(3..=6).contains(&id)), "{text:?} {ids:?}");
        check_offsets(&tokenizer, text);
    }
    assert_eq!(tokenizer.encode("ABC山"), tokenizer.encode("abc山"));
    assert_eq!(tokenizer.hash().len(), 64);
}

#[test]
fn lower_casing_is_that_of_rust() {
    for c in (0..=0x10ffff).filter_map(char::from_u32) {
        let text = format!("字{c}");
        assert_eq!(lower::to_lowercase(&text), text.to_lowercase(), "U+{:04X}", u32::from(c));
    }
    let lowered = lower::Lowered::new("aİΣ字");
    assert_eq!(lowered.text(), "ai̇ς字");
    // The i of i̇ alone stands for the whole İ.
    assert_eq!(lowered.original(1, 2), (1, 3));
    assert_eq!(lowered.original(4, 6), (3, 5));
    assert_eq!(lowered.original(0, 9), (0, 8));
}

#[test]
fn training_repeats_and_says_what_is_too_much() {
    let (first, model) = small_model();
    let (_second, again) = small_model();
    assert_eq!(std::fs::read(&model).unwrap(), std::fs::read(again).unwrap());
    let vocab = std::fs::read_to_string(first.path().join("small.vocab")).unwrap();
    assert_eq!(vocab.lines().count(), 60);
    assert!(std::fs::metadata(first.path().join("small.log")).unwrap().len() > 0);
    let left = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left(first.path()), 3, "model, vocabulary, log");
    for (size, word) in [(5000, "largest"), (10, "smallest"), (5000, "--max-sentences")] {
        let options = train::Options {
            vocab_size: size,
            seed: 1,
            character_coverage: 0.9995,
            max_sentences: if word == "--max-sentences" { 100 } else { 0 },
            lower: true,
        };
        let error = train::train(sentences(), options, &first.path().join("big")).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(left(first.path()), 3, "a failed training leaves nothing");
    }
}

fn train_sampled(folder: &Path, seed: u64) -> (Vec<u8>, String) {
    let options =
        train::Options { vocab_size: 50, seed, character_coverage: 0.9995, max_sentences: 120, lower: true };
    let prefix = folder.join(format!("seed-{seed}"));
    let summary = train::train(sentences(), options, &prefix).unwrap();
    assert_eq!((summary.sentences_seen, summary.sentences_used), (400, 120));
    let log = std::fs::read_to_string(prefix.with_extension("log")).unwrap();
    (std::fs::read(summary.model).unwrap(), log)
}

#[test]
fn a_seed_decides_the_sample_and_the_log_says_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let (first, log) = train_sampled(folder.path(), 7);
    for words in [
        "seed: 7",
        "character coverage: 0.9995",
        "sentences read: 400",
        "sentences trained on: 120",
        "made: 50 pieces",
        // SentencePiece's own, which samples nothing of its own.
        "LOG(INFO) Loaded all 120 sentences",
        "input_sentence_size: 0",
    ] {
        assert!(log.contains(words), "no `{words}` in:\n{log}");
    }
    let again = tempfile::tempdir().unwrap();
    assert!(first == train_sampled(again.path(), 7).0, "the same seed gives the same bytes");
    assert!(first != train_sampled(again.path(), 8).0, "another seed gives another sample");
}

#[test]
fn a_training_that_cannot_write_or_is_not_alone_says_so_at_once() {
    let start = |prefix: &Path| {
        let options = train::Options {
            vocab_size: 50,
            seed: 1,
            character_coverage: 1.0,
            max_sentences: 0,
            lower: true,
        };
        train::Training::start(options, prefix)
    };
    let message = |prefix: &Path| format!("{:#}", start(prefix).err().expect("should be refused"));
    let folder = tempfile::tempdir().unwrap();
    assert!(message(&folder.path().join("none/x")).contains("none/x.log.partial"));
    let prefix = folder.path().join("x");
    let first = start(&prefix).unwrap();
    assert!(!first.found_interrupted());
    assert!(message(&prefix).contains("another `inazuma tokenizer train`"));
    drop(first);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::write(folder.path().join("x.model.partial"), "half").unwrap();
    let after = start(&prefix).unwrap();
    assert!(after.found_interrupted());
    let error = after.finish(|_| {}).unwrap_err();
    assert!(error.to_string().contains("no text"), "{error}");
}

/// Loads the model in Python's package, and prints the ids of the lines of a file, the pieces of a `.vocab`, and the model's.
const PYTHON: &str = "
import json, sys
import sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
vocab = [line.rstrip('\\n').split('\\t') for line in open(sys.argv[2], encoding='utf-8', newline='\\n')]
texts = json.load(open(sys.argv[3], encoding='utf-8'))
pieces = [[model.id_to_piece(n), model.get_score(n)] for n in range(model.get_piece_size())]
print(json.dumps({
    'ids': model.encode(texts),
    'pieces': pieces,
    'same': [piece for piece, _ in pieces] == [piece for piece, _ in vocab]
        and all(abs(score - float(written)) <= 1e-4 * max(1, abs(score)) for (_, score), (_, written) in zip(pieces, vocab)),
    'control': [n for n in range(model.get_piece_size()) if model.is_control(n)],
}))
";

/// `$INAZUMA_PYTHON`, or `python3`, where it has the package.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("INAZUMA_PYTHON").unwrap_or_else(|| "python3".into()));
    let tried = std::process::Command::new(&python).args(["-c", "import sentencepiece"]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped(&format!("{} cannot import sentencepiece (set INAZUMA_PYTHON)", python.display()));
    None
}

#[test]
fn model_and_vocabulary_load_in_pythons_sentencepiece() {
    let Some(python) = python() else {
        return;
    };
    let (folder, model) = small_model();
    let texts =
        ["山の上に雲が出た。", "abc、abc", "", "見たことのない字", "㍿ｶﾞ 川を渡る", "[CLS]雨が降る\u{301}"];
    let file = folder.path().join("texts.json");
    std::fs::write(&file, serde_json::to_vec(&texts).unwrap()).unwrap();
    let output = std::process::Command::new(&python)
        .args(["-c", PYTHON])
        .args([&model, &folder.path().join("small.vocab"), &file])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokenizer = Tokenizer::open(&model, false).unwrap();
    for (text, ids) in texts.iter().zip(found["ids"].as_array().unwrap()) {
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(tokenizer.encode(text), ids, "{text:?}");
    }
    assert_eq!(found["same"], true, "pieces and scores of .vocab are the model's: {}", found["pieces"]);
    assert_eq!(found["control"], serde_json::json!([1, 2, 3, 4, 5, 6]));
}

#[test]
fn what_is_not_a_model_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.model");
    for bytes in [b"".as_slice(), b"hello", &[0; 100]] {
        std::fs::write(&path, bytes).unwrap();
        let error = Tokenizer::open(&path, true).err().unwrap();
        assert!(error.to_string().contains("x.model"), "{error}");
    }
}
