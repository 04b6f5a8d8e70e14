//! `prepare` and `tokenizer train` killed at many moments: what they were making is there whole or not at all, and a
//! rerun makes the bytes of an uninterrupted run and says what it found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command_line::{done, prepared};

/// Moments spread over the time that a run takes.
const MOMENTS: u32 = 24;

/// A command that is killed: what it makes, and the names that its files have while they are made.
struct Job {
    folder: tempfile::TempDir,
    arguments: String,
    /// The last of them is there only when all are.
    outputs: &'static [&'static str],
    took: Duration,
    expected: BTreeMap<&'static str, Vec<u8>>,
}

impl Job {
    fn new(files: &[(&str, &[u8])], arguments: &str, outputs: &'static [&'static str]) -> Job {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("written");
        }
        let mut job = Job {
            folder,
            arguments: arguments.to_owned(),
            outputs,
            took: Duration::ZERO,
            expected: BTreeMap::new(),
        };
        let since = Instant::now();
        done(job.folder.path(), arguments);
        job.took = since.elapsed();
        job.expected = outputs.iter().map(|&name| (name, fs::read(job.path(name)).expect("made"))).collect();
        job.forget();
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn partials(&self) -> Vec<PathBuf> {
        let partial = |name: &&str| self.path(&format!("{name}.partial"));
        self.outputs.iter().map(partial).filter(|path| path.exists()).collect()
    }

    fn forget(&self) {
        let made = self.outputs.iter().map(|name| self.path(name)).filter(|path| path.exists());
        made.chain(self.partials()).for_each(|path| fs::remove_file(path).expect("removed"));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inazuma"));
        command.args(self.arguments.split_whitespace()).current_dir(self.folder.path());
        command
    }

    fn start(&self) -> Child {
        self.command().stderr(Stdio::null()).spawn().expect("the binary starts")
    }

    /// Starts the command, waits for `moment`, kills it, and looks at what there is.
    fn kill(&self, moment: impl Fn() -> bool) {
        let mut child = self.start();
        while !moment() && child.try_wait().expect("waited").is_none() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = child.kill();
        child.wait().expect("waited");
        let last = self.outputs[self.outputs.len() - 1];
        if self.path(last).exists() {
            self.outputs.iter().for_each(|name| self.assert_whole(name));
        }
    }

    fn assert_whole(&self, name: &str) {
        let found = fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Compared without printing megabytes.
        assert!(found == self.expected[name], "{name} is not that of an uninterrupted run");
    }

    /// Runs the command to its end, beside whatever the killed one left.
    fn rerun(&self) {
        let (partial, whole) =
            (!self.partials().is_empty(), self.path(self.outputs[self.outputs.len() - 1]).exists());
        let output = self.command().output().expect("the binary starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(errors.contains("was interrupted; starting over"), partial, "{errors}");
        assert_eq!(errors.contains("replacing"), whole, "{errors}");
        self.outputs.iter().for_each(|name| self.assert_whole(name));
        assert_eq!(self.partials(), Vec::<PathBuf>::new());
        self.forget();
    }
}

fn kill_at_many_moments(job: &Job, check: impl Fn(&Job)) {
    let (mut none, mut some) = (0, 0);
    let mut look = || {
        match job.path(job.outputs[job.outputs.len() - 1]).exists() {
            true => some += 1,
            false => none += 1,
        }
        check(job);
    };
    for moment in 0..MOMENTS {
        let since = Instant::now();
        let delay = job.took * (moment + 1) * 21 / (20 * MOMENTS);
        job.kill(|| since.elapsed() >= delay);
        look();
        // The leftovers of every third are killed over again instead.
        if moment % 3 != 2 {
            job.rerun();
        }
    }
    job.rerun();
    // As soon as a file appears under either name: between the renames, if the machine is kind.
    for name in job.outputs {
        for name in [format!("{name}.partial"), (*name).to_owned()] {
            job.kill(|| job.path(&name).exists());
            look();
            job.rerun();
        }
    }
    assert!(none > 5, "the kills came too late: {none} left nothing, {some} a whole one");
}

/// The articles of `data/` as text, several times over so that encoding them takes a while.
fn text(times: usize) -> Vec<u8> {
    let articles = prepared().join("text/articles-00000.jsonl");
    fs::read(articles).expect("extracted").repeat(times)
}

#[test]
fn prepare_killed_at_any_moment_leaves_a_whole_store_or_none() {
    let model = fs::read(prepared().join("pieces.model")).expect("trained");
    let job = Job::new(
        &[("text.jsonl", &text(60)), ("pieces.model", &model)],
        "prepare text.jsonl --tokenizer pieces.model --out store --held-out 20%",
        &["store.held-out", "store"],
    );
    kill_at_many_moments(&job, |job| {
        for name in job.outputs.iter().filter(|name| job.path(name).exists()) {
            done(job.folder.path(), &format!("store verify {name}"));
        }
    });
}

/// A store that is replaced goes before its held-out part does: the two always belong together.
#[test]
fn a_replaced_store_never_stands_beside_the_held_out_part_of_another() {
    let model = fs::read(prepared().join("pieces.model")).expect("trained");
    let command = "prepare text.jsonl --tokenizer pieces.model --out store";
    let job = Job::new(
        &[("text.jsonl", &text(4)), ("pieces.model", &model)],
        &format!("{command} --held-out 20%"),
        &["store.held-out", "store"],
    );
    done(job.folder.path(), &format!("{command} --held-out 40%"));
    let older: BTreeMap<&str, Vec<u8>> =
        job.outputs.iter().map(|&name| (name, fs::read(job.path(name)).expect("made"))).collect();
    for name in ["store.held-out.partial", "store.partial"] {
        for (name, bytes) in &older {
            fs::write(job.path(name), bytes).expect("written");
        }
        // `kill` compares with the new ones what is there; the old pair is as good.
        let mut child = job.start();
        let appeared = |path: &Path| path.exists();
        while !appeared(&job.path(name)) && child.try_wait().expect("waited").is_none() {}
        while appeared(&job.path(name)) && child.try_wait().expect("waited").is_none() {}
        let _ = child.kill();
        child.wait().expect("waited");
        if let Ok(store) = fs::read(job.path("store")) {
            let part = fs::read(job.path("store.held-out")).expect("a store has its held-out part");
            let pair = |stores: &BTreeMap<&str, Vec<u8>>| {
                stores["store"] == store && stores["store.held-out"] == part
            };
            assert!(pair(&older) || pair(&job.expected), "killed when {name} was gone");
        }
    }
}

#[test]
fn tokenizer_train_killed_at_any_moment_leaves_a_whole_model_or_none() {
    let job = Job::new(
        &[("text.jsonl", &text(1))],
        "tokenizer train text.jsonl --out pieces --vocab-size 1800 --max-sentences 700 --seed 5",
        &["pieces.log", "pieces.vocab", "pieces.model"],
    );
    kill_at_many_moments(&job, |_| {});
}
