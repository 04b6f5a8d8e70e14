//! Every example of `--help`, and every command of the README, the guide and the like, run as they stand.
//!
//! A folder holds something small under every name that the examples use. An example gets a folder of links to all of it,
//! but for what it writes itself, and smaller sizes by a table. What cannot be run here is read by the command line, and
//! said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rayon::prelude::*;

use super::command_line::{done, prepared};

/// Documents whose indented lines are commands.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "docs/cli.md",
    "docs/guide.md",
    "docs/faq.md",
    "docs/looking.md",
    "docs/ranks.md",
    "docs/import.md",
    "docs/interop.md",
];

/// Beginnings of examples that are only read, and what they want. The rest is run.
const ONLY_READ: [(&str, &str); 8] = [
    ("inazuma import models/electra_small/model.ckpt-1000000", "a TensorFlow checkpoint"),
    ("inazuma import tf-checkpoint", "a TensorFlow checkpoint"),
    ("inazuma pretrain --store text.store --init tf ", "a TensorFlow checkpoint"),
    ("inazuma selftest", "minutes, and has tests of its own"),
    ("inazuma bench kernels", "a GPU"),
    ("inazuma watch", "a terminal"),
    ("inazuma pretrain --store wiki.store --out run --budget", "a day"),
    ("inazuma pretrain --store wiki.store --out run --hparams", "a store of 32,000 pieces"),
];

fn help(command: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(command)
        .arg("--help")
        .env("COLUMNS", "1000")
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{command:?} --help");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The help of a command and of all below it.
fn helps(command: &[String], found: &mut Vec<(String, String)>) {
    let text = help(command);
    let below =
        text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let below =
        below.filter(|line| !line.starts_with("    ")).filter_map(|line| line.split_whitespace().next());
    let below: Vec<String> = below.filter(|name| *name != "help").map(str::to_owned).collect();
    found.push((format!("inazuma {} --help", command.join(" ")), text));
    for name in below {
        helps(&[command, &[name]].concat(), found);
    }
}

/// Commands of a text, each on one line, with where they stand.
fn commands(place: &str, text: &str, found: &mut BTreeSet<(String, String)>) {
    let text = text.replace("\\\n", " ");
    for line in text.lines() {
        // The README's figures stand in a table, with the commands that measured them.
        if place == "README.md" && line.starts_with('|') {
            let quoted = line.split('`').skip(1).step_by(2).filter(|words| words.starts_with("inazuma "));
            found.extend(quoted.map(|words| (place.to_owned(), words.to_owned())));
        }
        let line = line.strip_prefix("Example: ").map_or(line.to_owned(), |rest| format!("  {rest}"));
        let words = line.trim_start();
        if line.starts_with("  ") && (words.starts_with("inazuma ") || words.contains("| inazuma ")) {
            // Three dots, capitals with bars and <COMMAND> are a grammar, not a command.
            if !["…", "[--", "<COMMAND>"].iter().any(|mark| words.contains(mark)) {
                found.insert((place.to_owned(), words.to_owned()));
            }
        }
    }
}

fn all_examples() -> BTreeSet<(String, String)> {
    let (mut texts, mut found) = (Vec::new(), BTreeSet::new());
    helps(&[], &mut texts);
    assert!(texts.len() > 20, "commands are found");
    for (place, text) in texts {
        commands(&place, &text, &mut found);
    }
    for document in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
        commands(document, &text, &mut found);
    }
    found
}

fn xz(path: &Path, text: &str) {
    let mut file = liblzma::write::XzEncoder::new(fs::File::create(path).expect("created"), 1);
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
    file.finish().expect("written");
}

/// A folder with something small under every name of the examples.
fn kitchen() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, at(to)).expect("linked");
    for name in ["text", "articles"] {
        link(&prepared().join("text"), name);
    }
    for name in ["wiki.model", "wiki-32k.model", "own.model"] {
        link(&prepared().join("pieces.model"), name);
    }
    for name in ["wiki.store", "books.store", "k4.store"] {
        link(&prepared().join("store"), name);
    }
    link(&prepared().join("store.held-out"), "wiki.store.held-out");
    link(
        &root.join("data/inazuma-articles-multistream.xml.bz2"),
        "jawiki-latest-pages-articles-multistream.xml.bz2",
    );
    link(&root.join("kernels-tests"), "kernels-tests");
    let squad: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root.join("data/inazuma-squad-dev.json")).expect("read"))
            .expect("JSON");
    let mut few = squad.clone();
    few["data"].as_array_mut().expect("data").truncate(1);
    let few = few.to_string();
    for name in ["jaquad-train.json.xz", "jaquad-dev.json.xz", "jsquad-valid-v1.3.json.xz"] {
        xz(&at(name), &few);
    }
    for name in ["train.json", "dev.json", "jsquad-valid.json"] {
        fs::write(at(name), &few).expect("written");
    }
    let mut answers = serde_json::Map::new();
    for article in squad["data"].as_array().expect("data") {
        for question in article["paragraphs"]
            .as_array()
            .expect("paragraphs")
            .iter()
            .flat_map(|p| p["qas"].as_array())
            .flatten()
        {
            answers.insert(question["id"].as_str().expect("id").to_owned(), "砂".into());
        }
    }
    fs::write(at("predictions.json"), serde_json::Value::Object(answers).to_string()).expect("written");
    fs::write(at("fuji.txt"), "富士山は日本で一番高い山である。\n").expect("written");
    fs::write(at("text.txt"), "稲妻は雷に伴う光である。\n").expect("written");
    fs::write(at("kyoto.txt"), "京都は古い都である。\n\n鴨川が流れる。\n".repeat(40)).expect("written");
    fs::write(at("texts.jsonl"), "{\"id\": 1, \"text\": \"京都の鴨川\"}\n").expect("written");
    fs::write(at("wiki-ids.jsonl"), "{\"ids\": [[17, 5, 9], [9, 8]]}\n".repeat(20)).expect("written");
    let labels = ["entailment", "neutral", "contradiction"];
    let pairs: String = (0..24)
        .map(|n| {
            let split = ["train", "trial", "test"][n % 3];
            format!("{n}\t猫がいる。\t犬がいる。\t{}\t3.{n}\t{split}\n", labels[n / 3 % 3])
        })
        .collect();
    let head = "pair_ID\tsentence_A_Ja\tsentence_B_Ja\tentailment_label_Ja\trelatedness_score_Ja\tdata\n";
    xz(&at("jsick.tsv.xz"), &format!("{head}{pairs}"));
    let tagged: Vec<serde_json::Value> = (0..20)
        .map(|n| {
            serde_json::json!({"curid": n.to_string(), "text": format!("京都の鴨川{n}"),
            "entities": [{"name": "京都", "span": [0, 2], "type": "地名"}]})
        })
        .collect();
    xz(&at("stockmark-ner-wikipedia.json.xz"), &serde_json::Value::from(tagged).to_string());

    let train = "pretrain --store wiki.store --device cpu --preset tiny --set steps=4 --set batch_size=2 --set micro_batch=2 \
                 --set checkpoint_every=2 --set warmup_steps=1 --set max_length=32 --set schedule=wsd";
    done(
        folder.path(),
        &format!("{train} --out run --eval-store wiki.store.held-out --set eval_sequences=4"),
    );
    let tune = "--device cpu --epochs 1 --max-length 64 --batch-size 8";
    done(
        folder.path(),
        &format!("finetune squad --init run --train train.json --dev dev.json --out qa {tune}"),
    );
    done(
        folder.path(),
        &format!(
            "finetune classify --init run --train jsick.tsv.xz --dev jsick.tsv.xz --dev-where data=test --out nli {tune}"
        ),
    );
    done(
        folder.path(),
        &format!(
            "finetune tag --init run --train stockmark-ner-wikipedia.json.xz --hold-out 30% --out ner {tune}"
        ),
    );
    for name in ["run-a", "run-b"] {
        link(&at("run"), name);
    }
    done(folder.path(), "import run --out imported");
    done(folder.path(), "export run --out exported");
    done(folder.path(), "store export wiki.store --out pretrain_tfrecords --max-length 32 --files 1");
    for network in ["discriminator", "generator"] {
        link(&at("exported").join(network), &format!("electra-small-japanese-{network}"));
    }
    folder
}

/// The value behind an option, to be replaced.
fn replace(words: &mut [String], option: &str, value: &str) {
    if let Some(place) = words.iter().position(|word| word == option)
        && let Some(word) = words.get_mut(place + 1)
    {
        *word = value.to_owned();
    }
}

/// The same with the smallest sizes.
fn smaller(mut words: Vec<String>) -> Vec<String> {
    let resumes = words.iter().any(|word| word == "--resume");
    let more: &str = match words.first().map(String::as_str) {
        Some("pretrain") if resumes || words.iter().any(|word| word == "--decay-from") => "--device cpu",
        Some("pretrain") if words.iter().any(|word| word == "--explain") => "",
        Some("pretrain") => {
            // What `imported` has made counts: six are two more.
            "--device cpu --set steps=6 --set batch_size=2 --set micro_batch=2 --set warmup_steps=1 --set max_length=32"
        }
        Some("finetune") => "--device cpu --epochs 1 --max-length 64 --batch-size 8",
        Some("predict" | "eval" | "parity" | "sample") => "--device cpu",
        Some("bench") if words[1] == "step" => "--device cpu --steps 1",
        Some("bench") if words[1] == "prepare" => "--rounds 1",
        _ => "",
    };
    words.retain(|word| !word.starts_with("--device="));
    for word in &mut words {
        *word = word
            .replace("step-00200000", "step-00000002")
            .replace("steps=250_000", "steps=4")
            .replace("micro_batch=64", "micro_batch=4");
    }
    replace(&mut words, "--preset", "tiny");
    replace(&mut words, "--trials", "1");
    replace(&mut words, "--step", "2");
    if words.first().is_some_and(|word| word == "tokenizer") {
        replace(&mut words, "--vocab-size", "2000");
    }
    let mut more = more.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    while let Some(option) = more.first().cloned() {
        let two: Vec<String> = more.drain(..2).collect();
        match words.iter().position(|word| *word == option && option != "--set") {
            Some(place) => words[place + 1] = two[1].clone(),
            None => words.extend(two),
        }
    }
    words
}

/// Links to everything in the kitchen but `out`; what a command goes on with is copied.
fn table(kitchen: &Path, out: Option<&str>, resumes: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(kitchen).expect("listed") {
        let entry = entry.expect("listed");
        let name = entry.file_name();
        if out != name.to_str() {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(&name)).expect("linked");
        } else if resumes {
            let copied = Command::new("cp").arg("-rL").arg(entry.path()).arg(folder.path()).status();
            assert!(copied.expect("cp starts").success());
        }
    }
    folder
}

/// Runs an example; what came of it where it failed.
fn run(kitchen: &Path, example: &str) -> Result<(), String> {
    let only_read = ONLY_READ.iter().find(|(beginning, _)| example.starts_with(beginning));
    let (before, command) = match example.split_once("| inazuma ") {
        Some((before, command)) => (Some(before), command.to_owned()),
        None => (None, example["inazuma ".len()..].to_owned()),
    };
    let (command, _) = command.split_once(" > ").unwrap_or((&command, ""));
    let (command, input) = command.split_once(" < ").unwrap_or((command, ""));
    let words = shlex::split(command).ok_or("quotes do not match")?;
    let words = if only_read.is_some() { [words, vec!["--help".into()]].concat() } else { smaller(words) };
    if let Some((_, why)) = only_read {
        eprintln!("only read, not run (it wants {why}): {example}");
    }
    let value = |option: &str| Some(words.get(words.iter().position(|word| word == option)? + 1)?.as_str());
    let resumes = words.iter().any(|word| word == "--resume");
    let folder = table(kitchen, value("--out"), resumes);
    let stdin = match (before, input) {
        (Some(_), _) => {
            fs::write(folder.path().join("piped"), "国境の長いトンネル\n").expect("written");
            fs::File::open(folder.path().join("piped")).expect("opened").into()
        }
        (None, "") => Stdio::null(),
        (None, name) => fs::File::open(folder.path().join(name.trim()))
            .map_err(|error| format!("{name}: {error}"))?
            .into(),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(&words)
        .current_dir(folder.path())
        .env("INAZUMA_CACHE", folder.path().join("cache"))
        .stdin(stdin)
        .output()
        .expect("the binary starts");
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = errors.lines().rev().take(3).collect();
    Err(format!("{} as `inazuma {}`: {}", output.status, words.join(" "), last.join(" / ")))
}

#[test]
fn every_example_runs_as_it_stands() {
    let kitchen = kitchen();
    let mut examples = BTreeMap::new();
    for (place, example) in all_examples() {
        let example = example.split(" # ").next().unwrap_or_default().trim().to_owned();
        examples.entry(example).or_insert(place);
    }
    let failed: Vec<String> = examples
        .par_iter()
        .filter_map(|(example, place)| {
            let why = run(kitchen.path(), example).err()?;
            Some(format!("{place}: {example}\n    {why}"))
        })
        .collect();
    assert!(examples.len() > 40, "examples are found: {}", examples.len());
    assert!(
        failed.is_empty(),
        "{} of {} examples fail:\n{}",
        failed.len(),
        examples.len(),
        failed.join("\n")
    );
}

#[test]
fn scripts_that_documents_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("read");
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "/-._".contains(c))) {
            if let Some(name) = word.strip_prefix("tools/") {
                names.insert(name.trim_end_matches(['.', '/']).to_owned());
            }
        }
    }
    assert!(names.contains("quickstart") && names.contains("test"));
    let missing: Vec<PathBuf> =
        names.iter().map(|name| root.join("tools").join(name)).filter(|path| !path.exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether a program is there, which is said where it is not.
fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: there is no {program}");
    }
    there
}

#[test]
fn pages_of_the_manual_have_no_warnings() {
    let folder = tempfile::tempdir().expect("a folder");
    done(folder.path(), "man --out pages");
    let mut pages: Vec<PathBuf> = fs::read_dir(folder.path().join("pages"))
        .expect("pages")
        .map(|entry| entry.expect("listed").path())
        .collect();
    pages.sort();
    let names: Vec<&str> = pages.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    for name in ["inazuma.1", "inazuma-pretrain.1", "inazuma-bench-step.1", "inazuma-tokenizer-train.1"] {
        assert!(names.contains(&name), "{name} among {names:?}");
    }
    if !is_there("groff") {
        return;
    }
    for page in pages {
        let output = Command::new("groff")
            .args(["-K", "utf8", "-Tutf8", "-man", "-ww", "-z"])
            .arg(&page)
            .output()
            .expect("groff");
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
    }
}

#[test]
fn completions_are_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    for (shell, flags) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = done(folder.path(), &format!("completions {shell}"));
        assert!(script.contains("pretrain") && script.contains("eval-store"), "{shell}");
        let path = folder.path().join(shell);
        fs::write(&path, script).expect("written");
        if is_there(shell) {
            let output = Command::new(shell).arg(flags).arg(&path).output().expect("a shell");
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
