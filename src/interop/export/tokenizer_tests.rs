use std::path::{Path, PathBuf};

use super::*;
use crate::testing::shared;
use crate::tokenizer::train;

/// A model of a few words, and the folder that holds it.
fn model(lower: bool) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let options =
        train::Options { vocab_size: 60, seed: 1, character_coverage: 0.9995, max_sentences: 0, lower };
    let words = ["山の上に", "雲が出た", "川を渡る", "舟はない", "ABC", "雨が降る", "、"];
    let sentences = (0..400).map(|n| format!("{}{}{}。", words[n % 7], words[n / 7 % 7], words[n / 49 % 7]));
    let summary = train::train(sentences, options, &folder.path().join("small")).unwrap();
    (folder, summary.model)
}

fn json_of(path: &Path, lower: bool) -> Value {
    let tokenizer = Tokenizer::open(path, lower).unwrap();
    let theirs = HuggingFaceTokenizer::new(&tokenizer).unwrap();
    assert_eq!(theirs.json().unwrap().to_string(), theirs.json().unwrap().to_string());
    theirs.json().unwrap()
}

fn steps(json: &Value) -> Vec<String> {
    let steps = json["normalizer"]["normalizers"].as_array().unwrap();
    steps.iter().map(|step| step["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pieces_keep_their_ids_and_symbols_are_out_of_reach() {
    let (_folder, path) = model(true);
    let json = json_of(&path, true);
    let tokenizer = Tokenizer::open(&path, true).unwrap();
    let vocabulary = json["model"]["vocab"].as_array().unwrap();
    assert_eq!(vocabulary.len(), tokenizer.vocab_size());
    for (id, entry) in vocabulary.iter().enumerate() {
        let (piece, score) = (entry[0].as_str().unwrap(), entry[1].as_f64().unwrap());
        assert_eq!(tokenizer.id_of(piece), Some(id as u32));
        assert_eq!(score <= -100.0, id < 7, "{piece} {score}");
    }
    assert_eq!(json["model"]["type"], "Unigram");
    assert_eq!(json["model"]["unk_id"], 0);
    let added: Vec<_> = json["added_tokens"].as_array().unwrap().iter().collect();
    let named: Vec<_> = added.iter().map(|token| token["content"].as_str().unwrap()).collect();
    assert_eq!(named, ["<unk>", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]);
    assert!(added.iter().all(|token| token["special"] == true && token["normalized"] == false));
}

#[test]
fn texts_are_framed_as_the_model_was_trained() {
    let (_folder, path) = model(true);
    let template = &json_of(&path, true)["post_processor"];
    let frame = |name: &str| -> Vec<(String, u64)> {
        let parts = template[name].as_array().unwrap().iter();
        parts
            .map(|part| {
                let part = part.get("SpecialToken").or(part.get("Sequence")).unwrap();
                (part["id"].as_str().unwrap().to_owned(), part["type_id"].as_u64().unwrap())
            })
            .collect()
    };
    let owned = |parts: &[(&str, u64)]| -> Vec<(String, u64)> {
        parts.iter().map(|(name, segment)| ((*name).to_owned(), *segment)).collect()
    };
    assert_eq!(frame("single"), owned(&[("[CLS]", 0), ("A", 0), ("[SEP]", 0)]));
    assert_eq!(frame("pair"), owned(&[("[CLS]", 0), ("A", 0), ("[SEP]", 0), ("B", 1), ("[SEP]", 1)]));
    assert_eq!(template["special_tokens"]["[SEP]"]["ids"], json!([5]));
}

#[test]
fn normalisers_are_the_models_own() {
    let (_folder, path) = model(true);
    let json = json_of(&path, true);
    let steps = steps(&json);
    assert_eq!(steps[..3], ["Replace", "Lowercase", "NFC"]);
    let precompiled = steps.iter().position(|step| step == "Precompiled").unwrap();
    assert!(steps[3..precompiled].iter().all(|step| step == "Replace"));
    let all = json["normalizer"]["normalizers"].as_array().unwrap();
    let replaced = |from: &str| {
        let found = all.iter().find(|step| step["pattern"]["String"] == from);
        found.map(|step| step["content"].as_str().unwrap().to_owned())
    };
    for (from, to) in [("ｶﾞ", "ガ"), ("ﾊﾟ", "パ"), ("ｳﾞ", "ヴ"), ("ﾎﾞ", "ボ")] {
        assert_eq!(replaced(from).as_deref(), Some(to), "{from}");
    }
    let half_width = all.iter().filter_map(|step| step["pattern"]["String"].as_str());
    let half_width = half_width.filter(|from| from.chars().all(|c| ('\u{ff65}'..='\u{ff9f}').contains(&c)));
    assert_eq!(half_width.count(), 28);
    // "<" and ">" are not in the vocabulary, and are no letters to lower.
    assert_eq!(replaced("<s>").as_deref(), Some("\u{fffd}s>"));
    assert_eq!(replaced("[CLS]"), None, "no lower-cased text holds it");
    let kept = json_of(&path, false);
    assert!(!self::steps(&kept).contains(&"Lowercase".to_owned()));
    let written = kept["normalizer"]["normalizers"].as_array().unwrap();
    assert!(written.iter().any(|step| step["pattern"]["String"] == "[CLS]"));
}

#[test]
fn the_class_is_named_so_that_no_wordpiece_is_built() {
    let (_folder, path) = model(true);
    let tokenizer = Tokenizer::open(&path, true).unwrap();
    let config = HuggingFaceTokenizer::new(&tokenizer).unwrap().config(128);
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(config["split_special_tokens"], true);
    assert_eq!((&config["model_max_length"], &config["mask_token"]), (&json!(128), &json!("[MASK]")));
}

#[test]
fn what_their_library_cannot_compute_is_refused() {
    let (_folder, path) = model(true);
    let mut bytes = std::fs::read(&path).unwrap();
    // The trainer's specification: field 2 of the model, its model_type field 3: append one that says BPE.
    bytes.extend([0x12, 0x02, 0x18, 0x02]);
    let bpe = Tokenizer::from_model(Path::new("x.model"), bytes, true).unwrap();
    let error = HuggingFaceTokenizer::new(&bpe).err().unwrap().to_string();
    assert!(error.contains("x.model") && error.contains("type bpe"), "{error}");
}

#[test]
fn rules_of_the_reference_models_are_read() {
    let Some(path) = shared("data/sentencepiece/konoha-wiki-ja-32k.model") else { return };
    let file = ModelFile::read(&std::fs::read(path).unwrap()).unwrap();
    let rules = charsmap::rules(&file.charsmap).unwrap();
    for (from, to) in [("①", "1"), ("㍿", "株式会社"), ("か\u{3099}", "が"), ("ｶﾞ", "ガ"), ("\u{3000}", " ")]
    {
        assert_eq!(rules.get(from).map(String::as_str), Some(to), "{from}");
    }
    assert_eq!(rules.get("～"), None, "the wave dash stays");
    let cut = &file.charsmap[..file.charsmap.len() / 3];
    assert!(charsmap::rules(cut).is_err());
    let mut circle = 1024u32.to_le_bytes().to_vec();
    circle.extend([0u8; 1024]);
    circle.push(0);
    assert!(charsmap::rules(&circle).is_err() && charsmap::check(&circle).is_err());
}

#[test]
fn base64_is_that_of_the_standard() {
    for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
}
