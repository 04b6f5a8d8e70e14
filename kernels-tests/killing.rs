//! `pretrain` killed with -9 at many moments, and resumed: it ends with the bytes of a run that nobody killed. With
//! INAZUMA_TORTURE=FILE (`tools/torture`) more often, on more kinds of runs, and a table of what was hit goes into FILE.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inazuma::tensor::random::{Stream, root};
use serde_json::Value;

use crate::command_line::{done, prepared};
use crate::testing::skipped;

/// What no two runs have in common.
const RATES: [&str; 4] = ["tokens_per_second", "positions_per_second", "mfu", "model_flops_per_second"];

/// Steps from one evaluation to the next. Evaluations, lines and checkpoints fall on different steps.
const EVALUATED: u64 = 6;

/// Kills of one run before it is let go to its end.
const KILLS_OF_A_RUN: usize = 4;

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After a share of the time that a whole run takes, at random.
    Random,
    /// As soon as a file of this name is in the run's directory.
    Appears(&'static str),
    /// As soon as a checkpoint is being written.
    Saving,
    /// As soon as `latest` names another checkpoint than at the start.
    Saved,
    /// As soon as the line is there that comes before an evaluation.
    Evaluating,
}

/// Every kind of moment that can be aimed at.
const AIMED: [Moment; 6] = [
    Moment::Appears("lock"),
    Moment::Appears("config.toml"),
    Moment::Appears("metrics.jsonl"),
    Moment::Saving,
    Moment::Saved,
    Moment::Evaluating,
];

/// A kind of run, and one of its kind that nobody killed.
struct Job {
    folder: tempfile::TempDir,
    /// For people.
    name: String,
    stores: String,
    settings: String,
    device: String,
    took: Duration,
    /// Runs begun so far.
    runs: usize,
    draws: Stream,
    /// Kills by where they hit.
    hits: BTreeMap<&'static str, usize>,
}

impl Job {
    fn new(name: &str, stores: &str, device: &str, settings: &str) -> Job {
        let stores = stores.replace("STORE", &prepared().join("store").display().to_string());
        let held_out = prepared().join("store.held-out");
        let seed = name.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte));
        let mut job = Job {
            folder: tempfile::tempdir().expect("a folder"),
            name: name.to_owned(),
            stores: format!("{stores} --eval-store {}", held_out.display()),
            settings: format!(
                "--preset tiny --set batch_size=4 --set micro_batch=2 --set max_length=64 --set model.layers=1 \
                 --set model.hidden_size=32 --set model.ffn_size=64 --set warmup_steps=4 --set log_every=3 \
                 --set checkpoint_every=4 --set eval_every={EVALUATED} --set eval_sequences=12 --keep 2 \
                 --keep-every 8 {settings}"
            ),
            device: device.to_owned(),
            took: Duration::ZERO,
            runs: 0,
            draws: Stream::new(root(seed)),
            hits: BTreeMap::new(),
        };
        let since = Instant::now();
        done(job.folder.path(), &job.arguments(&job.folder.path().join("whole")));
        job.took = since.elapsed();
        job
    }

    /// Begins a run, or goes on with it where it has begun.
    fn arguments(&self, out: &Path) -> String {
        let Job { stores, settings, device, .. } = self;
        let settings = if out.join("config.toml").exists() { "--resume" } else { settings };
        format!("pretrain {stores} --out {} {device} {settings}", out.display())
    }

    fn start(&self, out: &Path) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inazuma"));
        command.args(self.arguments(out).split_whitespace()).current_dir(self.folder.path());
        let errors = fs::File::create(self.folder.path().join("stderr")).expect("created");
        command.env("INAZUMA_CACHE", self.folder.path().join("cache"));
        command.stdout(Stdio::null()).stderr(errors).spawn().expect("the binary starts")
    }

    /// What the process said that was started last.
    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).expect("read")
    }

    /// Starts the run or goes on with it, and kills it at this moment; false where it was done before.
    fn kill(&mut self, out: &Path, moment: Moment) -> bool {
        let share = self.draws.uniform();
        let (since, before, delay) = (Instant::now(), latest(out), self.took.mul_f64(share));
        let come = || match moment {
            Moment::Random => since.elapsed() >= delay,
            Moment::Appears(name) => out.join(name).exists(),
            Moment::Saving => is_saving(out),
            Moment::Saved => latest(out) != before,
            Moment::Evaluating => is_evaluating(out),
        };
        let mut child = self.start(out);
        let mut ended = false;
        while !come() && !ended {
            std::thread::sleep(Duration::from_micros(200));
            ended = child.try_wait().expect("waited").is_some();
        }
        let _ = child.kill();
        let status = child.wait().expect("waited");
        let said = self.said();
        assert!(!said.contains("is damaged"), "{}: {said}", self.name);
        if status.code().is_some() {
            assert!(status.success(), "{}: {status}\n{said}", self.name);
            // The first run of a kind takes longer: kernels are compiled.
            self.took = self.took.min(since.elapsed());
            return false;
        }
        *self.hits.entry(place(out)).or_default() += 1;
        true
    }

    /// Lets a run go to its end, and compares it with the one that nobody killed.
    fn finish(&self, out: &Path) {
        let status = self.start(out).wait().expect("waited");
        assert!(status.success(), "{}: {status}\n{}", self.name, self.said());
        let (whole, killed) = (files(&self.folder.path().join("whole")), files(out));
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&killed), names(&whole), "{}", self.name);
        for (name, bytes) in &whole {
            // Compared without printing megabytes.
            assert!(killed[name] == *bytes, "{}: {} is not that of a whole run", self.name, name.display());
        }
    }

    /// Kills runs at these moments, and as many times more at random moments; a run that is done is compared, and the
    /// next one begun.
    fn torture(&mut self, aimed: &[Moment], random: usize) {
        let random = std::iter::repeat_n(Moment::Random, random);
        let mut kills = 0;
        for moment in aimed.iter().copied().chain(random) {
            loop {
                let out = self.folder.path().join(format!("killed-{}", self.runs));
                if !self.kill(&out, moment) {
                    // It was done before the moment came; another has that moment before it.
                    self.finish(&out);
                    self.runs += 1;
                    continue;
                }
                kills += 1;
                if kills % KILLS_OF_A_RUN == 0 {
                    self.finish(&out);
                    self.runs += 1;
                }
                break;
            }
        }
        self.finish(&self.folder.path().join(format!("killed-{}", self.runs)));
    }

    /// A row of the table: what was killed how often, where that hit, and how many runs were compared.
    fn row(&self) -> String {
        let hits: Vec<String> = PLACES
            .iter()
            .map(|place| self.hits.get(place).map_or("0".to_owned(), |count| count.to_string()))
            .collect();
        let (kills, runs): (usize, _) = (self.hits.values().sum(), self.runs + 1);
        format!("| {} | {kills} | {} | {runs} of {runs} |", self.name, hits.join(" | "))
    }
}

fn latest(out: &Path) -> Option<String> {
    fs::read_to_string(out.join("latest")).ok()
}

/// Names in `checkpoints`.
fn checkpoints(out: &Path) -> Vec<String> {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_saving(out: &Path) -> bool {
    checkpoints(out).iter().any(|name| name.starts_with('.') && !name.contains(".old"))
}

/// The step of the last line of a file.
fn last_step(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    line.and_then(|line| line["step"].as_u64()).unwrap_or(0)
}

fn is_evaluating(out: &Path) -> bool {
    let step = last_step(&out.join("metrics.jsonl"));
    step > 0 && step.is_multiple_of(EVALUATED) && last_step(&out.join("eval.jsonl")) < step
}

/// Where a kill can hit.
const PLACES: [&str; 5] = [
    "before it began",
    "before the first checkpoint",
    "inside a checkpoint",
    "inside an evaluation",
    "elsewhere",
];

/// Where a kill has hit, by what it left.
fn place(out: &Path) -> &'static str {
    let step = latest(out).and_then(|name| name.trim().rsplit('-').next()?.parse::<u64>().ok());
    match step {
        None => PLACES[0],
        _ if is_saving(out) => PLACES[2],
        _ if is_evaluating(out) => PLACES[3],
        Some(0) => PLACES[1],
        Some(_) => PLACES[4],
    }
}

/// All files of a run but for its lock, lines without their rates.
pub fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).expect("read");
            if path.ends_with("metrics.jsonl") {
                bytes = without_rates(&bytes);
            }
            files.insert(path.strip_prefix(run).expect("in it").to_owned(), bytes);
        }
    }
    files
}

fn without_rates(lines: &[u8]) -> Vec<u8> {
    let lines = lines.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let mut record: Value = serde_json::from_slice(line).expect("JSON");
        let fields = record.as_object_mut().expect("an object");
        RATES.iter().for_each(|rate| drop(fields.remove(*rate).expect("a rate")));
        format!("{record}\n")
    });
    lines.collect::<String>().into_bytes()
}

const ONE: &str = "--store STORE";
const MIXED: &str = "--store STORE:3 --store STORE.held-out:1";

/// Several times over and longer where a table was asked for.
fn long() -> Option<PathBuf> {
    std::env::var_os("INAZUMA_TORTURE").map(PathBuf::from)
}

/// Appends to the table; its head where it is new.
fn tell(jobs: &[Job]) {
    let Some(file) = long() else { return };
    let mut table = fs::read_to_string(&file).unwrap_or_else(|_| {
        let head = format!("| run | kills | {} | equal |\n", PLACES.join(" | "));
        let line = format!("|{}\n", "---|".repeat(PLACES.len() + 3));
        head + &line
    });
    jobs.iter().for_each(|job| table.push_str(&format!("{}\n", job.row())));
    fs::write(&file, table).expect("written");
}

/// One after the other: they share the processors, and their times are what random moments are shares of.
#[test]
fn a_run_killed_at_any_moment_ends_as_one_that_was_not() {
    let mut jobs = Vec::new();
    let mut kill =
        |name: &str, stores: &str, device: &str, settings: &str, aimed: &[Moment], random: usize| {
            let mut job = Job::new(name, stores, device, settings);
            job.torture(aimed, random);
            jobs.push(job);
        };
    let cpu = |threads: usize| format!("--device cpu --threads {threads}");
    match long() {
        None => {
            kill("processor", ONE, &cpu(1), "--set steps=30", &AIMED, 2);
            let words = "--set steps=30 --set masking=word --set mask_probability_end=0.3";
            kill("processor, two stores, 2 threads, whole words", MIXED, &cpu(2), words, &[], 4);
        }
        Some(_) => {
            kill("processor", ONE, &cpu(1), "--set steps=60", &AIMED, 8);
            kill("processor, 2 threads", ONE, &cpu(2), "--set steps=60", &AIMED, 4);
            kill("processor, two stores", MIXED, &cpu(1), "--set steps=60", &[], 8);
            kill("processor, two stores, 3 threads", MIXED, &cpu(3), "--set steps=60", &AIMED, 6);
        }
    }
    let phases = "--set steps=30 --set phase.1.share=0.4 --set phase.1.max_length=16 --set phase.1.batch_size=8 --set \
                  phase.2.share=0.2 --set phase.2.max_length=32 --set phase.3.batch_size=3";
    kill("processor, three phases", ONE, &cpu(1), phases, &[], 4);
    let capabilities = &crate::harness::gpu().capabilities;
    let name = capabilities.name.split_whitespace().next().expect("a name");
    let device = format!("--device {name}");
    let many = long().is_some();
    let steps = if many { "--set steps=20" } else { "--set steps=13" };
    let (aimed, random) = if many { (&AIMED[..], 2) } else { (&AIMED[3..4], 2) };
    kill(&format!("{name}, two stores"), MIXED, &device, steps, aimed, random);
    if capabilities.half {
        let random = if many { 2 } else { 1 };
        kill(&format!("{name}, f16"), ONE, &device, &format!("{steps} --precision f16"), aimed, random);
    } else {
        skipped(&format!("{} has no SHADER_F16", capabilities.name));
    }
    tell(&jobs);
}
