//! `mpirun … inazuma pretrain`: several processes train what one trains, to the same bytes whenever they are as many; over
//! kills, signals and other numbers of ranks. Needs a build with the feature `mpi`, and Open MPI.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command_line::{self, prepared};
use crate::killing::files;
use crate::mpirun::{BINARY, Part, done, ended, is_here, signal, start, start_quiet, start_with};
use crate::testing::skipped;

mod place;
mod refused;

use place::{LONG, Place, STEPS, alone, has_lines, has_saved, interrupted, records, steps, whole};

/// Sums in another order round otherwise, and a step that begins with other bits ends with other bits.
const CLOSE: [f64; 2] = [1e-6, 1e-4];

#[test]
fn ranks_train_what_one_process_trains() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    for count in [1, 2, 3, 4] {
        let out = format!("of-{count}");
        done(place.path(), count, &place.train(&out));
        place.assert_close(&out, alone(), CLOSE);
        if count == 1 {
            // One that mpirun has started is as one that it has not.
            place.assert_same(&out, alone());
            continue;
        }
        let again = format!("of-{count}-again");
        done(place.path(), count, &place.train(&again));
        place.assert_same(&again, &place.out(&out));
    }
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_same_command_goes_on() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    for rank in [1, 0] {
        let out = format!("killed-{rank}");
        let run = place.out(&out);
        // What mpirun says of it is not needed.
        let long = place.train_long(&out);
        let mut job = start_quiet(place.path(), &[(2, Path::new(BINARY), &long)]);
        job.until(|| has_saved(&run, 10));
        let process = job.rank(rank);
        signal(process, "KILL");
        let ended = job.end();
        assert!(ended.code.is_some_and(|code| code > 0), "{:?}: {}", ended.code, ended.errors);
        ended.mourns(rank, process);
        assert!(!has_saved(&run, LONG), "it came too late");
        place.state(&out);
        let ended = done(place.path(), 2, &place.resume(&out));
        assert!(!ended.errors.contains("damaged"), "{}", ended.errors);
        place.assert_same(&out, whole());
    }
}

/// Of those that are left one says which, while they wait for it or compute, and with mpirun's own words too.
#[test]
fn one_names_a_rank_that_dies() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let endless = |out: &str| place.train(out).replace(&format!("steps={STEPS}"), "steps=100000");
    for rank in [2, 0] {
        let out = format!("run-{rank}");
        let mut job = start(place.path(), 3, &endless(&out));
        job.until(|| has_lines(&place.out(&out)));
        let process = job.rank(rank);
        signal(process, "KILL");
        job.end().mourns(rank, process);
    }
    // One that only hangs is waited for, and one that is asked to end is no death.
    let mut job = start(place.path(), 2, &endless("stopped"));
    job.until(|| has_lines(&place.out("stopped")));
    let process = job.rank(1);
    signal(process, "STOP");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    signal(process, "CONT");
    signal(process, "TERM");
    let ended = job.end();
    assert!(interrupted(&ended.errors).is_some() && !ended.errors.contains("has died"), "{}", ended.errors);
    let said =
        ended.errors.lines().filter(|line| line.starts_with("stopping and saving, as rank 1 ")).count();
    assert_eq!(said, 1, "{}", ended.errors);
}

/// A launcher's one process may be a script that starts the program more than once.
#[test]
fn one_process_may_be_started_again() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let script = place.out("twice");
    fs::write(&script, format!("set -e\n{BINARY} completions bash\n{BINARY} completions bash\n"))
        .expect("written");
    let script = script.display().to_string();
    let ended = start_with(place.path(), &[], &[(1, Path::new("sh"), &script)]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
}

#[test]
fn a_run_goes_on_with_more_or_fewer_ranks() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    done(place.path(), 2, &place.train("run"));
    for (step, ranks) in [(10, 3), (20, 1)] {
        place.go_back("run", step);
        done(place.path(), ranks, &place.resume("run"));
        assert_eq!(steps(&records(&place.out("run/metrics.jsonl"))), (1..=STEPS).collect::<Vec<_>>());
    }
    place.assert_close("run", alone(), CLOSE);
}

/// Asked of any rank all end after the same step, which is saved.
#[test]
fn a_signal_to_one_rank_saves_and_says_how_all_go_on() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    for (name, rank) in [("INT", 0), ("TERM", 1)] {
        let out = format!("stopped-{name}");
        let mut job = start(place.path(), 2, &place.train_long(&out));
        job.until(|| has_lines(&place.out(&out)));
        signal(job.rank(rank), name);
        let ended = job.end();
        assert_eq!(ended.code, Some(130), "{out}: {}", ended.errors);
        let (step, command) = interrupted(&ended.errors).unwrap_or_else(|| panic!("{out}: {}", ended.errors));
        assert_eq!(place.state(&out)["step"], step, "{out}: {}", ended.errors);
        let words = shlex::split(&command).expect("words");
        assert_eq!(words[..4], ["mpirun", "-n", "2", "inazuma"], "{command}");
        done(place.path(), 2, &words[4..].join(" "));
        place.assert_same(&out, whole());
    }
}

/// Asked itself, mpirun asks the ranks a while later, and kills them after as long again: a second each, unless it is told
/// otherwise. What it ends with is its own.
#[test]
fn a_signal_to_mpirun_leaves_a_run_that_goes_on() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let mut job = start(place.path(), 2, &place.train_long("stopped"));
    job.until(|| has_lines(&place.out("stopped")));
    signal(job.process(), "INT");
    let code = job.end().code;
    // It may have been done by then.
    assert!(code.is_some_and(|code| code == 0 || code == 1), "{code:?}");
    done(place.path(), 2, &place.resume("stopped"));
    place.assert_same("stopped", whole());

    let endless = place.train("saved").replace(&format!("steps={STEPS}"), "steps=100000");
    let patient = [("OMPI_MCA_odls_base_sigkill_timeout", "3")];
    let mut job = start_with(place.path(), &patient, &[(2, Path::new(BINARY), &endless)]);
    job.until(|| has_lines(&place.out("saved")));
    signal(job.process(), "TERM");
    let ended = job.end();
    let (step, _) = interrupted(&ended.errors).unwrap_or_else(|| panic!("{}", ended.errors));
    assert_eq!((ended.code, &place.state("saved")["step"]), (Some(1), &step.into()), "{}", ended.errors);
}

#[test]
fn ranks_with_devices_train_what_one_does() {
    if !is_here() {
        return;
    }
    let capabilities = &crate::harness::gpu().capabilities;
    let device = capabilities.name.split_whitespace().next().expect("a name");
    let place = Place::new();
    let small = "--set batch_size=4 --set eval_sequences=4";
    let train = |out: &str, precision: &str| {
        let steps = "--set steps=4 --selftest never";
        format!("{} {small} {steps} --device {device} --precision {precision}", place.train_on(out))
    };
    // Kernels are tested with fewer sequences than there are ranks.
    let tested = format!("{} {small} --set steps=1 --set micro_batch=1", place.train_on("tested"));
    let said = done(place.path(), 2, &format!("{tested} --selftest always --device {device}")).errors;
    assert!(said.contains("selftest: gradients of 1 sequences"), "{said}");
    command_line::done(place.path(), &train("alone", "f32"));
    for precision in ["f32", "f16"] {
        if precision == "f16" && !capabilities.half {
            skipped(&format!("{} has no SHADER_F16", capabilities.name));
            continue;
        }
        let again = format!("{precision}-again");
        done(place.path(), 2, &train(precision, precision));
        done(place.path(), 2, &train(&again, precision));
        place.assert_same(&again, &place.out(precision));
    }
    place.assert_close("f32", &place.out("alone"), CLOSE);
}

#[test]
fn evaluation_is_divided_and_said_once() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let held_out = prepared().join("store.held-out");
    let eval = format!(
        "eval pretrain {} --store {} --device cpu --threads 1 --json",
        alone().display(),
        held_out.display()
    );
    let figures = |text: &str| -> serde_json::Map<String, Value> {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let expected = figures(&command_line::done(place.path(), &eval));
    for count in [2, 3] {
        let found = figures(&done(place.path(), count, &eval).output);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, expected) in expected.iter().filter(|(_, value)| value.is_number()) {
            let [found, expected] = [&found[name], expected].map(|value| value.as_f64().expect("a number"));
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{name}: {found}, not {expected}");
        }
    }
    let text = eval.replace(" --json", "");
    let lines = done(place.path(), 2, &text).output.lines().count();
    assert_eq!(lines, command_line::done(place.path(), &text).lines().count());
}

/// Whatever is looked at is looked at by the first rank, and changes nothing.
#[test]
fn runs_are_looked_at_once() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    done(place.path(), 2, &place.train("plain"));
    let looking = "--profile --profile-trace trace.json --debug-nan --tensorboard --json";
    let ended = done(place.path(), 2, &format!("{} {looking}", place.train("looked-at")));
    let said = |text: &str| ended.errors.lines().filter(|line| line.contains(text)).count();
    assert_eq!([said("done: "), said("trace.json: open it")], [1, 1], "{}", ended.errors);
    let report: Value = serde_json::from_str(&ended.output).expect("one object");
    assert_eq!(report["step"], STEPS);
    let [plain, run] = ["plain", "looked-at"].map(|name| files(&place.out(name)));
    let more = run.keys().filter(|name| !plain.contains_key(*name)).collect::<Vec<_>>();
    assert!(plain.iter().all(|(name, bytes)| run[name] == *bytes), "what is trained is another");
    assert!(
        more.iter().all(|name| name.starts_with("tensorboard") || name.ends_with("profile.json")),
        "{more:?}"
    );

    let plan = "pretrain --preset tiny --explain --device cpu";
    assert_eq!(done(place.path(), 2, plan).output, command_line::done(place.path(), plan));
}

#[test]
fn what_one_process_does_is_not_for_several() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let words = ["2 processes were started, and only `pretrain`", "divide their work among ranks"];
    for command in ["devices", "completions bash", "store info nowhere"] {
        ended(place.path(), 2, command).refuses(&words);
        let alone = ended(place.path(), 1, command);
        assert_eq!(alone.code, Some(i32::from(command.contains("nowhere"))), "{command}: {}", alone.errors);
    }
}

#[test]
fn shares_are_kept_and_gradients_travel_as_halves() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    done(place.path(), 2, &format!("{} --share 3,1", place.train("shared")));
    assert_eq!(place.state("shared")["shares"], serde_json::json!([3, 1]));
    place.assert_close("shared", alone(), CLOSE);
    let expected = files(&place.out("shared"));
    place.go_back("shared", 10);
    done(place.path(), 2, &place.resume("shared"));
    assert!(files(&place.out("shared")) == expected, "resumed without --share");
    // Another number of ranks has other shares.
    place.go_back("shared", 20);
    let ended = done(place.path(), 3, &place.resume("shared"));
    assert!(ended.errors.contains("the shares of the run were of 2 ranks"), "{}", ended.errors);
    place.assert_close("shared", alone(), CLOSE);

    let ended = done(place.path(), 2, &format!("{} --share auto", place.train("measured")));
    assert!(ended.errors.contains("shares of the ranks, by their speed: "), "{}", ended.errors);
    place.assert_close("measured", alone(), CLOSE);

    for out in ["halves", "halves-again"] {
        done(place.path(), 2, &format!("{} --reduce f16", place.train(out)));
    }
    place.assert_same("halves-again", &place.out("halves"));
    // 11 bits of each gradient.
    place.assert_close("halves", alone(), [1e-6, 1e-2]);
}

/// Without the feature a process that was started with others says what is missing instead of training beside them.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_says_how_it_is_built() {
    let place = Place::new();
    let begin = |number: &str| {
        let mut command = std::process::Command::new(BINARY);
        command.args(place.train("run").split_whitespace()).current_dir(place.path());
        command.env("OMPI_COMM_WORLD_SIZE", number).output().expect("the binary starts")
    };
    let output = begin("2");
    let errors = String::from_utf8_lossy(&output.stderr);
    let words = ["inazuma: error: Open MPI has started 2 processes", "without MPI", "--features mpi"];
    assert!(words.iter().all(|word| errors.contains(word)) && errors.lines().count() == 1, "{errors}");
    assert!(output.status.code() == Some(1) && !place.out("run").exists());
    assert_eq!(begin("1").status.code(), Some(0));
}
