//! Runs with phases through the binary, on the device of the kernel tests: one optimiser over all plans, resumed to the
//! byte on either side of a border, exported like any other.

use std::fs;
use std::path::Path;

use crate::command_line::{assert_same, checkpoint, done, prepared};

/// As if the run had been killed right behind this checkpoint.
fn forget_later_than(run: &Path, step: u64) {
    for entry in fs::read_dir(run.join("checkpoints")).expect("checkpoints") {
        let path = entry.expect("listed").path();
        let name = path.file_name().expect("named").to_string_lossy().into_owned();
        if name.trim_start_matches("step-").parse::<u64>().is_ok_and(|of| of > step) {
            fs::remove_dir_all(path).expect("removed");
        }
    }
    fs::write(run.join("latest"), format!("checkpoints/step-{step:08}\n")).expect("written");
}

/// Lines of metrics without what the clock says.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object_mut().expect("an object");
        fields.retain(|name, _| !name.ends_with("_per_second") && name != "mfu");
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn phases_resume_on_either_side_of_a_border() {
    let folder = prepared();
    let capabilities = &crate::harness::gpu().capabilities;
    let device = capabilities.name.split_whitespace().next().expect("a name");
    let precision = if capabilities.half { "f16" } else { "f32" };
    let settings = [
        "steps=6",
        "micro_batch=2",
        "log_every=4",
        "checkpoint_every=2",
        "keep=0",
        "eval_every=3",
        "eval_sequences=4",
        "model.layers=1",
        "model.generator_layers=1",
        "model.hidden_size=32",
        "model.ffn_size=64",
        "phase.1.share=0.5",
        "phase.1.max_length=16",
        "phase.1.batch_size=4",
        "phase.2.max_length=40",
        "phase.2.batch_size=3",
    ];
    let settings = settings.map(|setting| format!("--set {setting}")).join(" ");
    let given = format!("--store store --eval-store store.held-out --out phased --device {device}");
    done(folder, &format!("pretrain {given} --preset tiny --precision {precision} {settings}"));
    let run = folder.join("phased");
    let (expected, lines) = (checkpoint(&run, 6), metrics(&run));
    let kernels = fs::read(run.join("kernels.json")).expect("kernels of both phases");
    for step in [4, 3, 2] {
        forget_later_than(&run, step);
        done(folder, &format!("pretrain {given} --resume"));
        assert_same(&expected, &checkpoint(&run, 6), &format!("resumed behind step {step}"));
        assert_eq!(metrics(&run), lines, "resumed behind step {step}");
        assert!(fs::read(run.join("kernels.json")).expect("there") == kernels, "kernels of both phases");
    }
    done(folder, "export phased --out phased-exported");
    let config =
        fs::read_to_string(folder.join("phased-exported/discriminator/config.json")).expect("exported");
    assert!(config.contains("\"max_position_embeddings\": 128"), "{config}");
}

#[test]
fn explain_shows_every_phase() {
    let explain = |more: &str| -> serde_json::Value {
        let text =
            done(prepared(), &format!("pretrain --preset tiny-phases --explain --device cpu --json {more}"));
        serde_json::from_str(&text).expect("JSON")
    };
    let all = explain("");
    let phases = all["phases"].as_array().expect("phases");
    assert_eq!(phases.len(), 3);
    for (number, phase) in phases.iter().enumerate() {
        assert_eq!(&explain(&format!("--phase {}", number + 1)), phase);
    }
    assert_ne!(phases[0], phases[1]);
    let text = done(prepared(), "pretrain --preset tiny-phases --explain --device cpu");
    assert!(text.contains("phase 2 of 3: steps 151 to 240, 32 sequences of 64 tokens each"), "{text}");
}
