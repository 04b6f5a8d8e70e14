//! `import`, `pretrain --init` and `prepare --ids` through the binary, as a user runs them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command_line::{TRAIN, done, inazuma, prepared, refused};
use crate::testing::{shared, skipped};

/// A folder of its own beside what `prepared` made once.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["store", "store.held-out", "pieces.model"] {
        fs::copy(prepared().join(name), folder.path().join(name)).expect("copied");
    }
    let path = folder.path().to_owned();
    (folder, path)
}

/// Runs the binary and expects success; returns what it says on stderr.
fn said(folder: &Path, arguments: &str) -> String {
    let output = inazuma(folder, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "inazuma {arguments}\n{text}");
    text
}

/// A file of the checkpoint that `latest` names.
fn saved(run: &Path, name: &str) -> Vec<u8> {
    let latest = fs::read_to_string(run.join("latest")).expect("a checkpoint");
    fs::read(run.join(latest.trim()).join(name)).expect("read")
}

/// Losses of a run that wrote a line of metrics a step.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line| {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["loss"].as_f64().expect("a loss")
    };
    text.lines().map(line).collect()
}

/// The last quarter of the steps lies below the first.
fn assert_lower(losses: &[f64]) {
    let quarter = losses.len() / 4;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..quarter]), mean(&losses[losses.len() - quarter..]));
    assert!(last < first, "{losses:?}");
}

#[test]
fn a_run_comes_back_to_the_byte() {
    let (_folder, path) = folder();
    done(&path, &format!("{TRAIN} --out run"));
    done(&path, "import run --out first");
    done(&path, "import first --out second");
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let own = saved(&path.join("run"), name);
        assert!(own == saved(&path.join("first"), name), "{name}");
        assert!(own == saved(&path.join("second"), name), "{name}");
    }
    // From the middle, with its moments and its step, training goes on as it did.
    done(&path, "import run/checkpoints/step-00000003 --out middle");
    done(&path, &format!("{TRAIN} --init middle --out again"));
    let same = |what: &str| {
        for name in ["model.safetensors", "optimizer.safetensors"] {
            assert!(saved(&path.join("again"), name) == saved(&path.join("run"), name), "{what}: {name}");
        }
        // Where it began, and the norms since then, are its own.
        let [own, first] = ["again", "run"].map(|run| -> serde_json::Value {
            serde_json::from_slice(&saved(&path.join(run), "state.json")).expect("JSON")
        });
        assert_eq!(
            (&own["step"], &own["tokens"], &own["began"]),
            (&first["step"], &first["tokens"], &3.into())
        );
    };
    same("from the middle");
    // What a run began with is its first checkpoint: one that is stopped before the next resumes from it.
    fs::write(path.join("again/latest"), "checkpoints/step-00000003\n").expect("written");
    done(&path, "pretrain --store store --device cpu --out again --resume");
    same("resumed");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join("again/import.json")).expect("kept")).expect("JSON");
    assert_eq!((report["format"].as_str(), report["step"].as_u64()), (Some("run"), Some(3)));
    refused(
        &path,
        &format!("{TRAIN} --init first --out x"),
        &["begins at step 6, but the schedule has only 6"],
    );
    done(&path, &format!("{TRAIN} --init first --init-step 0 --out anew"));
    let set = "--set model.layers=3";
    refused(
        &path,
        &format!("{TRAIN} {set} --init middle --out x"),
        &["model.layers is 4, the configuration says 3"],
    );
    // A run that began with an imported model is a run: another one begins with it at 0.
    done(&path, &format!("{TRAIN} --init again --out more"));
    let from: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join("more/import.json")).expect("kept")).expect("JSON");
    assert_eq!((from["source"].as_str(), from["init_step"].as_u64()), (Some("again"), Some(0)));
    refused(&path, "import run --out first", &["is not empty"]);
    refused(&path, "import pieces.model --out x", &["neither a Hugging Face directory"]);
}

/// All files of a folder but the model card, which says what was done, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").path());
    let named = entries.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path));
    named
        .filter(|(name, _)| name != "README.md")
        .map(|(name, path)| (name, fs::read(path).expect("read")))
        .collect()
}

/// From a run whose texts keep their capitals, which the way back must not lose.
#[test]
fn what_is_exported_comes_back_to_the_byte() {
    let (_folder, path) = folder();
    let articles = prepared().join("text");
    let tokenizer = "--tokenizer pieces.model --no-lower";
    done(&path, &format!("prepare {} {tokenizer} --out kept.store", articles.display()));
    let train = TRAIN.replace("store --", "kept.store --");
    done(&path, &format!("{train} --set steps=3 --out run"));
    for (numbers, out) in [("f32", "first"), ("bf16", "short")] {
        done(&path, &format!("export run --dtype {numbers} --out {out}"));
        let text =
            said(&path, &format!("import {out}/discriminator --generator {out}/generator --out {out}-in"));
        assert!(text.contains("texts keep their capitals"), "{text}");
        done(&path, &format!("export {out}-in --dtype {numbers} --out {out}-again"));
        for network in ["discriminator", "generator"] {
            let once = files(&path.join(out).join(network));
            let again = files(&path.join(format!("{out}-again")).join(network));
            assert_eq!(once.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
            assert_eq!(once.len(), 5);
            assert!(once.iter().all(|(name, bytes)| *bytes == again[name]), "{out}/{network}");
        }
    }
    assert!(
        saved(&path.join("first-in"), "model.safetensors") == saved(&path.join("run"), "model.safetensors")
    );
    let card = fs::read_to_string(path.join("first-again/generator/README.md")).expect("a card");
    for words in [
        "base_model: \"discriminator\"",
        "| its generator | generator |",
        "inazuma import discriminator --generator generator --out IMPORTED",
    ] {
        assert!(card.contains(words), "{words}: {card}");
    }
    assert!(!card.contains("inazuma pretrain"), "nobody trained it here: {card}");
    // A fine-tuned model is exported as it lies; its encoder comes in without its head.
    fs::write(path.join("x.tsv"), "text\tlabel\n赤い花\t色\n三つの石\t数\n").expect("written");
    let train = "finetune classify --train x.tsv --dev x.tsv --device cpu --epochs 2";
    done(&path, &format!("{train} --init first-in --out tuned"));
    done(&path, "export tuned --out tuned-first");
    done(&path, "export tuned-first --out tuned-again");
    assert!(files(&path.join("tuned-first")) == files(&path.join("tuned-again")));
    let text = said(&path, "import tuned-first --out tuned-in");
    assert!(text.contains("left out: classifier.dense.bias and 3 more"), "{text}");
    assert!(text.contains("there is no discriminator's head; `pretrain --init` draws it"), "{text}");
    done(&path, "export tuned-in --out encoder");
    let tensors = |path: &Path| fs::read(path.join("model.safetensors")).expect("read");
    let (whole, encoder) = (tensors(&path.join("tuned-first")), tensors(&path.join("encoder/discriminator")));
    let read = |bytes| safetensors::SafeTensors::deserialize(bytes).expect("safetensors");
    let (whole, encoder) = (read(&whole), read(&encoder));
    assert_eq!(encoder.names().len() + 4, whole.names().len());
    assert!(encoder.iter().all(|(name, tensor)| whole.tensor(name).expect("there").data() == tensor.data()));
    let card = fs::read_to_string(path.join("tuned/README.md")).expect("a card");
    for words in ["base_model: \"discriminator\"", "| steps | ", "| epoch | steps | loss |", "SHA-256"] {
        assert!(card.contains(words), "{words}: {card}");
    }
}

/// A configuration may claim what it likes: nothing of such a size is made.
#[test]
fn sizes_that_no_tensor_bears_out_cost_nothing() {
    let (_folder, path) = folder();
    done(&path, &format!("{TRAIN} --set steps=3 --out run"));
    done(&path, "export run --out hf");
    fs::write(path.join("x.tsv"), "text\tlabel\n赤い花\t色\n三つの石\t数\n").expect("written");
    let finetune = "finetune classify --train x.tsv --device cpu --epochs 1";
    done(&path, &format!("{finetune} --init hf/discriminator --out tuned"));
    for (file, from, to) in [
        ("run/config.toml", "\nlayers = 4", "\nlayers = 16000000"),
        ("hf/discriminator/config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 16000000"),
        ("tuned/config.json", "\"intermediate_size\": 512", "\"intermediate_size\": 16000000"),
    ] {
        let text = fs::read_to_string(path.join(file)).expect("read");
        assert!(text.contains(from), "{file}: {text}");
        fs::write(path.join(file), text.replace(from, to)).expect("written");
    }
    let layers = ["16000000 layers, but there are only"];
    refused(&path, &format!("{finetune} --init hf/discriminator --out x"), &layers);
    refused(&path, &format!("{finetune} --init none --like hf/discriminator --out x"), &layers);
    refused(&path, &format!("{finetune} --init run --out x"), &layers);
    refused(&path, "pretrain --store store --device cpu --init run --out x", &layers);
    refused(&path, "import run --out x", &layers);
    refused(&path, "predict --model run --ids --device cpu", &layers);
    let wide = ["intermediate.dense.weight has shape [512, 128]", "want [16000000, 128]"];
    refused(&path, "predict --model tuned --device cpu", &wide);
}

#[test]
fn longer_sequences_can_be_read_after_an_extension() {
    let (_folder, path) = folder();
    done(&path, &format!("{TRAIN} --out run"));
    refused(&path, "import run --extend-positions 128 --out x", &["has 128 positions already"]);
    for from in ["interpolate", "repeat", "fresh"] {
        let text =
            done(&path, &format!("import run --extend-positions 160 --from {from} --out {from} --json"));
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(report["extended_positions"], from);
        assert_eq!(report["model"]["max_positions"], 160);
    }
    let text = said(&path, "import run --extend-positions 160 --from repeat --out once-more");
    assert!(text.contains("positions: 128 rows repeated up to 160"), "{text}");
    refused(&path, &format!("{TRAIN} --init repeat --out x"), &["model.max_positions is 160", "says 128"]);
    // Without a preset the sizes are those of the model.
    let train = "pretrain --store store --device cpu --set steps=8 --set batch_size=2 --set max_length=160 --set \
                 checkpoint_every=100";
    done(&path, &format!("{train} --init repeat --out long"));
    let config = fs::read_to_string(path.join("long/config.toml")).expect("read");
    assert!(config.contains("max_positions = 160") && config.contains("layers = 4"), "{config}");
}

/// Documents of a vocabulary of 97, in which each id is followed by the next.
fn write_ids(path: &Path) {
    let mut text = String::new();
    for document in 0..60 {
        let sentence =
            |start: usize| (0..9).map(|n| (7 + (start + n) % 90).to_string()).collect::<Vec<_>>().join(",");
        let _ =
            writeln!(text, "{{\"ids\":[[{}],[{}]]}}", sentence(document * 7), sentence(document * 11 + 3));
    }
    fs::write(path, text).expect("written");
}

#[test]
fn ready_made_ids_are_trained_on() {
    let (_folder, path) = folder();
    write_ids(&path.join("ids.jsonl"));
    let special = "--special PAD=3,CLS=4,SEP=5,MASK=6";
    done(&path, &format!("prepare --ids ids.jsonl {special} --vocab-size 97 --out ids.store"));
    let train = "pretrain --store ids.store --preset tiny --device cpu --set steps=2 --set batch_size=2";
    done(&path, &format!("{train} --out run"));
    assert!(path.join("run/vocabulary.json").is_file() && !path.join("run/tokenizer.model").exists());
    done(&path, "import run --out imported");
    done(&path, &format!("{train} --init imported --init-step 0 --out again"));
    // The same ids of another meaning.
    done(
        &path,
        "prepare --ids ids.jsonl --special PAD=2,CLS=4,SEP=5,MASK=6 --vocab-size 97 --out other.store",
    );
    let other = train.replace("ids.store", "other.store");
    refused(&path, &format!("{other} --init imported --init-step 0 --out x"), &["PAD is 3", "it is 2"]);
    fs::write(path.join("x.tsv"), "text\tlabel\na\tb\n").expect("written");
    let finetune = "finetune classify --train x.tsv --dev x.tsv --device cpu --out x";
    let advice = ["is not SentencePiece", "prepare --ids"];
    refused(&path, &format!("{finetune} --init imported"), &advice);
    refused(&path, "predict --model imported --device cpu", &advice);
    fs::write(path.join("bad.jsonl"), "{\"ids\":[[7]]}\n{\"ids\":[[97]]}\n").expect("written");
    let prepare = format!("prepare --ids bad.jsonl {special} --vocab-size 97 --out x.store");
    refused(&path, &prepare, &["bad.jsonl, line 2: id 97"]);
    assert!(!path.join("x.store").exists());
}

#[test]
fn a_hugging_face_model_is_trained_further() {
    let (Some(discriminator), Some(generator)) =
        (shared("goldens/hf-micro-discriminator"), shared("goldens/hf-micro-generator"))
    else {
        return;
    };
    let (_folder, path) = folder();
    let import = format!("import {}", discriminator.display());
    refused(&path, &format!("{import} --out x"), &["--tokenizer M or --special"]);
    let special = "--special PAD=3,CLS=4,SEP=5,MASK=6";
    // Both networks, and the discriminator alone: then the generator is drawn.
    done(&path, &format!("{import} --generator {} {special} --out both", generator.display()));
    done(&path, &format!("{import} {special} --out one"));
    write_ids(&path.join("ids.jsonl"));
    done(&path, &format!("prepare --ids ids.jsonl {special} --vocab-size 97 --out ids.store"));
    let train = "pretrain --store ids.store --device cpu --set steps=20 --set batch_size=16 --set max_length=24 --set \
                 learning_rate=2e-3 --set warmup_steps=0 --set log_every=1";
    let moments = "--init: Adam's moments are not there; they begin at 0";
    let step = "--init: there is no step; the schedule begins at 0";
    let generator = "--init: the generator is not there; it is drawn";
    for (init, run, lacks) in [("both", "run-both", false), ("one", "run-one", true)] {
        let text = said(&path, &format!("{train} --init {init} --out {run}"));
        assert!(text.contains(moments) && text.contains(step), "{text}");
        assert_eq!(text.contains(generator), lacks, "{text}");
        assert_lower(&losses(&path.join(run)));
    }
    done(&path, "export run-both --out trained");
    let card = fs::read_to_string(path.join("trained/discriminator/README.md")).expect("a card");
    for words in [
        "base_model: \"hf-micro-discriminator\"",
        "import hf-micro-discriminator --generator hf-micro-generator",
        "--init IMPORTED --init-step 0",
        "| steps | 20 |",
    ] {
        assert!(card.contains(words), "{words}: {card}");
    }
    let config = fs::read_to_string(path.join("run-both/config.toml")).expect("read");
    assert!(config.contains("generator_hidden_size = 16"), "{config}");
}

#[test]
fn the_references_checkpoint_is_trained_further() {
    let (Some(checkpoint), Some(tokenizer)) =
        (shared("goldens/tf-checkpoint"), shared("data/sentencepiece/konoha-wiki-ja-32k.model"))
    else {
        return;
    };
    let (_folder, path) = folder();
    let import = format!("import {}", checkpoint.join("model.ckpt-60").display());
    refused(&path, &format!("{import} --out x"), &["does not know its vocabulary"]);
    let heads = "--heads 2 --generator-heads 1";
    let tokenizer = tokenizer.display();
    let text = done(&path, &format!("{import} {heads} --tokenizer {tokenizer} --out tf --json"));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((report["step"].as_u64(), report["tensors"].as_u64()), (Some(60), Some(80)));
    assert_eq!(
        (report["has_moments"].as_bool(), report["lacks"].as_array().map(Vec::len)),
        (Some(true), Some(0))
    );
    // A folder is what its file `checkpoint` names.
    done(&path, &format!("import {} {heads} --tokenizer {tokenizer} --out same", checkpoint.display()));
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(saved(&path.join("tf"), name) == saved(&path.join("same"), name), "{name}");
    }
    let articles = prepared().join("text");
    done(&path, &format!("prepare {} --tokenizer {tokenizer} --out text.store", articles.display()));
    done(
        &path,
        "pretrain --store text.store --device cpu --set steps=80 --set batch_size=32 --set max_length=64 --set \
         learning_rate=4e-3 --set warmup_steps=0 --set log_every=1 --init tf --out run",
    );
    let losses = losses(&path.join("run"));
    assert_eq!(losses.len(), 20);
    assert_lower(&losses);
}

/// What transformers makes of the same files, where there is a Python with it.
#[test]
fn an_imported_model_takes_pytorchs_step() {
    let (Some(discriminator), Some(generator)) =
        (shared("goldens/hf-micro-discriminator"), shared("goldens/hf-micro-generator"))
    else {
        return;
    };
    let python = std::env::var_os("INAZUMA_PYTHON").unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import torch, transformers, safetensors"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        skipped(&format!("{} has no torch and transformers (set INAZUMA_PYTHON)", python.to_string_lossy()));
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check-import.py");
    let output = Command::new(&python)
        .args([
            script.as_ref(),
            env!("CARGO_BIN_EXE_inazuma").as_ref(),
            discriminator.as_os_str(),
            generator.as_os_str(),
        ])
        .output()
        .expect("the script starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
