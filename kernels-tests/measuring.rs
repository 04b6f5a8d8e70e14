//! `bench`, `selftest` and tuning through the binary: what scripts read must be there and plausible.

use serde_json::Value;

use crate::command_line::{done, misused, prepared, refused};

const SMALL: &str = "--preset tiny --set batch_size=4 --set micro_batch=2 --set max_length=32 \
                     --set model.vocab_size=300 --set model.layers=1 --set model.generator_layers=1";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("one JSON object")
}

/// The number under a key, which must be above zero.
fn positive(report: &Value, key: &str) -> f64 {
    let number = report[key].as_f64().unwrap_or(f64::NAN);
    assert!(number > 0.0, "{key} in {report}");
    number
}

#[test]
fn steps_report_what_the_contract_says() {
    let folder = prepared();
    let report =
        parsed(&done(folder, &format!("bench step {SMALL} --device cpu --steps 3 --profile 1 --json")));
    let keys = ["tokens_per_second", "step_ms", "step_ms_best", "mfu", "peak_memory_bytes", "plan_bytes"];
    for key in keys {
        positive(&report, key);
    }
    assert!(positive(&report, "step_ms_best") <= positive(&report, "step_ms"));
    // Full sequences: every position is a token.
    assert_eq!(report["fill"], 1.0);
    assert_eq!(report["tokens_per_second"], report["positions_per_second"]);
    let expected = 1e3 * 4.0 * 32.0 / positive(&report, "step_ms");
    assert!((positive(&report, "positions_per_second") / expected - 1.0).abs() < 1e-6);
    let lines = report["profile"]["lines"].as_array().expect("lines");
    let sum: f64 = lines.iter().map(|line| line["seconds"].as_f64().unwrap()).sum();
    assert!((sum / report["profile"]["ops_seconds"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    let matmuls = lines.iter().filter(|line| line["op"] == "matmul");
    // Two micro-batches; forward and backward of some ten dense layers.
    assert!(matmuls.map(|line| line["calls"].as_u64().unwrap()).sum::<u64>() > 60);
}

/// Real text leaves positions empty, and padding them costs time but changes nothing of what is counted.
#[test]
fn packed_and_padded_steps_count_the_same_tokens() {
    let folder = prepared();
    let bench = "bench step --preset tiny --store store --device cpu --steps 3";
    let packed = parsed(&done(folder, &format!("{bench} --json")));
    let padded = parsed(&done(folder, &format!("{bench} --padded --json")));
    assert!(positive(&packed, "fill") < 0.999);
    assert_eq!(packed["fill"], padded["fill"]);
    assert!(positive(&packed, "positions_per_second") > positive(&packed, "tokens_per_second"));
}

#[test]
fn batches_are_measured_and_written() {
    let folder = prepared();
    let report = parsed(&done(
        folder,
        "bench data --preset tiny --set batch_size=4 --store store --steps 3 --examples examples.jsonl --json",
    ));
    positive(&report, "tokens_per_second");
    let text = std::fs::read_to_string(folder.join("examples.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(parsed).collect();
    assert_eq!(lines.len(), 12);
    let tokens: usize = lines.iter().map(|line| line["ids"].as_array().unwrap().len()).sum();
    assert_eq!(report["tokens_per_step"], tokens as f64 / 3.0);
    for line in &lines {
        let (ids, first) = (line["ids"].as_array().unwrap(), line["first_segment"].as_u64().unwrap());
        assert!(ids[0] == 4 && ids.last().unwrap() == 5 && ids[first as usize - 1] == 5, "{line}");
        assert!(!line["masked"].as_array().unwrap().is_empty());
    }
}

#[test]
fn the_cpu_agrees_with_itself_in_f64() {
    let report = parsed(&done(prepared(), "selftest --device cpu --json"));
    assert_eq!(report["passed"], true);
    assert!(report["lines"].as_object().unwrap().len() > 20);
}

/// Every op of a step on the adapter: right, and each kernel there is measured; the choice is kept and used.
#[test]
fn kernels_are_checked_tuned_and_remembered() {
    // A folder, and so a cache, of its own.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let device = std::env::var("INAZUMA_TEST_DEVICE").unwrap_or("gpu:0".into());
    let tuned = parsed(&done(folder, &format!("bench kernels {SMALL} --device {device} --tune --json")));
    let kept = tuned["kept_in"].as_str().unwrap();
    let choice = parsed(&std::fs::read_to_string(kept).unwrap());
    let ops = tuned["ops"].as_object().unwrap();
    assert!(ops.len() > 5 && tuned["unmeasured"] == 0, "{tuned}");
    for (signature, measured) in ops {
        let measured = measured.as_array().unwrap();
        assert!(
            measured.len() > 1 && measured.iter().all(|m| m["right"] == true),
            "{signature}: {measured:?}"
        );
        let best = measured
            .iter()
            .min_by(|a, b| a["seconds"].as_f64().unwrap().total_cmp(&b["seconds"].as_f64().unwrap()));
        assert_eq!(choice["strategies"][signature], best.unwrap()["strategy"], "{signature}");
    }
    let report = parsed(&done(folder, &format!("bench kernels {SMALL} --device {device} --steps 1 --json")));
    let lines = report["profile"]["lines"].as_array().unwrap();
    let strategies: Vec<&Value> = lines.iter().map(|line| &line["strategy"]).collect();
    assert!(choice["strategies"].as_object().unwrap().values().any(|chosen| strategies.contains(&chosen)));
    std::fs::write(kept, "{}").unwrap();
    refused(folder, &format!("bench kernels {SMALL} --device {device}"), &["tuning.json", "delete it"]);
    std::fs::remove_file(kept).unwrap();
}

/// What ranks take follows from what is given; what cannot be shared is refused in a line.
#[test]
fn ranks_are_estimated_and_refused() {
    let folder = prepared();
    let estimate = format!("estimate {SMALL} --device cpu --steps 10 --step-seconds 0.5");
    assert!(parsed(&done(folder, &format!("{estimate} --json"))).get("ranks").is_none());
    let given = format!("{estimate} --ranks 2 --network 8GB/s --latency 0 --host-memory 1GB/s");
    let report = parsed(&done(folder, &format!("{given} --json")));
    let ranks = &report["ranks"];
    let parameters = positive(ranks, "trained_parameters");
    assert_eq!((positive(ranks, "compute_seconds"), &ranks["micro_batch"]), (0.25, &2.into()));
    // Two copies, the sum of a half, and a half sent twice.
    let memory = 8.0 * 2.0 * parameters + 12.0 * parameters / 2.0;
    let step = 0.25 + memory / 1e9 + 4.0 * parameters / 8e9;
    assert!((positive(ranks, "step_seconds") / step - 1.0).abs() < 1e-9, "{ranks}: {step}");
    assert_eq!(positive(&ranks["exchange"], "sent_bytes"), 4.0 * parameters);
    let half = parsed(&done(folder, &format!("{given} --reduce f16 --json")));
    assert_eq!(positive(&half["ranks"]["exchange"], "sent_bytes"), 3.0 * parameters);
    assert!(done(folder, &given).contains("64 Gbit/s between nodes: at most 2 sequences each, 1 × 2"));
    refused(folder, &format!("{estimate} --ranks 5"), &["batch_size is 4", "5 ranks", "--ranks to 4"]);
    refused(folder, &format!("{estimate} --ranks 2 --network pcie --ranks-per-node 2"), &["one node"]);
    misused(folder, &format!("{estimate} --network 10G"), &["--ranks"]);
    misused(folder, &format!("{estimate} --ranks 2 --network fast"), &["25G", "8GB/s", "pcie"]);
    misused(folder, &format!("{estimate} --ranks 0"), &["1"]);
}
