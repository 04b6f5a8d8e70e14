//! Fine-tuning through the binary, as a user runs it: from a run to a model that answers, and bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::command_line::{TRAIN, done, prepared, refused};

/// The questions in `data/`.
pub fn questions(split: &str) -> String {
    format!("{}/data/inazuma-squad-{split}.json", env!("CARGO_MANIFEST_DIR"))
}

/// A folder with a run of a few steps, made once.
pub fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        done(prepared(), &format!("{TRAIN} --out encoder"));
        prepared().to_owned()
    })
}

fn answering(head: &str) {
    let folder = run();
    let (train, dev) = (questions("train"), questions("dev"));
    let flags = "--init encoder --epochs 1 --device cpu --learning-rate 1e-3 --train-limit 40 --dev-limit 10";
    let out = format!("qa-{head}");
    let command =
        format!("finetune squad --train {train} --dev {dev} --head {head} --out {out} {flags} --json");
    let report: Value = serde_json::from_str(&done(folder, &command)).expect("JSON");
    assert_eq!(report["trials"][0]["best_epoch"], 1);
    // What was scored in training is what the saved model says, and what `score` makes of its predictions.
    let predictions = folder.join(&out).join("predictions.json");
    let eval = format!(
        "eval squad --model {out} --data {dev} --limit 10 --device cpu --json --predictions again.json"
    );
    let scores: Value = serde_json::from_str(&done(folder, &eval)).expect("JSON");
    let rounded = |score: &Value| (score.as_f64().expect("a score") * 1e4).round() / 1e4;
    assert_eq!(rounded(&scores["f1"]), report["trials"][0]["scores"]["f1"]);
    assert_eq!(fs::read(predictions).unwrap(), fs::read(folder.join("again.json")).unwrap());
    let question =
        format!("predict --model {out} --question 川は何ですか --context 千代川は砂を運ぶ --device cpu");
    let answer = done(folder, &question);
    assert!("千代川は砂を運ぶ".contains(answer.trim()), "{answer}");
    assert!(folder.join(&out).join("config.json").is_file());
}

#[test]
fn both_heads_answer_from_the_context() {
    answering("plain");
    answering("joint");
}

#[test]
fn trials_are_summed_up_and_repeat() {
    let folder = run();
    let lines = "{\"text\":\"赤い花\",\"label\":\"色\"}\n{\"text\":\"三つの石\",\"label\":\"数\"}\n";
    fs::write(folder.join("labels.jsonl"), lines.repeat(4)).unwrap();
    let train =
        "finetune classify --train labels.jsonl --dev labels.jsonl --init none --like encoder --device cpu";
    let report = |out: &str| -> Value {
        let command = format!("{train} --epochs 2 --trials 2 --out {out} --json");
        serde_json::from_str(&done(folder, &command)).expect("JSON")
    };
    let first = report("trials-1");
    assert_eq!(first["trials"].as_array().map(Vec::len), Some(2));
    assert!(first["spread"]["accuracy"].is_number());
    assert_eq!(first, report("trials-2"));
}

#[test]
fn bad_fine_tuning_input_is_one_line() {
    let folder = run();
    fs::write(folder.join("broken.json"), "{\"data\": [").unwrap();
    let tail = "--out nowhere --device cpu";
    refused(folder, &format!("finetune squad --init encoder --train broken.json {tail}"), &["broken.json"]);
    refused(
        folder,
        &format!("finetune squad --init text --train broken.json {tail}"),
        &["text", "neither a run"],
    );
    let train = questions("train");
    let long = format!("finetune squad --init encoder --train {train} --max-length 4000 {tail}");
    refused(folder, &long, &["--max-length is 4000", "128 positions"]);
    refused(folder, "predict --model encoder --question a --context b", &["inazuma.json"]);
    // Another tokenizer than the model's is named.
    let dump_text = "tokenizer train text --out other --vocab-size 1900";
    done(folder, dump_text);
    let other = format!("finetune squad --init encoder --tokenizer other.model --train {train} {tail}");
    refused(folder, &other, &["other.model", "1900 pieces", "2000"]);
}
