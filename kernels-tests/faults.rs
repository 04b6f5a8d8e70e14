//! Stores that are damaged, or change while a run reads them, and small things that a user gets wrong: through the binary.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use inazuma::store::Store;
use inazuma::store::format::{DOCUMENT_ENDS, LINE_ENDS, SECTION_NAMES, Section, TOKENIZER, TOKENS};
use serde_json::Value;

use crate::command_line::{TRAIN, done, misused, prepared, refused};
use crate::fine_tuning::{questions, run};

/// A copy of the store of our articles under another name.
fn copy(name: &str) -> PathBuf {
    let path = prepared().join(name);
    fs::copy(prepared().join("store"), &path).expect("copied");
    path
}

fn sections() -> [Section; 5] {
    Store::open(&prepared().join("store")).expect("a store").header().sections
}

/// Writes bytes over those of a file, in place.
fn write_over(path: &Path, place: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("opened");
    file.seek(SeekFrom::Start(place)).and_then(|_| file.write_all(bytes)).expect("written");
}

fn byte(path: &Path, place: u64) -> u8 {
    let mut byte = [0];
    let mut file = fs::File::open(path).expect("opened");
    file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(&mut byte)).expect("read");
    byte[0]
}

#[test]
fn nothing_damaged_is_trained_on() {
    let folder = prepared();
    let sections = sections();
    for section in [TOKENS, LINE_ENDS, DOCUMENT_ENDS, TOKENIZER] {
        let name = format!("damaged-{section}.store");
        let path = copy(&name);
        let place = sections[section].offset + sections[section].length / 2;
        write_over(&path, place, &[byte(&path, place) ^ 1]);
        let train = TRAIN.replace("--store store", &format!("--store {name}"));
        let words = [&name, "damaged between bytes", SECTION_NAMES[section], "inazuma store verify"];
        refused(folder, &format!("{train} --out damaged-{section}"), &words);
        assert!(!folder.join(format!("damaged-{section}/checkpoints")).exists());
    }
    copy("ff.store");
    write_over(&folder.join("ff.store"), sections[TOKENS].offset + 640, &[0xff; 4000]);
    let words = ["ff.store", "damaged between bytes", "tokens"];
    for command in [
        TRAIN.replace("--store store", "--store ff.store") + " --out ff",
        format!("{TRAIN} --eval-store ff.store --out ff"),
        "store info ff.store".into(),
        "store export ff.store --out ff-records".into(),
        "bench data --store ff.store --preset tiny".into(),
    ] {
        refused(folder, &command, &words);
    }
}

/// Trains until there are metrics, lets `change` loose on the store, and gives back what the run said and how it ended.
fn trained_while(name: &str, change: impl FnOnce(&Path)) -> (Option<i32>, String) {
    let path = copy(&format!("{name}.store"));
    let out = prepared().join(name);
    let train = TRAIN.replace("--store store", &format!("--store {name}.store"));
    let train = train
        .replace("steps=6", "steps=100000")
        .replace("every=3", "every=1000")
        .replace("every=2", "every=1");
    let mut child = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(train.split_whitespace())
        .args(["--out", name])
        .current_dir(prepared())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let began = Instant::now();
    let metrics = || fs::metadata(out.join("metrics.jsonl")).map_or(0, |metadata| metadata.len());
    while metrics() == 0
        && began.elapsed() < Duration::from_secs(120)
        && child.try_wait().expect("waited").is_none()
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    change(&path);
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("UTF-8");
    (child.wait().expect("waited").code(), errors)
}

#[test]
fn a_store_that_changes_under_a_run_ends_it_with_one_line() {
    let tokens = sections()[TOKENS];
    let cut = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(1000).expect("cut");
    };
    let overwritten = |path: &Path| write_over(path, tokens.offset, &vec![0xff; tokens.length as usize]);
    for (name, change, words) in [
        ("store-cut", &cut as &dyn Fn(&Path), "cut short while it was in use"),
        ("store-overwritten", &overwritten, "changed while it was in use"),
    ] {
        let (code, errors) = trained_while(name, change);
        // A signal would leave no code.
        assert_eq!(code, Some(1), "{errors}");
        let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("inazuma: error: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(words) && lines[0].contains(name), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        // What had been learnt is kept.
        assert!(prepared().join(name).join("latest").is_file(), "{errors}");
    }
}

/// A store that is replaced, as `prepare` does it, is another file: the run goes on with the one it opened.
#[cfg(unix)]
#[test]
fn a_store_may_be_replaced_under_a_run() {
    let path = copy("replaced.store");
    let store = Store::open(&path).expect("a store");
    let tokens = store.read_tokens(0..100).expect("tokens");
    fs::write(prepared().join("new"), b"another").expect("written");
    fs::rename(prepared().join("new"), &path).expect("renamed");
    assert_eq!(store.read_tokens(0..100).expect("tokens"), tokens);
}

#[test]
fn verify_says_in_json_what_is_damaged() {
    let path = copy("json.store");
    write_over(&path, 600, &[byte(&path, 600) ^ 4]);
    let output = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(["store", "verify", "json.store", "--json"])
        .current_dir(prepared())
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    assert!(
        report["error"].as_str().is_some_and(|error| error.contains("damaged between bytes")),
        "{report}"
    );
}

#[test]
fn wrong_usage_exits_2_and_names_the_bounds() {
    let folder = prepared();
    for (arguments, words) in [
        ("--set learning_rat=1", &["--set", "learning_rat", "learning_rate"][..]),
        ("--set steps=0", &["--set", "steps is 0", "1 or more, below 2^63"]),
        ("--set steps", &["--set", "key=value"]),
        ("--set model.layers=99999999999", &["--set", "1 to 16777216"]),
        ("--preset smal", &["--preset", "smal", "small"]),
        ("--threads 1000000000000000000", &["--threads", "0..=1024"]),
        ("--threads 1025", &["--threads", "0..=1024"]),
    ] {
        misused(folder, &format!("pretrain --store store --out misused {arguments}"), words);
    }
    misused(folder, "store export store --out x --files 1000000", &["--files", "1..=1000"]);
    let tune = "finetune squad --init none --train x --out misused";
    misused(folder, &format!("{tune} --batch-size 0"), &["--batch-size", "1..=1048576"]);
    misused(folder, &format!("{tune} --trials 1000000000000"), &["--trials", "1..=10000"]);
    misused(folder, "predict --model x --batch 0", &["--batch", "1..=100000"]);
    fs::write(folder.join("bad.toml"), "steps = 0\n").expect("written");
    refused(folder, "pretrain --store store --out misused --config bad.toml", &["bad.toml", "steps is 0"]);
    assert!(!folder.join("misused").exists());
}

#[test]
fn small_things_about_fine_tuned_models() {
    let folder = run();
    let (train, dev) = (questions("train"), questions("dev"));
    let tune =
        format!("finetune squad --init encoder --train {train} --device cpu --train-limit 2 --epochs 1");
    let words = ["--redraw-layers is 99", "the model has", "layers"];
    refused(folder, &format!("{tune} --redraw-layers 99 --out redrawn"), &words);
    done(folder, &format!("{tune} --out few --max-length 64"));
    // Exactly the file that was named.
    done(
        folder,
        &format!("eval squad --model few --data {dev} --limit 2 --device cpu --predictions answers"),
    );
    assert!(folder.join("answers").is_file() && !folder.join("answers.json").exists());
    assert!(folder.join("answers.nbest.json").is_file());
    let ask = |question: &str, context: &str| {
        let arguments =
            ["predict", "--model", "few", "--device", "cpu", "--question", question, "--context", context];
        let mut command = Command::new(env!("CARGO_BIN_EXE_inazuma"));
        let output = command.args(arguments).current_dir(folder).output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let empty = |(code, errors): (Option<i32>, String), words: &str| {
        assert!(code == Some(1) && errors.contains(words), "{code:?} {errors}");
    };
    empty(ask(" ", "千代川は砂を運ぶ"), "--question is empty");
    empty(ask("川は何ですか", "\n"), "the context is empty");
    let mut child = Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(["predict", "--model", "few", "--device", "cpu"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all("{\"question\":\"\",\"context\":\"川\"}\n".as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("waited");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    empty((output.status.code(), errors), "line 1: \"question\" is empty");
}

/// What is written may be read by whom the umask allows.
#[cfg(unix)]
#[test]
fn permissions_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = run();
    let under_umask = |arguments: &str| {
        let line = format!("umask 027; exec {} {arguments}", env!("CARGO_BIN_EXE_inazuma"));
        let output = Command::new("sh").args(["-c", &line]).current_dir(folder).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    under_umask(&format!("{TRAIN} --out masked"));
    under_umask("export masked --out masked-exported");
    under_umask(&format!(
        "finetune squad --init encoder --train {} --train-limit 2 --epochs 1 --max-length 64 --device cpu --out \
         masked-tuned",
        questions("train")
    ));
    let mut open: Vec<PathBuf> =
        ["masked", "masked-exported", "masked-tuned"].map(|name| folder.join(name)).into();
    let mut files = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("listed").map(|entry| entry.expect("listed").path()));
            continue;
        }
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{}: {mode:o}", path.display());
        files += 1;
    }
    assert!(files > 10, "{files}");
}

#[test]
fn a_checkpoint_that_was_moved_is_named() {
    let folder = run();
    let moved = folder.join("moved/away");
    fs::create_dir_all(&moved).expect("created");
    for entry in fs::read_dir(folder.join("encoder/checkpoints/step-00000006")).expect("listed") {
        let path = entry.expect("listed").path();
        fs::copy(&path, moved.join(path.file_name().expect("named"))).expect("copied");
    }
    let words = ["moved/away: lies in no run", "config.toml"];
    refused(folder, &format!("{TRAIN} --init moved/away --out from-moved"), &words);
    refused(folder, "export moved/away --out from-moved", &words);
}
