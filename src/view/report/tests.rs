//! The page: whole, by itself, and of runs that lack things.

use std::fs;
use std::path::Path;
use std::process::Command;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::*;
use crate::testing::skipped;
use crate::train::annotated::Annotated;
use crate::train::config::Sources;
use crate::train::sample::{Guess, Proposal, Token};
use crate::view::plot::Language;

fn options() -> Options {
    Options::plain(Language::Ja)
}

/// Every tag is closed, ids are there once, and nothing is asked of a network.
fn well_formed(page: &str) {
    let mut reader = Reader::from_str(page);
    let mut ids: Vec<String> = Vec::new();
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(element) | Event::Empty(element) => {
                for attribute in element.attributes() {
                    let attribute = attribute.expect("an attribute");
                    let (key, value) = (attribute.key.as_ref(), attribute.value.as_ref().to_owned());
                    assert!(!["src", "href", "srcset", "xlink:href"].contains(&key), "{key}={value}");
                    if key == "id" {
                        assert!(!ids.contains(&value), "{value} twice");
                        ids.push(value);
                    }
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let own = ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"];
    let rest = own.iter().fold(page.to_owned(), |page, space| page.replace(space, ""));
    for asked in ["http:", "https:", "url(", "@import", "import(", "fetch("] {
        assert!(!rest.contains(asked), "{asked}");
    }
}

/// What HTML Tidy has to say of a page; nothing where there is none of HTML5 here.
fn complaints(page: &str) -> Option<String> {
    let version = Command::new("tidy").arg("--version").output();
    // That of macOS is from 2006, and has no version.
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" version ")) {
        skipped("there is no tidy that knows HTML5 (apt install tidy)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    fs::write(&file, page).unwrap();
    let output = Command::new("tidy").args(["-q", "-e", "-utf8"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { said } else { format!("{}: {said}", output.status) })
}

/// Well-formed, by itself, and HTML.
fn sound(page: &str) {
    well_formed(page);
    assert_eq!(complaints(page).unwrap_or_default(), "");
}

#[test]
fn what_is_no_html_is_complained_of() {
    let page = |body: &str| {
        format!("<!DOCTYPE html>\n<html lang=\"en\"><head><title>t</title></head><body>{body}</body></html>")
    };
    for (body, complaint) in [
        ("<p>fine</p>", ""),
        ("<p><em>not closed</p>", "</em>"),
        ("<p><blink2>unknown</blink2></p>", "blink2"),
    ] {
        if let Some(said) = complaints(&page(body)) {
            assert!(said.contains(complaint) && said.is_empty() == complaint.is_empty(), "{body}: {said}");
        }
    }
}

fn opened(folder: &Path, files: &[(&str, &str)]) -> Recorded {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Recorded::open(folder).unwrap()
}

const CONFIG: &str = "steps = 30\nbatch_size = 4\nmicro_batch = 4\nvocabulary_chunk = 64\nmax_length = 16\n\
    [model]\nvocab_size = 100\nlayers = 1\nhidden_size = 16\nembedding_size = 16\nheads = 2\nffn_size = 32\nmax_positions = 16\n\
    generator_hidden_size = 8\ngenerator_layers = 1\ngenerator_heads = 1\ngenerator_ffn_size = 16\n";

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let run = opened(folder.path(), &[("config.toml", CONFIG)]);
    let page = page(&run, &options(), None).unwrap();
    sound(&page);
    for part in [
        "no line of metrics yet",
        "Memory by role",
        "first moments",
        "Updates of the parameters",
        "eval pretrain RUN --store STORE",
        "None: the run has no held-out store",
        "Nothing of these was recorded yet.",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script"), "nothing to hover over");
}

#[test]
fn all_that_is_known_is_on_the_page_and_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let store = r#"{"path":"/x/湖&<山>.store","documents":1,"lines":2,"tokens":3000,"crc":"00c0ffee"}"#;
    let files = [
        ("config.toml", CONFIG),
        (
            "metrics.jsonl",
            "{\"step\":3,\"tokens\":90,\"loss\":5.5,\"mlm_accuracy\":0.25}\n{\"step\":6,\"tokens\":190,\"loss\":null}\n",
        ),
        ("eval.jsonl", "{\"step\":6,\"loss\":5.25,\"unigram_entropy\":6.27}\n"),
        (
            "run.json",
            &format!(
                r#"{{"program":"inazuma 0","device":"a < b","processor":"Model 3","threads":1,"stores":[{store}],"eval_store":{store}}}"#
            ),
        ),
        (
            "profile.json",
            r#"{"lines":[{"op":"matmul","shape":"T×1 → T×2","strategy":"s","calls":2,"seconds":0.5,"share":0.9,"share_of_peak":0.4}],"ops_seconds":0.5,"step_seconds":0.6}"#,
        ),
        (
            "incidents/step-00000004.json",
            r#"{"step":4,"batch":3,"cause":"not_finite","gradient_norm":"NaN","norm_limit":2.5,"action":"skip"}"#,
        ),
        ("history.jsonl", "{\"step\":4,\"event\":\"rollback\"}\n"),
    ];
    let run = opened(folder.path(), &files);
    let token = |piece: &str, read: &str, masked: bool, probability_replaced| Token {
        piece: piece.to_owned(),
        text: piece.to_owned(),
        masked: masked.then(|| Guess {
            hidden: true,
            proposal: Proposal { piece: read.to_owned(), probability: 0.5 },
            probability_of_original: 0.1,
            top: Vec::new(),
        }),
        replaced: piece != read,
        probability_replaced,
    };
    let text = vec![
        token("▁琵琶", "▁琵琶", false, 0.02),
        token("湖", "<海>", true, 0.91),
        token("は", "は", true, 0.1),
    ];
    let samples = Samples { about: "&c.".into(), texts: vec![text] };
    let page = page(&run, &options(), Some(&samples)).unwrap();
    sound(&page);
    for part in [
        "湖&amp;&lt;山&gt;.store",
        "00c0ffee",
        "a &lt; b",
        "Model 3, 1 thread",
        "matmul",
        "not_finite",
        "rollback",
        "6.27",
        "<s>湖</s>&lt;海&gt;<small>0.91</small>",
        "class=\"token masked\"",
        "損失",
        "application/json",
        "6 steps of 30, 190 tokens",
        "Struck out: the original; after it: what the generator put there.",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

/// What is bold is what `inazuma config` says of the run: other than in the nearest preset.
#[test]
fn bold_is_what_differs_from_the_nearest_preset() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = "steps = 300\nbatch_size = 16\nmicro_batch = 16\nvocabulary_chunk = 64\nmax_length = 128\nwarmup_steps = 20\n\
        log_every = 7\ncheckpoint_every = 100\n[model]\nvocab_size = 100\nembedding_size = 64\nhidden_size = 128\n\
        layers = 4\nheads = 4\nffn_size = 512\nmax_positions = 128\ngenerator_hidden_size = 32\ngenerator_layers = 4\n\
        generator_heads = 1\ngenerator_ffn_size = 128\n";
    let store = r#"{"eval_store":{"path":"/nowhere/x.store"}}"#;
    let run = opened(folder.path(), &[("config.toml", tiny), ("run.json", store)]);
    let page = page(&run, &options(), None).unwrap();
    sound(&page);
    assert!(page.contains("other than in the preset tiny, "), "{page}");
    let (annotated, _) = Annotated::of(Some(folder.path()), &Sources::default()).unwrap();
    let changed = annotated.keys.iter().filter(|entry| entry.changed).map(|entry| entry.name.as_str());
    assert_eq!(changed.collect::<Vec<_>>(), ["log_every"]);
    let bold = page.split("<tr class=\"changed\"><td class=\"name\">").skip(1);
    assert_eq!(bold.filter_map(|row| row.split('<').next()).collect::<Vec<_>>(), ["log_every"]);
    assert!(page.contains("None: the held-out store x.store is no longer where it was"), "{page}");
}

#[test]
fn a_fine_tuned_model_has_a_page_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "metrics.jsonl",
            "{\"step\":9,\"epoch\":1,\"loss\":1.5,\"f1\":0.5}\n{\"step\":18,\"epoch\":2,\"loss\":1,\"f1\":0.75}\n",
        ),
        (
            "training.json",
            r#"{"command":"inazuma finetune tag","train":{"file":"a.json","sha256":"5aa5"},"best_epoch":2,"epochs":[{"epoch":1}]}"#,
        ),
        ("inazuma.json", r#"{"task":"tag","labels":["O","B-人名"]}"#),
    ];
    let page = page(&opened(folder.path(), &files), &options(), None).unwrap();
    sound(&page);
    for part in
        ["fine-tuned (tag): 2 epochs", "5aa5", "train.sha256", "O, B-人名", "best_epoch", "F1(開発データ)"]
    {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = opened(folder.path(), &[("config.toml", CONFIG), ("run.json", "{")]);
    let error = format!("{:#}", page(&run, &options(), None).unwrap_err());
    assert!(error.contains("run.json"), "{error}");
}

#[test]
fn texts_are_the_users_or_of_a_store_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts");
    fs::write(&file, format!("\n 琵琶湖は湖である。\n{}\nc\nd\ne\n", "長".repeat(1000))).unwrap();
    let found = texts(folder.path(), Some(&file)).unwrap();
    assert_eq!((found.len(), found[0].as_str(), found[1].chars().count()), (4, "琵琶湖は湖である。", 400));
    assert!(texts(folder.path(), None).unwrap().is_empty());
    fs::write(folder.path().join("run.json"), r#"{"eval_store":{"path":"/nowhere/x.store"}}"#).unwrap();
    assert!(texts(folder.path(), None).unwrap().is_empty());
    let missing = folder.path().join("missing");
    assert!(format!("{:#}", texts(folder.path(), Some(&missing)).unwrap_err()).contains("missing"));
}
