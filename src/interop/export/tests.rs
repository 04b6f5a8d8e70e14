use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::interop::weights::{self, Named};
use crate::model::{EmbeddingSharing, ModelConfig};

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 60,
        embedding_size: 8,
        hidden_size: 16,
        layers: 1,
        heads: 2,
        ffn_size: 32,
        max_positions: 12,
        generator_hidden_size: 4,
        generator_layers: 3,
        generator_heads: 1,
        generator_ffn_size: 16,
        embedding_sharing: EmbeddingSharing::Shared,
    }
}

/// transformers 5 takes each key's own type alone.
#[test]
fn configurations_are_strictly_typed() {
    let config = crate::interop::huggingface::config(&model(), "ElectraForPreTraining", 3, 0.1);
    let whole = [
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "pad_token_id",
    ];
    let fractions = [
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "summary_last_dropout",
        "layer_norm_eps",
        "initializer_range",
    ];
    let words = [
        "model_type",
        "hidden_act",
        "position_embedding_type",
        "summary_type",
        "summary_activation",
        "dtype",
    ];
    assert!(whole.iter().all(|key| config[key].is_u64()), "{config}");
    assert!(fractions.iter().all(|key| config[key].is_f64()), "{config}");
    let words = words.iter().filter(|key| config.get(key).is_some());
    assert!(words.clone().all(|key| config[key].is_string()) && words.count() >= 5, "{config}");
    assert_eq!(config["layer_norm_eps"], 1e-12);
    assert!(config["summary_use_proj"] == true && config["tie_word_embeddings"] == true);
    assert!(config["bos_token_id"].is_null() && config.get("eos_token_id").is_some());
    assert_eq!(config["architectures"], json!(["ElectraForPreTraining"]));
}

#[test]
fn numbers_are_rounded_to_nearest_even() {
    let values = [1.0f32, -2.5, 1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1e-8];
    assert_eq!(Numbers::F32.bytes(&values).unwrap(), bytemuck::cast_slice::<f32, u8>(&values));
    let pairs = |numbers: Numbers| -> Vec<u16> {
        let bytes = numbers.bytes(&values).unwrap();
        bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    let half: Vec<f32> =
        pairs(Numbers::F16).into_iter().map(|bits| half::f16::from_bits(bits).to_f32()).collect();
    assert_eq!(half, [1.0, -2.5, 1.0, 1.0 + 2f32.powi(-9), 0.0]);
    let short: Vec<f32> =
        pairs(Numbers::Bf16).into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect();
    assert_eq!(short[..4], [1.0, -2.5, 1.0, 1.0]);
    let error = Numbers::F16.bytes(&[7e4]).unwrap_err().to_string();
    assert!(error.contains("70000 is too large for float16"), "{error}");
    assert!("f64".parse::<Numbers>().is_err());
}

fn source(folder: &Path) -> WeightFile {
    let tensors: Vec<Named> = ["discriminator.a.weight", "discriminator.b", "generator.a.weight"]
        .iter()
        .enumerate()
        .map(|(n, name)| ((*name).to_owned(), vec![2, 3], vec![n as f32 + 0.25; 6]))
        .collect();
    let path = folder.join("source.safetensors");
    weights::write(&path, &tensors, None).unwrap();
    WeightFile::open(&path).unwrap()
}

fn contents(weights: &WeightFile) -> Contents<'_> {
    Contents {
        config: json!({"dtype": "float32"}),
        weights,
        rename: &|name| name.strip_prefix("discriminator.").map(str::to_owned),
        tokenizer: None,
        max_length: 12,
        card: card::Card::default(),
    }
}

#[test]
fn what_is_exported_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let weights = source(folder.path());
    for numbers in [Numbers::F32, Numbers::F16, Numbers::Bf16] {
        let options = Options { numbers, ..Options::default() };
        let out = folder.path().join(numbers.torch_name());
        let written = || {
            let new = NewDirectory::create(&out).unwrap();
            contents(&weights).write(new.inside(), &options).unwrap();
            new.finish().unwrap();
            fs::read_dir(&out)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.clone(), fs::read(path).unwrap()))
                .collect::<BTreeMap<_, _>>()
        };
        let first = written();
        assert_eq!(first.len(), 3);
        let read = WeightFile::open(&out.join(WEIGHTS)).unwrap();
        assert_eq!(read.names().unwrap(), ["a.weight", "b"]);
        let view = read.tensor("b").unwrap();
        assert_eq!((view.dtype(), view.shape()), (numbers.dtype(), &[2, 3][..]));
        assert_eq!(read.read("b").unwrap(), [1.25; 6]);
        let config: Value = serde_json::from_slice(&first[&out.join(CONFIG)]).unwrap();
        assert_eq!(config["dtype"], numbers.torch_name());
        fs::remove_dir_all(&out).unwrap();
        assert!(first == written(), "the bytes repeat");
    }
}

#[test]
fn directories_appear_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let new = NewDirectory::create(&out).unwrap();
    fs::write(new.inside().join("x"), "half").unwrap();
    drop(new);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let new = NewDirectory::create(&out).unwrap();
    fs::write(new.inside().join("x"), "whole").unwrap();
    new.finish().unwrap();
    assert_eq!(fs::read_to_string(out.join("x")).unwrap(), "whole");
    let error = NewDirectory::create(&out).err().unwrap().to_string();
    assert!(error.contains("out is not empty"), "{error}");
    let weights = source(folder.path());
    let nothing = Contents { rename: &|_| None, ..contents(&weights) };
    let error = nothing.write(&out, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("none of the network's tensors"), "{error}");
}

#[test]
fn cards_say_what_sites_read() {
    let card = card::Card {
        naming: card::Naming {
            name: "a: \"b\"".into(),
            license: Some("cc0-1.0".into()),
            datasets: vec!["x/y".into()],
            base_model: Some("z/electra".into()),
        },
        pipeline_tag: Some("question-answering"),
        about: "About.".into(),
        sections: vec![("Sizes", card::table(["what", "size"], [("layers".into(), "1".into())]))],
        results: Some(card::Results {
            task: "question-answering".into(),
            dataset: "dev.json".into(),
            scores: vec![("f1".into(), 51.5)],
        }),
    };
    let expected = "---\nlanguage: \"ja\"\nlicense: \"cc0-1.0\"\nlibrary_name: \"transformers\"\n\
        tags: [\"electra\",\"japanese\",\"inazuma\"]\npipeline_tag: \"question-answering\"\ndatasets: [\"x/y\"]\n\
        base_model: \"z/electra\"\n\
        model-index: [{\"name\":\"a: \\\"b\\\"\",\"results\":[{\"task\":{\"type\":\"question-answering\"},\
        \"dataset\":{\"type\":\"dev.json\",\"name\":\"dev.json\"},\"metrics\":[{\"type\":\"f1\",\"value\":51.5}]}]}]\n\
        ---\n\n# a: \"b\"\n\nAbout.\n\n## Sizes\n\n| what | size |\n|---|---|\n| layers | 1 |\n";
    assert_eq!(card.to_string(), expected);
}
