//! What a run leaves for other programs to look at.

use super::*;
use crate::train::events::tests::read;

/// Stopped, resumed, and resumed at its end: each step is there once, as in the lines that it copies.
#[test]
fn events_are_the_lines_of_metrics() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = Options { tensorboard: true, ..options(&scratch, &["steps=8"]) };
    options.resume = false;
    assert!(options.resuming().contains("--tensorboard"));
    assert_eq!(stopped_before(&options, 5).step, 5);
    options.resume = true;
    options.sources = Sources::default();
    for _ in 0..2 {
        run(&options, &AtomicBool::new(false)).unwrap();
    }
    let folder = options.out.join(FOLDER);
    for (lines, folder) in [(METRICS, folder.clone()), ("eval.jsonl", folder.join(HELD_OUT))] {
        let text = fs::read_to_string(options.out.join(lines)).unwrap();
        let mut expected = Vec::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            expected.push((line["step"].as_i64().unwrap(), line["loss"].as_f64().unwrap() as f32));
        }
        let found = read(&folder).into_iter().filter(|(_, tag, _)| tag == "loss/loss");
        let found: Vec<(i64, f32)> = found.map(|(step, _, loss)| (step, loss)).collect();
        assert_eq!(found, expected);
        assert!(!found.is_empty());
    }
}

/// A folder that cannot be made ends no run.
#[test]
fn events_that_cannot_be_written_end_no_run() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = Options { eval_store: None, ..options(&scratch, &[]) };
    stopped_before(&options, 1);
    fs::write(options.out.join(FOLDER), "in the way").unwrap();
    (options.resume, options.tensorboard, options.sources) = (true, true, Sources::default());
    assert_eq!(run(&options, &AtomicBool::new(false)).unwrap().step, 4);
}

/// A trace has the spans of three steps: of a row behind each other, or one within the other.
#[test]
fn a_trace_has_ops_in_phases_in_steps() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let path = scratch.path("trace.json");
    let profile_trace = Some(path.clone());
    let options =
        Options { profile: true, profile_trace, eval_store: None, ..options(&scratch, &["steps=12"]) };
    run(&options, &AtomicBool::new(false)).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let nanoseconds = |value: &serde_json::Value| (1e3 * value.as_f64().unwrap()).round() as i64;
    let span = |event: &serde_json::Value| {
        let start = nanoseconds(&event["ts"]);
        (start, start + nanoseconds(&event["dur"]))
    };
    let of = |category: &str| -> Vec<&serde_json::Value> {
        events.iter().filter(|event| event["cat"] == category).collect()
    };
    let (steps, phases, uploads) = (of("step"), of("phase"), of("upload"));
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["step 9", "step 10", "step 11"]);
    // Three sequences in micro-batches of two.
    assert_eq!((phases.len(), uploads.len()), (3 * 4, 3 * 2));
    assert!(uploads.iter().all(|upload| upload["args"]["bytes"].as_u64().unwrap() > 0));
    let within = |inner: (i64, i64), outer: (i64, i64)| outer.0 <= inner.0 && inner.1 <= outer.1;
    for phase in &phases {
        assert_eq!(steps.iter().filter(|step| within(span(phase), span(step))).count(), 1, "{phase}");
    }
    let ops: Vec<_> = events.iter().filter(|event| event["tid"] == 3 && event["ph"] == "X").collect();
    let told: i64 = phases.iter().map(|phase| phase["args"]["ops"].as_i64().unwrap()).sum();
    assert_eq!(ops.len() as i64, told);
    for pair in ops.windows(2) {
        assert!(span(pair[0]).1 <= span(pair[1]).0, "{} {}", pair[0], pair[1]);
    }
    for op in &ops {
        assert_eq!(phases.iter().filter(|phase| within(span(op), span(phase))).count(), 1, "{op}");
        let args = &op["args"];
        assert!(args["shape"].as_str().unwrap().contains('→') && args["strategy"] == "cpu");
    }
    for name in ["matmul", "attention", "adam"] {
        assert!(ops.iter().any(|op| op["name"].as_str().unwrap().contains(name)), "{name}");
    }
}
