//! `export` through the binary: everything of a run and of a fine-tuned model gets out, once, and is read back by us.
//! What transformers make of it: `tools/check-export`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::command_line::{done, refused};
use crate::fine_tuning::{questions, run};

/// The tensors of a file: shape and bytes by name.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
}

/// Runs `predict --ids` on lines of ids.
pub fn said(folder: &Path, model: &str, lines: &[Value]) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(["predict", "--model", model, "--ids", "--device", "cpu", "--threads", "1"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    lines.iter().for_each(|line| writeln!(stdin, "{line}").expect("written"));
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{model}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const FILES: [&str; 6] = [
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

#[test]
fn every_tensor_of_a_run_is_exported_under_its_name() {
    let folder = run();
    done(folder, "export encoder --out hf");
    let latest = fs::read_to_string(folder.join("encoder/latest")).expect("latest");
    let trained = tensors(&folder.join("encoder").join(latest.trim()).join("model.safetensors"));
    let mut found = BTreeSet::new();
    for network in ["discriminator", "generator"] {
        let directory = folder.join("hf").join(network);
        let listed =
            fs::read_dir(&directory).expect("listed").map(|entry| entry.expect("an entry").file_name());
        let listed: BTreeSet<String> = listed.map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(listed, FILES.map(str::to_owned).into());
        for (name, tensor) in tensors(&directory.join("model.safetensors")) {
            let shared = format!("discriminator.{name}");
            let own = format!("{network}.{name}");
            let source = if trained.contains_key(&own) { own } else { shared };
            assert!(trained[&source] == tensor, "{source}");
            found.insert(source);
        }
    }
    assert_eq!(found, trained.keys().cloned().collect());
    let generator = json_file(&folder.join("hf/generator/config.json"));
    assert_eq!((&generator["hidden_size"], &generator["pad_token_id"]), (&json!(32), &json!(3)));
    let card = fs::read_to_string(folder.join("hf/generator/README.md")).expect("a card");
    for words in
        ["pipeline_tag: \"fill-mask\"", "# hf generator", "| steps | 6 |", "inazuma pretrain", "SHA-256"]
    {
        assert!(card.contains(words), "{words}");
    }
    done(folder, "export encoder --out hf-again");
    for network in ["discriminator", "generator"] {
        for name in &FILES[1..] {
            let read = |out: &str| fs::read(folder.join(out).join(network).join(name)).expect("read");
            assert!(read("hf") == read("hf-again"), "{network}/{name} repeats");
        }
    }
    // Our own reader takes it, and the same ids are the same to both.
    let tail = "--epochs 1 --train-limit 2 --max-length 64 --device cpu --threads 1";
    done(
        folder,
        &format!(
            "finetune squad --init hf/discriminator --train {} --out from-hf {tail}",
            questions("train")
        ),
    );
}

#[test]
fn what_cannot_be_exported_is_one_line() {
    let folder = run();
    refused(folder, "export text --out none", &["text", "neither a run", "fine-tuned model"]);
    refused(folder, "export encoder --out encoder", &["encoder is not empty"]);
    let train = questions("train");
    let tail = "--init encoder --epochs 1 --train-limit 2 --device cpu --threads 1";
    done(folder, &format!("finetune squad --head joint --train {train} --out joint {tail}"));
    refused(folder, "export joint --out none", &["no class for its head", "--head plain"]);
    let config = json_file(&folder.join("joint/config.json"));
    assert_eq!(config["architectures"], json!(["ElectraModel"]));
    refused(folder, "predict --model nowhere --ids --device cpu", &["nowhere"]);
}

#[test]
fn a_fine_tuned_directory_is_exportable_as_it_lies() {
    let folder = run();
    let lines = "{\"text\":\"赤い花\",\"label\":\"色\"}\n{\"text\":\"三つの石\",\"label\":\"数\"}\n";
    fs::write(folder.join("exported.jsonl"), lines.repeat(4)).expect("written");
    let train = "finetune classify --train exported.jsonl --dev exported.jsonl --init encoder --device cpu --threads 1";
    done(folder, &format!("{train} --epochs 1 --out labels"));
    done(folder, "export labels --out labels-hf --license cc0-1.0 --name colours");
    let files: Vec<&str> = FILES[1..].to_vec();
    for name in files {
        let read = |out: &str| fs::read(folder.join(out).join(name)).expect("read");
        assert!(read("labels") == read("labels-hf"), "{name}");
    }
    let card = fs::read_to_string(folder.join("labels-hf/README.md")).expect("a card");
    for words in [
        "license: \"cc0-1.0\"",
        "# colours",
        "text-classification",
        "model-index",
        "exported.jsonl",
        "inazuma finetune classify",
    ] {
        assert!(card.contains(words), "{words}: {card}");
    }
    let ids = [
        json!({"id": "a", "input_ids": [4, 10, 11, 5]}),
        json!({"input_ids": [4, 9, 5, 8, 5], "token_type_ids": [0, 0, 0, 1, 1]}),
    ];
    let full = said(folder, "labels", &ids);
    assert_eq!(full, said(folder, "labels-hf", &ids));
    assert!(full[0]["id"] == "a" && full[0]["logits"].as_array().map(Vec::len) == Some(2), "{full:?}");
    // Eight bits of a number stay in bf16, and the answer with them.
    done(folder, "export labels --out labels-bf16 --dtype bf16");
    let short = tensors(&folder.join("labels-bf16/model.safetensors"));
    let long = tensors(&folder.join("labels/model.safetensors"));
    assert!(
        short
            .iter()
            .all(|(name, (shape, bytes))| (shape, bytes.len() * 2) == (&long[name].0, long[name].1.len()))
    );
    for (a, b) in full.iter().zip(said(folder, "labels-bf16", &ids)) {
        for (a, b) in a["logits"].as_array().unwrap().iter().zip(b["logits"].as_array().unwrap()) {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() < 0.05 && a != b, "{a} {b}");
        }
    }
}

#[test]
fn both_networks_say_what_they_make_of_ids() {
    let folder = run();
    let lines = [
        json!({"input_ids": [4, 10, 6, 12, 5]}),
        json!({"input_ids": [4, 10, 11, 12, 5], "positions": [1, 3], "token_type_ids": [0, 0, 1, 1, 1]}),
        json!({"input_ids": [4, 10, 5]}),
    ];
    let said = said(folder, "encoder", &lines);
    let lengths = |value: &Value| value.as_array().expect("a list").len();
    assert_eq!((lengths(&said[0]["discriminator"]), &said[0]["positions"]), (5, &json!([2])));
    assert_eq!(lengths(&said[0]["generator"][0]), 2000);
    assert_eq!((lengths(&said[1]["generator"]), lengths(&said[2]["generator"])), (2, 0));
}
