//! What looks into models, through the binary: a text sampled, a run evaluated afterwards, a configuration printed, and a
//! model that answers line by line.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::command_line::{TRAIN, done, inazuma, misused, prepared, refused};
use crate::fine_tuning::{questions, run};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_run_is_looked_into() {
    let folder = prepared();
    done(folder, &format!("{TRAIN} --out looked --eval-store store.held-out --set eval_sequences=8"));
    let text = "稲妻は雷に伴う光である。";
    let sampled =
        parsed(&done(folder, &format!("sample looked --text {text} --device cpu --count 2 --top 2 --json")));
    assert_eq!((sampled["step"].as_u64(), sampled["samples"].as_array().map(Vec::len)), (Some(6), Some(2)));
    let tokens = sampled["samples"][0]["tokens"].as_array().expect("tokens");
    let read: String = tokens.iter().filter_map(|token| token["text"].as_str()).collect();
    assert_eq!(read, text);
    let table = done(folder, &format!("sample looked --text {text} --device cpu"));
    assert!(!table.contains('\x1b') && table.lines().count() > tokens.len(), "{table}");
    refused(folder, "sample store --text a", &["store: neither a run"]);
    // A text of several sequences: which one each is.
    let long = text.repeat(30);
    let numbered = parsed(&done(folder, &format!("sample looked --text {long} --device cpu --json")));
    let samples = numbered["samples"].as_array().expect("samples");
    let numbers: Vec<u64> = samples.iter().filter_map(|sample| sample["sequence"].as_u64()).collect();
    assert!(numbers.len() > 1 && numbers.iter().copied().eq(1..=samples.len() as u64), "{numbers:?}");
    let table = done(folder, &format!("sample looked --text {long} --device cpu"));
    for number in numbers {
        let heading = format!("step 6, seed 1, sequence {number} of {}: ", samples.len());
        assert_eq!(table.matches(&heading).count(), 1, "{heading}");
    }
    misused(folder, "sample looked", &["--text"]);

    let figures = parsed(&done(folder, "eval pretrain looked --store store.held-out --device cpu --json"));
    let written = fs::read_to_string(folder.join("looked/eval.jsonl")).expect("read");
    assert_eq!(figures, parsed(written.lines().last().expect("a line")));
    assert!(
        done(folder, "eval pretrain looked --store store.held-out --device cpu --sequences 2")
            .contains("disc_auc")
    );
    misused(folder, "eval squad --data x", &["--model"]);
    misused(folder, "eval", &["--model"]);

    let printed = done(folder, "config looked");
    fs::write(folder.join("printed.toml"), &printed).expect("written");
    assert!(printed.contains("# preset: 300\nsteps = 6\n"), "{printed}");
    let plain = |arguments: &str| {
        parsed(&done(folder, &format!("pretrain {arguments} --explain --json --device cpu")))
    };
    assert_eq!(plain("--config printed.toml"), plain("--config looked/config.toml"));
    let changed = done(folder, "config --preset base --set keep=9 --changed");
    assert!(changed.ends_with("# preset: 3\nkeep = 9\n"), "{changed}");
    refused(folder, "config store", &["store: neither a run"]);
    // What is written would not be what its name says.
    misused(folder, "report looked --out looked.pdf", &["--out", "a page is .html or .htm"]);
    misused(folder, "plot looked --out looked.pdf", &["--out", "a picture is .svg or .png"]);
    refused(folder, "tensorboard looked --out printed.toml", &["--out: printed.toml is a file", "directory"]);
}

#[test]
fn a_model_answers_line_by_line_and_stops_training_in_time() {
    let folder = run();
    let (train, dev) = (questions("train"), questions("dev"));
    let flags = "--init encoder --device cpu --train-limit 8 --dev-limit 4 --learning-rate 1e-9";
    let train =
        format!("finetune squad --train {train} --dev {dev} --out served {flags} --epochs 9 --patience 2");
    done(folder, &train);
    // Nothing is learned at such a rate, so the first epoch stays the best.
    let epochs = fs::read_to_string(folder.join("served/metrics.jsonl")).expect("read");
    assert_eq!(epochs.lines().count(), 3, "{epochs}");
    refused(
        folder,
        "finetune squad --init encoder --train x.json --out y --patience 2",
        &["--patience", "--dev"],
    );

    let mut server = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(["predict", "--model", "served", "--serve-stdin", "--device", "cpu"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut input = server.stdin.take().expect("a pipe");
    let mut output = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let good = json!({"id": "q7", "question": "川は何ですか", "context": "千代川は砂を運ぶ"}).to_string();
    for (line, key, words) in [
        (good.as_bytes(), "answer", ""),
        (b"{\"id\":3,\"question\":\"x\"}", "error", "lacks \"context\""),
        (b"", "error", "line 3"),
        (b"\xff", "error", "line 4"),
        (good.as_bytes(), "answer", ""),
    ] {
        input.write_all(&[line, b"\n"].concat()).expect("written");
        input.flush().expect("written");
        // Each is answered before the next is sent.
        let answer = parsed(&output.next().expect("an answer").expect("read"));
        assert!(answer[key].as_str().is_some_and(|text| text.contains(words)), "{answer}");
        assert_eq!(answer.get("id").is_some(), line.len() > 1, "{answer}");
    }
    // What has no id gets none: the answer has the line's number. A number stays one.
    let bare = json!({"question": "川は何ですか", "context": "千代川は砂を運ぶ"});
    let mut numbered = bare.clone();
    numbered["id"] = 7.into();
    for (line, key, value) in [(bare, "line", json!(6)), (numbered, "id", json!(7))] {
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("written");
        let answer = parsed(&output.next().expect("an answer").expect("read"));
        let first = answer.as_object().and_then(|answer| answer.iter().next()).expect("a field");
        assert_eq!(first, (&key.to_owned(), &value), "{answer}");
    }
    drop(input);
    assert!(output.next().is_none() && server.wait().expect("ended").success());

    let table =
        done(folder, &format!("eval squad --model served --data {dev} --limit 4 --table 3 --device cpu"));
    assert_eq!(table.lines().count(), 1 + 3 + 1 + 1, "{table}");
}

/// A number is neither right nor wrong: nothing says how many were.
#[test]
fn regression_has_no_accuracy() {
    let folder = run();
    let lines: String =
        (0..8).map(|n| format!("{{\"text\":\"赤い花が{n}本\",\"label\":\"{n}.5\"}}\n")).collect();
    fs::write(folder.join("numbers.jsonl"), lines).expect("written");
    let train =
        "finetune regress --train numbers.jsonl --dev numbers.jsonl --init encoder --out valued --epochs 1";
    let output = inazuma(folder, &format!("{train} --device cpu"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let epoch = errors.lines().find(|line| line.starts_with("epoch 1/1")).expect("an epoch");
    assert!(epoch.contains("pearson") && !errors.contains("accuracy"), "{errors}");
    assert!(
        errors.contains("is in valued  ") && errors.ends_with("next: inazuma predict --model valued\n"),
        "{errors}"
    );
    let metrics = fs::read_to_string(folder.join("valued/metrics.jsonl")).expect("read");
    assert!(metrics.contains("\"pearson\"") && !metrics.contains("accuracy"), "{metrics}");
    done(folder, "plot valued --out valued.svg --lang en");
    let picture = fs::read_to_string(folder.join("valued.svg")).expect("read");
    assert!(picture.contains("Pearson") && !picture.contains("accuracy"));
    // Nor is there a text to sample.
    fs::write(folder.join("some.txt"), "稲妻\n").expect("written");
    refused(
        folder,
        "report valued --out valued.html --text some.txt",
        &["--text: valued is a fine-tuned model"],
    );
    done(folder, "report valued --out valued.html");
}

/// Questions of which some have no answer: the threshold is kept and used, and the files give the same best scores.
#[test]
fn thresholds_of_no_answer_are_kept_and_used() {
    let folder = run();
    let question = |n: usize| {
        let impossible = n.is_multiple_of(3);
        let answers = if impossible { json!([]) } else { json!([{"text": "砂", "answer_start": 4}]) };
        json!({"id": format!("q{n}"), "question": format!("{n}は何ですか"), "is_impossible": impossible, "answers": answers})
    };
    let questions: Vec<Value> = (0..12).map(question).collect();
    let data =
        json!({"data": [{"title": "t", "paragraphs": [{"context": "千代川は砂を運ぶ", "qas": questions}]}]});
    fs::write(folder.join("some.json"), data.to_string()).expect("written");
    for head in ["plain", "joint"] {
        let flags = "--init encoder --device cpu --epochs 2 --learning-rate 1e-3 --json";
        let report = done(
            folder,
            &format!(
                "finetune squad --train some.json --dev some.json --out some-{head} --head {head} {flags}"
            ),
        );
        let description =
            parsed(&fs::read_to_string(folder.join(format!("some-{head}/inazuma.json"))).expect("read"));
        assert!(description["no_answer_threshold"].is_number(), "{description}");
        let eval = format!(
            "eval squad --model some-{head} --data some.json --device cpu --json --predictions some.out.json"
        );
        let scores = parsed(&done(folder, &eval));
        let rounded = |score: &Value| (score.as_f64().expect("a score") * 1e4).round() / 1e4;
        let trained = &parsed(&report)["trials"][0]["scores"];
        assert_eq!(json!(rounded(&scores["f1"])), trained["f1"]);
        assert_eq!(scores["best_f1_thresh"], description["no_answer_threshold"]);
        assert!(
            (scores["f1"].as_f64().unwrap() - scores["best_f1"].as_f64().unwrap()).abs() < 1e-6,
            "{scores}"
        );
        // Predictions of which nothing was taken back, so that another threshold could be chosen.
        let raw = format!("{eval} --no-answer-threshold 1e30");
        done(folder, &raw);
        let scored = parsed(&done(folder, "score squad some.json some.out.json --na-probs some.out.na.json"));
        assert_eq!(scored["best_f1"], scores["best_f1"], "{scored}");
        assert_eq!(scored["best_exact_thresh"], scores["best_exact_thresh"], "{scored}");
        assert!(scored["f1"].as_f64() <= scored["best_f1"].as_f64());
    }
    fs::write(folder.join("few.json"), "{\"q1\": 0.5}").expect("written");
    refused(folder, "score squad some.json some.out.json --na-probs few.json", &["few.json", "1 of 12"]);
}
