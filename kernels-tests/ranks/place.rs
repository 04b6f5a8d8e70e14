//! Runs of ranks that are compared: one size for all of them, and what became of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::command_line::{self, prepared};
use crate::killing::files;
use crate::mpirun::done;

/// Steps of a whole run, with a line for each.
pub const STEPS: u64 = 30;

/// Of one that is stopped on its way.
pub const LONG: u64 = 100;

/// A folder of its own for a test, and the ways from there to what is trained on.
pub struct Place {
    folder: tempfile::TempDir,
    stores: String,
}

impl Place {
    pub fn new() -> Place {
        let [store, held_out] = ["store", "store.held-out"].map(|name| prepared().join(name));
        let stores = format!("--store {} --eval-store {}", store.display(), held_out.display());
        Place { folder: tempfile::tempdir().expect("a folder"), stores }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn out(&self, out: &str) -> PathBuf {
        self.path().join(out)
    }

    /// Begins a run on the processor. Evaluations and checkpoints fall on different steps.
    pub fn train(&self, out: &str) -> String {
        format!("{} --device cpu --threads 1 --set steps={STEPS}", self.train_on(out))
    }

    /// The same, long enough for something to happen to it.
    pub fn train_long(&self, out: &str) -> String {
        self.train(out).replace(&format!("steps={STEPS}"), &format!("steps={LONG}"))
    }

    pub fn train_on(&self, out: &str) -> String {
        format!(
            "pretrain {} --out {out} --preset tiny --set batch_size=12 --set micro_batch=2 --set max_length=64 --set \
             model.layers=1 --set model.hidden_size=32 --set model.ffn_size=64 --set warmup_steps=4 --set log_every=1 \
             --set checkpoint_every=10 --set eval_every=15 --set eval_sequences=14 --keep 1 \
             --keep-every 10",
            self.stores
        )
    }

    pub fn resume(&self, out: &str) -> String {
        format!("pretrain {} --out {out} --device cpu --threads 1 --resume", self.stores)
    }

    /// Whether two runs have the same bytes.
    pub fn assert_same(&self, run: &str, expected: &Path) {
        let (run, expected) = (files(&self.out(run)), files(expected));
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&run), names(&expected));
        for (name, bytes) in &expected {
            assert!(run[name] == *bytes, "{} is another", name.display());
        }
    }

    /// Whether the losses of two runs, trained and held out, are as close as sums in another order are: `first` at the first
    /// step, `all` later.
    pub fn assert_close(&self, run: &str, expected: &Path, [first, all]: [f64; 2]) {
        for name in ["metrics.jsonl", "eval.jsonl"] {
            let [found, wanted] = [&self.out(run), expected].map(|run| records(&run.join(name)));
            assert_eq!(steps(&found), steps(&wanted), "{run}: {name}");
            for (found, wanted) in found.iter().zip(&wanted) {
                let step = wanted["step"].as_u64().expect("a step");
                let allowed = if step == 1 { first } else { all };
                for loss in ["loss", "mlm_loss", "disc_loss"] {
                    let [found, wanted] = [found, wanted].map(|line| line[loss].as_f64().expect("a loss"));
                    let off = (found - wanted).abs() / wanted;
                    assert!(
                        off <= allowed,
                        "{run}: {name}: step {step}: {loss} {found}, not {wanted}: {off:e}"
                    );
                }
            }
        }
    }

    pub fn state(&self, out: &str) -> Value {
        let run = self.out(out);
        let latest = fs::read_to_string(run.join("latest")).expect("latest");
        let state = run.join(latest.trim()).join("state.json");
        serde_json::from_slice(&fs::read(&state).expect("read")).expect("JSON")
    }

    /// As if a run had been killed after this step.
    pub fn go_back(&self, out: &str, step: u64) {
        let run = self.out(out);
        for entry in fs::read_dir(run.join("checkpoints")).expect("listed") {
            let path = entry.expect("listed").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            if name.trim_start_matches("step-").parse::<u64>().is_ok_and(|of| of > step) {
                fs::remove_dir_all(path).expect("removed");
            }
        }
        fs::write(run.join("latest"), format!("checkpoints/step-{step:08}\n")).expect("written");
    }
}

/// The run of one process, which nothing has started with others.
pub fn alone() -> &'static Path {
    static RUN: OnceLock<(Place, PathBuf)> = OnceLock::new();
    let begin = || {
        let place = Place::new();
        command_line::done(place.path(), &place.train("alone"));
        let run = place.out("alone");
        (place, run)
    };
    &RUN.get_or_init(begin).1
}

/// A long one of two ranks that nothing has stopped.
pub fn whole() -> &'static Path {
    static RUN: OnceLock<(Place, PathBuf)> = OnceLock::new();
    let begin = || {
        let place = Place::new();
        done(place.path(), 2, &place.train_long("whole"));
        let run = place.out("whole");
        (place, run)
    };
    &RUN.get_or_init(begin).1
}

pub fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("read");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn steps(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["step"].as_u64().expect("a step")).collect()
}

pub fn has_lines(run: &Path) -> bool {
    fs::metadata(run.join("metrics.jsonl")).is_ok_and(|file| file.len() > 0)
}

/// The step after which a run says that it was interrupted, and the command that goes on with it: said once.
pub fn interrupted(errors: &str) -> Option<(u64, String)> {
    let lines = errors.lines().filter_map(|line| line.strip_prefix("inazuma: interrupted after step "));
    let lines: Vec<&str> = lines.collect();
    let [line] = lines[..] else { return None };
    let (step, command) = line.split_once(", which is saved; go on with: ")?;
    Some((step.parse().ok()?, command.to_owned()))
}

pub fn has_saved(run: &Path, step: u64) -> bool {
    run.join(format!("checkpoints/step-{step:08}")).exists()
}
