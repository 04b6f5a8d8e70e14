//! The main job through the binary, as a user runs it: from the dump in `data/` to checkpoints that repeat to the
//! byte, and what is said of bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Runs the binary in `folder`.
pub fn inazuma(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inazuma"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        // Tests neither use nor change what the user has tuned.
        .env("INAZUMA_CACHE", folder.join("cache"))
        .output()
        .expect("the binary starts")
}

/// Runs it and expects success; returns stdout.
pub fn done(folder: &Path, arguments: &str) -> String {
    let output = inazuma(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inazuma {arguments}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs it and expects exit status 1 with one line that holds all of `words`; never a panic.
pub fn refused(folder: &Path, arguments: &str, words: &[&str]) {
    let output = inazuma(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "inazuma {arguments}\n{errors}");
    assert!(!errors.contains("panicked"), "inazuma {arguments}\n{errors}");
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("inazuma: error: ")).collect();
    assert_eq!(lines.len(), 1, "inazuma {arguments}\n{errors}");
    for word in words {
        assert!(lines[0].contains(word), "inazuma {arguments}: no `{word}` in: {}", lines[0]);
    }
}

/// Runs it and expects exit status 2, for a command line that is wrong, with all of `words` on stderr.
pub fn misused(folder: &Path, arguments: &str, words: &[&str]) {
    let output = inazuma(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "inazuma {arguments}\n{errors}");
    for word in words {
        assert!(errors.contains(word), "inazuma {arguments}: no `{word}` in: {errors}");
    }
}

/// A folder with text, tokenizer and store of the articles in `data/`, made once.
pub fn prepared() -> &'static Path {
    static FOLDER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/inazuma-articles-multistream.xml.bz2");
        done(&path, &format!("extract {dump} --out text"));
        done(&path, "tokenizer train text --out pieces --vocab-size 2000");
        done(&path, "prepare text --tokenizer pieces.model --out store --held-out 20%");
        (folder, path)
    });
    path
}

pub const TRAIN: &str = "pretrain --store store --preset tiny --device cpu --set steps=6 --set batch_size=4 \
                     --set micro_batch=2 --set checkpoint_every=3 --set log_every=2 --set learning_rate=5e-4 \
                     --set warmup_steps=20";

/// All files of a checkpoint, by name.
pub fn checkpoint(run: &Path, step: u64) -> Vec<(String, Vec<u8>)> {
    let folder = run.join(format!("checkpoints/step-{step:08}"));
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("listed").path())
        .map(|path| {
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("read"))
        })
        .collect();
    files.sort();
    assert!(files.len() >= 3, "model, optimizer and state: {:?}", folder);
    files
}

pub fn assert_same(a: &[(String, Vec<u8>)], b: &[(String, Vec<u8>)], what: &str) {
    for ((name, left), (other, right)) in a.iter().zip(b) {
        assert_eq!(name, other, "{what}");
        assert!(left == right, "{what}: {name} differs");
    }
    assert_eq!(a.len(), b.len(), "{what}");
}

#[test]
fn every_question_of_our_data_stands_in_the_extracted_text() {
    let text: String = fs::read_dir(prepared().join("text"))
        .expect("extracted")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect();
    let paragraphs: std::collections::HashSet<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .flat_map(|article| {
            let text = article["text"].as_str().expect("text").to_owned();
            text.split('\n').map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let mut questions = 0;
    for part in ["train", "dev"] {
        let file = format!("{}/data/inazuma-squad-{part}.json", env!("CARGO_MANIFEST_DIR"));
        let squad: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(file).expect("read")).expect("JSON");
        for paragraph in squad["data"]
            .as_array()
            .expect("data")
            .iter()
            .flat_map(|article| article["paragraphs"].as_array().expect("paragraphs"))
        {
            let context = paragraph["context"].as_str().expect("context");
            assert!(paragraphs.contains(context), "not a paragraph of the text: {context}");
            for question in paragraph["qas"].as_array().expect("qas") {
                let answer = &question["answers"][0];
                let start = answer["answer_start"].as_u64().expect("offset") as usize;
                let wanted = answer["text"].as_str().expect("text");
                let found: String = context.chars().skip(start).take(wanted.chars().count()).collect();
                assert_eq!(found, wanted, "{}", question["id"]);
                questions += 1;
            }
        }
    }
    assert!(questions >= 120, "{questions}");
}

/// Two stores by weight, to the same bytes over a resume, which refuses other weights; and a store as TFRecord and back.
#[test]
fn stores_are_mixed_and_converted() {
    let folder = prepared();
    let mixed = "--store store:3 --store store.held-out:1";
    let train = TRAIN.replace("--store store ", &format!("{mixed} "));
    done(folder, &format!("{train} --out mixed"));
    let run = folder.join("mixed");
    let expected = checkpoint(&run, 6);
    forget_the_last_checkpoint(&run);
    refused(
        folder,
        "pretrain --store store --out mixed --device cpu --resume",
        &["not the store of the run"],
    );
    let other = "pretrain --store store:1 --store store.held-out:1 --out mixed --device cpu --resume";
    refused(folder, other, &["not the store of the run"]);
    done(folder, &format!("pretrain {mixed} --out mixed --device cpu --resume"));
    assert_same(&expected, &checkpoint(&run, 6), "resumed on two stores");

    done(folder, "store export store --out records --max-length 64 --files 2");
    done(folder, "store import records --tokenizer pieces.model --out again.store");
    done(folder, "store verify again.store");
    let tokens = |store: &str| -> serde_json::Value {
        let info = done(folder, &format!("store info {store} --json"));
        serde_json::from_str::<serde_json::Value>(&info).expect("JSON")["tokens"].clone()
    };
    assert_eq!(tokens("store"), tokens("again.store"));
    refused(
        folder,
        "store import pieces.model --tokenizer pieces.model --out no.store",
        &["pieces.model", "byte 0"],
    );
}

/// As if the run had been killed after its third step of six.
pub fn forget_the_last_checkpoint(run: &Path) {
    fs::remove_dir_all(run.join("checkpoints/step-00000006")).expect("removed");
    let latest = fs::read_to_string(run.join("latest")).expect("latest");
    fs::write(run.join("latest"), latest.replace("00000006", "00000003")).expect("written");
}

/// Half precision on the device of the kernel tests: trains, says how the losses were scaled, and goes on from a
/// checkpoint as if nothing had happened. The CPU executor refuses it.
#[test]
fn half_precision_trains_and_resumes() {
    let folder = prepared();
    let train =
        TRAIN.replace("--device cpu", "--precision f16 --set model.layers=1 --set model.hidden_size=32");
    refused(
        folder,
        &format!("{train} --out half-on-cpu --device cpu"),
        &["half precision needs a GPU", "f32"],
    );
    let capabilities = &crate::harness::gpu().capabilities;
    if !capabilities.half {
        crate::testing::skipped(&format!("{} has no SHADER_F16", capabilities.name));
        return;
    }
    let device = capabilities.name.split_whitespace().next().expect("a name");
    done(folder, &format!("{train} --out half --device {device}"));
    let run = folder.join("half");
    let expected = checkpoint(&run, 6);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let last: serde_json::Value =
        serde_json::from_str(metrics.lines().last().expect("a line")).expect("JSON");
    assert!(last["loss"].as_f64().expect("a loss").is_finite());
    assert!(last["loss_scale"].as_f64().expect("a scale") >= 1.0 && last["skipped_steps"].is_u64(), "{last}");
    forget_the_last_checkpoint(&run);
    done(folder, &format!("pretrain --store store --out half --device {device} --resume"));
    assert_same(&expected, &checkpoint(&run, 6), "resumed in half precision");
}

#[test]
fn runs_repeat_to_the_byte_with_any_threads_and_over_a_resume() {
    let folder = prepared();
    for (run, threads) in [("one", 1), ("two", 2), ("again", 2)] {
        done(folder, &format!("{TRAIN} --out {run} --threads {threads}"));
    }
    let expected = checkpoint(&folder.join("one"), 6);
    assert_same(&expected, &checkpoint(&folder.join("two"), 6), "one thread and two");
    assert_same(&expected, &checkpoint(&folder.join("again"), 6), "two runs");

    let run = folder.join("again");
    forget_the_last_checkpoint(&run);
    done(folder, "pretrain --store store --out again --device cpu --resume");
    assert_same(&expected, &checkpoint(&run, 6), "resumed");
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|record| record["step"].as_u64().expect("step"))
        .collect();
    assert!(steps.is_sorted_by(|a, b| a < b) && steps.last() == Some(&6), "{steps:?}");
}

#[test]
fn bad_input_is_one_line() {
    let folder = prepared();
    refused(folder, "extract nowhere.xml.bz2 --out none", &["nowhere.xml.bz2"]);
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/inazuma-articles-multistream.xml.bz2");
    let bytes = fs::read(dump).expect("read");
    fs::write(folder.join("cut.xml.bz2"), &bytes[..bytes.len() / 2]).expect("written");
    refused(folder, "extract cut.xml.bz2 --out cut", &["cut.xml.bz2", "byte"]);
    let manifest = fs::read_to_string(folder.join("cut/manifest.json")).expect("what was sound is kept");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    assert!(manifest["complete"] == false && manifest["articles"].as_u64() > Some(5), "{manifest}");

    bad_text_is_one_line(folder);
    refused(folder, "prepare text --tokenizer nowhere.model --out s", &["nowhere.model"]);
    refused(folder, "pretrain --store nowhere --out r", &["nowhere"]);
    refused(folder, &format!("{TRAIN} --out nan --set learning_rate=1e30 --set warmup_steps=0"), &["step"]);
    fs::write(folder.join("not.store"), b"something else").expect("written");
    refused(folder, "pretrain --store not.store --out r", &["not.store"]);

    // A run goes on only with the tokenizer it began with.
    done(folder, &format!("{TRAIN} --out own"));
    done(folder, "tokenizer train text --out other --vocab-size 1900");
    done(folder, "prepare text --tokenizer other.model --out other.store");
    refused(folder, "pretrain --store other.store --out own --device cpu --resume", &["tokenizer"]);
}

/// What `tokenizer train` says of text and outputs that will not do; nothing is left behind.
fn bad_text_is_one_line(folder: &Path) {
    fs::write(folder.join("blank.txt"), "\n \n").expect("written");
    fs::write(folder.join("bytes.txt"), b"text\n\xff\xfe\n").expect("written");
    fs::write(folder.join("short.txt"), "山川。草木。\n").expect("written");
    refused(folder, "tokenizer train blank.txt --out bad", &["no text"]);
    refused(folder, "tokenizer train bytes.txt --out bad", &["bytes.txt, line 2", "byte 5", "UTF-8"]);
    refused(folder, "tokenizer train nowhere.txt --out bad", &["nowhere.txt"]);
    refused(folder, "tokenizer train short.txt --out bad", &["32000 pieces", "--vocab-size"]);
    refused(folder, "tokenizer train short.txt --out none/bad", &["none/bad.log.partial"]);
    let left = fs::read_dir(folder).expect("listed").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("bad"));
    assert_eq!(left.count(), 0);
}

/// Heads of 256 columns are beyond the GPU kernels, and are not beyond the CPU executor.
#[test]
fn what_kernels_cannot_take_is_one_line() {
    let folder = prepared();
    let wide = "--set model.hidden_size=512 --set model.heads=2 --set model.layers=1";
    let train = TRAIN.replace("steps=6", "steps=1").replace("checkpoint_every=3", "checkpoint_every=1");
    done(folder, &format!("{train} {wide} --out wide"));
    let gpu = crate::harness::gpu();
    let device = gpu.capabilities.name.split_whitespace().next().expect("a name");
    let train = train.replace("--device cpu", &format!("--device {device}"));
    let words = ["layer.0.attention", "256 columns of a head", "128", "more heads", "--device cpu"];
    refused(folder, &format!("{train} {wide} --out wide-on-gpu"), &words);
    refused(folder, &format!("pretrain --preset tiny {wide} --explain --device {device}"), &words);
    done(folder, &format!("pretrain --preset tiny {wide} --explain --device cpu"));
}

/// Sizes that nobody gave are numbers in the run, and stay whatever is asked for later; those that no machine holds are
/// refused before there is a run.
#[test]
fn sizes_are_found_kept_and_refused() {
    let folder = prepared();
    let auto = TRAIN.replace("--set micro_batch=2", "--set micro_batch=auto").replace("steps=6", "steps=3");
    done(folder, &format!("{auto} --out auto"));
    let run = folder.join("auto");
    let config = fs::read_to_string(run.join("config.toml")).expect("config.toml");
    assert!(
        config.contains("\nmicro_batch = 4\n") && config.contains("\nvocabulary_chunk = 76\n"),
        "{config}"
    );
    done(folder, "pretrain --store store --out auto --device cpu --resume --set micro_batch=auto");
    refused(
        folder,
        "pretrain --store store --out auto --device cpu --resume --set micro_batch=2",
        &["micro_batch is 2, in the run 4"],
    );

    let gpu = crate::harness::gpu();
    let lavapipe = gpu.capabilities.name.split_whitespace().next().expect("a name");
    for device in ["cpu", lavapipe] {
        let huge = "--set batch_size=500000 --set micro_batch=500000";
        let train = format!("pretrain --store store --preset tiny --device {device} {huge}");
        let words = ["micro_batch=500000: ", "B of memory", "; micro_batch=", " would fit"];
        refused(folder, &format!("{train} --out huge"), &words);
        assert!(!folder.join("huge").exists(), "{device}: refused after the run had begun");
    }
    let grown = config.replace("\nmicro_batch = 4\n", "\nmicro_batch = 500000\n");
    let grown = grown.replace("\nbatch_size = 4\n", "\nbatch_size = 500000\n");
    assert_ne!(grown, config);
    fs::write(run.join("config.toml"), grown).expect("written");
    refused(
        folder,
        "pretrain --store store --out auto --device cpu --resume",
        &["--resume continues", "as it began: micro_batch=500000: ", "would fit"],
    );
}

#[test]
fn small_fits_the_memory_of_one_card() {
    let text = done(prepared(), "pretrain --preset small --explain --device cpu --json");
    let plan: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let bytes = plan["bytes"].as_u64().expect("bytes");
    assert!(bytes < 14_000_000_000, "{bytes}");
    // What is launched, in one micro-batch more than one: 12 + 12 layers of some twenty kernels.
    let count = |phase: &str, what: &str| plan["launches"][phase][what].as_u64().expect("a number");
    let dispatches = |phase| count(phase, "dispatches");
    let micro_batches =
        (dispatches("step") - dispatches("clear") - dispatches("update")) / dispatches("micro");
    assert!((1..=64).contains(&micro_batches) && (400..700).contains(&dispatches("micro")), "{plan}");
    assert!(count("step", "barriers") < dispatches("step"), "{plan}");
}

#[test]
fn a_dashboard_is_text_where_there_is_no_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("metrics.jsonl"), "{\"step\":7,\"epoch\":1,\"loss\":0.5}\n")
        .expect("written");
    refused(folder.path(), "watch .", &["watch needs a terminal", "--once"]);
    refused(folder.path(), "watch nowhere", &["nowhere: no such directory"]);
    let text = done(folder.path(), "watch . --once --width 40 --height 12");
    assert!(text.lines().count() == 12 && text.contains("epoch 1, step 7"), "{text}");
}
