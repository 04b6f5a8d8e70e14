//! Training on a disk that is full for a while or for good, and beside another process in one directory. A full disk is
//! a limit on the size of files: no privileges are needed for that.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command_line::prepared;
use crate::testing::skipped;

/// A run that ignores the signal which goes with the limit, so that writing fails as on a full disk.
struct Run {
    folder: tempfile::TempDir,
    child: Child,
    /// What it said so far, through a pipe: a file would have the limit too.
    said: Arc<Mutex<String>>,
}

impl Run {
    fn start(settings: &str) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Self::command(folder.path(), "run", settings);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("bash starts");
        let errors = child.stderr.take().expect("piped");
        let said = Arc::<Mutex<String>>::default();
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                *heard.lock().expect("held") += &(line + "\n");
            }
        });
        Run { folder, child, said }
    }

    fn command(folder: &Path, out: &str, settings: &str) -> Command {
        let script = format!(
            "trap '' XFSZ; exec {} pretrain --store {} --out {out} --preset tiny --device cpu --threads 1 \
             --set batch_size=2 --set micro_batch=2 --set max_length=32 --set model.layers=1 \
             --set model.hidden_size=32 --set model.ffn_size=64 --set warmup_steps=1 --set log_every=1 {settings}",
            env!("CARGO_BIN_EXE_inazuma"),
            prepared().join("store").display()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(folder).stdout(Stdio::null());
        command
    }

    fn said(&self) -> String {
        self.said.lock().expect("held").clone()
    }

    /// All of it, once the process has ended.
    fn all_said(&self) -> String {
        while Arc::strong_count(&self.said) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.said()
    }

    fn lines(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.folder.path().join("run/metrics.jsonl")).unwrap_or_default();
        let steps = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        steps.map(|line| line["step"].as_u64().expect("a step")).collect()
    }

    /// Names in `checkpoints`, sorted.
    fn checkpoints(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("run/checkpoints")).expect("listed");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn wait_for(&mut self, what: &str, come: impl Fn(&Run) -> bool) {
        let since = Instant::now();
        while !come(self) {
            let ended = self.child.try_wait().expect("waited");
            assert!(ended.is_none(), "ended before {what}: {}", self.said());
            assert!(since.elapsed() < Duration::from_secs(120), "no {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Files of the process grow to so many bytes from now on.
    fn limit(&self, bytes: &str) -> bool {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.child.id().to_string(), &format!("--fsize={bytes}:")]);
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Run {
    /// A test that fails leaves no run behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_nothing() {
    let mut run = Run::start("--set steps=1000000 --set checkpoint_every=5");
    run.wait_for("a checkpoint", |run| run.said().contains("step 5 saved: "));
    // Room for lines, not for a checkpoint.
    if !run.limit("100000") {
        skipped("a full disk: no `prlimit`");
        return;
    }
    run.wait_for("a checkpoint that fails", |run| run.said().contains("training goes on"));
    run.limit("10");
    run.wait_for("lines that wait", |run| run.said().contains("metrics.jsonl cannot be written ("));
    let waiting = *run.lines().last().expect("lines");
    run.limit("unlimited");
    let again = format!("step {} saved: ", (waiting + 40) / 5 * 5);
    run.wait_for("a checkpoint again", |run| run.said().contains(&again));
    Command::new("kill").args(["-INT", &run.child.id().to_string()]).status().expect("signalled");
    assert_eq!(run.child.wait().expect("waited").code(), Some(130), "{}", run.said());
    let said = run.all_said();
    assert!(said.contains("metrics.jsonl can be written again; it has all lines"), "{said}");
    assert!(said.contains("warning: the checkpoint of step "), "{said}");
    assert!(said.contains(" takes ") && said.contains(" free: cannot write "), "{said}");
    assert_eq!(said.matches("cannot be written").count(), 1, "said once: {said}");
    let lines = run.lines();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64) && lines.len() as u64 > waiting, "{lines:?}");
    assert!(run.checkpoints().iter().all(|name| name.starts_with("step-")), "{:?}", run.checkpoints());
}

/// The last checkpoint must be there; where it cannot be, that is the run's end, and what was there stays.
#[test]
fn a_disk_that_stays_full_is_an_error_at_the_end() {
    let mut run = Run::start("--set steps=100 --set checkpoint_every=1000");
    run.wait_for("a line", |run| !run.lines().is_empty());
    if !run.limit("100000") {
        skipped("a full disk: no `prlimit`");
        return;
    }
    assert_eq!(run.child.wait().expect("waited").code(), Some(1), "{}", run.said());
    let said = run.all_said();
    let last = said.lines().last().expect("an error");
    assert!(last.starts_with("inazuma: error: the checkpoint of step 100 takes "), "{said}");
    assert!(last.contains("B free: cannot write "), "{said}");
    assert_eq!(run.checkpoints(), ["step-00000000"]);
    assert_eq!(run.lines().len(), 100);
}

/// Of several that begin in one directory one trains; the others are told which.
#[test]
fn of_several_that_begin_at_once_one_trains() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = |number: usize| {
        let link = folder.path().join(format!("run-{number}"));
        // Different names of one directory, so that each has its own stderr.
        fs::create_dir_all(folder.path().join("run")).expect("created");
        std::os::unix::fs::symlink("run", &link).expect("linked");
        let errors = fs::File::create(folder.path().join(format!("run-{number}.stderr"))).expect("created");
        let settings = "--set steps=200 --set checkpoint_every=50";
        let mut command = Run::command(folder.path(), &format!("run-{number}"), settings);
        command.stderr(errors).spawn().expect("bash starts")
    };
    let mut all: Vec<Child> = (0..4).map(start).collect();
    let codes: Vec<_> = all.iter_mut().map(|child| child.wait().expect("waited").code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    for (number, code) in codes.iter().enumerate().filter(|(_, code)| **code != Some(0)) {
        let said = fs::read_to_string(folder.path().join(format!("run-{number}.stderr"))).expect("read");
        assert_eq!(*code, Some(1), "{said}");
        let refused = said.contains("is in use by process ") && said.contains("pretrain --store");
        // Who came when the first was done.
        assert!(refused || said.contains("is not empty"), "{said}");
    }
    assert!(!folder.path().join("run/lock").exists());
}
