//! Starts the binary as several ranks with `mpirun`, for tests: of Open MPI, on this machine. Nothing that hangs outlives
//! its test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::testing::skipped;

/// Many times what the longest of these runs takes: who takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(180);

pub const BINARY: &str = env!("CARGO_BIN_EXE_inazuma");

/// Whether ranks can be started here; where they cannot, the test that asks says so.
pub fn is_here() -> bool {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    let why = WHY.get_or_init(|| {
        if !cfg!(feature = "mpi") {
            return Some("built without MPI (--features mpi)".to_owned());
        }
        match Command::new("mpirun").arg("--version").output() {
            Err(error) => Some(format!("mpirun: {error}")),
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("Open MPI") => None,
            Ok(_) => Some("mpirun is not Open MPI's, whose options these tests give".to_owned()),
        }
    });
    if let Some(why) = why {
        skipped(why);
    }
    why.is_none()
}

/// Some of the ranks: how many, which program, and its arguments.
pub type Part<'a> = (usize, &'a Path, &'a str);

/// An mpirun that runs.
pub struct Job {
    child: Child,
    since: Instant,
    asked: String,
    errors: PathBuf,
    output: PathBuf,
}

/// What has become of it.
pub struct Ended {
    pub code: Option<i32>,
    pub errors: String,
    pub output: String,
}

/// Starts `count` ranks of the binary in a folder, which has what they say in files beside their own.
pub fn start(folder: &Path, count: usize, arguments: &str) -> Job {
    start_with(folder, &[], &[(count, Path::new(BINARY), arguments)])
}

/// Ranks that are not alike, and variables that mpirun is told something by.
pub fn start_with(folder: &Path, more: &[(&str, &str)], parts: &[Part]) -> Job {
    launch(folder, &[], more, parts)
}

/// Ranks beside which mpirun says little.
pub fn start_quiet(folder: &Path, parts: &[Part]) -> Job {
    launch(folder, &["-q"], &[], parts)
}

fn launch(folder: &Path, options: &[&str], more: &[(&str, &str)], parts: &[Part]) -> Job {
    let mut command = Command::new("mpirun");
    command.args(options);
    // As many as are asked for, wherever the system places them: these machines have few cores, and share them.
    command.args(["--oversubscribe", "--bind-to", "none"]);
    for (number, (count, program, arguments)) in parts.iter().enumerate() {
        command.args((number > 0).then_some(":")).args(["-n", &count.to_string()]);
        command.arg(program).args(arguments.split_whitespace());
    }
    let variables = [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        // Who waits lets others compute.
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        // Containers forbid the way on which processes read each other's memory, and Open MPI says so for every message.
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ];
    let [output, errors] = ["mpirun.stdout", "mpirun.stderr"].map(|name| folder.join(name));
    let file = |path: &Path| File::create(path).expect("created");
    command
        .envs(variables)
        .envs(more.iter().copied())
        .env("INAZUMA_CACHE", folder.join("cache"))
        .env_remove("RUST_LOG");
    command.current_dir(folder).stdin(Stdio::null()).stdout(file(&output)).stderr(file(&errors));
    let asked = format!("{command:?}");
    let child = command.spawn().expect("mpirun starts");
    Job { child, since: Instant::now(), asked, errors, output }
}

impl Job {
    /// Waits until the run has come so far. Fails where it ends before.
    pub fn until(&mut self, come: impl Fn() -> bool) {
        while !come() {
            assert!(!self.has_ended(), "{} has ended too early: {}", self.asked, self.said());
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    pub fn end(mut self) -> Ended {
        while !self.has_ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let code = self.child.wait().expect("waited").code();
        let output = fs::read_to_string(&self.output).expect("UTF-8");
        Ended { code, errors: self.said(), output }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.errors).expect("UTF-8")
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("waited").is_some();
        assert!(ended || self.since.elapsed() < PATIENCE, "{} hangs: {}", self.asked, self.said());
        ended
    }

    /// The process of a rank. Fails where there is none (yet).
    pub fn rank(&self, rank: usize) -> u32 {
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        let is_it = |process: &u32| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        children(self.child.id()).into_iter().find(is_it).unwrap_or_else(|| panic!("no rank {rank} runs"))
    }

    /// Of mpirun itself.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Job {
    /// A test that has failed leaves nothing that computes.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let ranks = children(self.child.id());
            ranks.into_iter().for_each(|process| signal(process, "KILL"));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a process a signal; one that has just ended does not mind.
pub fn signal(process: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &process.to_string()]).stderr(Stdio::null()).status();
}

/// Processes that were started by this one.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        let line = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name stands in brackets, and may hold anything; then come the state and the parent.
        let after = line.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(1).and_then(|word| word.parse().ok()) == Some(parent)
    };
    numbers.filter(is_child).collect()
}

/// Runs ranks to their end.
pub fn ended(folder: &Path, count: usize, arguments: &str) -> Ended {
    start(folder, count, arguments).end()
}

/// Runs ranks and expects success.
pub fn done(folder: &Path, count: usize, arguments: &str) -> Ended {
    let ended = ended(folder, count, arguments);
    assert_eq!(ended.code, Some(0), "{count} ranks: {arguments}\n{}", ended.errors);
    ended
}

impl Ended {
    /// Expects one line of ours, which says that this rank has died.
    pub fn mourns(&self, rank: usize, process: u32) {
        assert!(self.code.is_some_and(|code| code > 0), "{:?}: {}", self.code, self.errors);
        let lines: Vec<&str> = self.errors.lines().filter(|line| line.contains("inazuma: ")).collect();
        let died = format!("inazuma: error: rank {rank} (process {process}) has died");
        assert!(lines.len() == 1 && lines[0].starts_with(&died), "not one `{died}`: {}", self.errors);
        assert!(!self.errors.contains("stopping and saving"), "nothing is saved: {}", self.errors);
    }

    /// Expects exit status 1, and one line of ours that holds all of `words`.
    pub fn refuses(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.errors);
        assert!(!self.errors.contains("panicked"), "{}", self.errors);
        let lines: Vec<&str> =
            self.errors.lines().filter(|line| line.starts_with("inazuma: error: ")).collect();
        assert_eq!(lines.len(), 1, "{}", self.errors);
        words.iter().for_each(|word| assert!(lines[0].contains(word), "no `{word}` in: {}", lines[0]));
    }
}
