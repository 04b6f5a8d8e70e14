//! Processes of one machine that look after each other: where one dies, one of the others says which it was. Launchers end
//! all then, but do not always say why.
//!
//! They see it in `/proc`; elsewhere than on Linux nobody does.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tracing::Level;

use super::Transport;
use crate::note;

/// Between two looks at the others.
const LOOK: Duration = Duration::from_millis(500);

/// Time that a launcher has to end all by itself.
const GRACE: Duration = Duration::from_secs(2);

/// A process, which no later one is taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// One for each time that a machine was started.
    machine: String,
    number: u32,
    /// When it began, in the machine's time.
    since: u64,
}

impl Process {
    fn this() -> Option<Self> {
        let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let number = std::process::id();
        let (_, since) = state(number)?;
        Some(Process { machine, number, since })
    }

    /// Whether it is seen here: a container may have other numbers.
    fn is_seen(&self) -> bool {
        state(self.number).is_some_and(|(_, since)| since == self.since)
    }

    /// Whether it is gone, or only waits for its parent to hear of that. Where nobody can tell it is not.
    fn is_dead(&self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.number)) {
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(stat) => parsed(&stat)
                .is_some_and(|(state, since)| since != self.since || matches!(state, 'Z' | 'X' | 'x')),
        }
    }
}

/// What a process does, and since when there is one of this number.
fn state(process: u32) -> Option<(char, u64)> {
    parsed(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// The third and the 22nd field; the second one stands in brackets, and may hold anything.
fn parsed(stat: &str) -> Option<(char, u64)> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.nth(18)?.parse().ok()?))
}

/// What each says of itself.
#[derive(Serialize, Deserialize)]
struct Introduction {
    process: Option<Process>,
    board: Option<PathBuf>,
}

/// The other ranks of this machine.
pub struct Neighbours {
    rank: usize,
    others: Vec<(usize, Process)>,
    /// A file that all of them have open, and that has no name any more: it is empty until one has said why all end.
    board: Option<Mutex<File>>,
    /// This process has done its work: others may end too.
    ending: AtomicBool,
}

impl Neighbours {
    /// Hears who the others are; all ranks call it.
    pub fn meet(transport: &dyn Transport) -> Result<Arc<Self>> {
        let (rank, own) = (transport.rank(), Process::this());
        let made = own.as_ref().filter(|_| transport.local().0 == 0).and_then(|process| {
            let path =
                std::env::temp_dir().join(format!("inazuma-ranks-{}-{}", process.number, process.since));
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).ok()?;
            Some((path, file))
        });
        let board = made.as_ref().map(|(path, _)| path.clone());
        let said = transport.gather(&serde_json::to_vec(&Introduction { process: own.clone(), board })?)?;
        let all = said
            .iter()
            .map(|said| serde_json::from_slice(said).context("what another rank says of itself"))
            .collect::<Result<Vec<Introduction>>>()?;
        let machine = own.as_ref().map(|process| process.machine.as_str());
        let is_here = |process: &Process| Some(process.machine.as_str()) == machine;
        let board = match made.is_some() {
            true => made.as_ref().and_then(|(_, file)| file.try_clone().ok()),
            false => {
                let here = all.iter().filter(|other| other.process.as_ref().is_some_and(is_here));
                let path = here.filter_map(|other| other.board.as_ref()).next();
                path.and_then(|path| OpenOptions::new().append(true).open(path).ok())
            }
        };
        let others = all.into_iter().enumerate().filter(|(of, _)| *of != rank);
        let others = others.filter_map(|(of, other)| Some((of, other.process?)));
        let others = others.filter(|(_, process)| is_here(process) && process.is_seen()).collect();
        // Now all have opened it.
        transport.gather(&[])?;
        if let Some((path, _)) = made {
            let _ = fs::remove_file(path);
        }
        Ok(Arc::new(Self::of(rank, others, board)))
    }

    fn of(rank: usize, others: Vec<(usize, Process)>, board: Option<File>) -> Self {
        Neighbours { rank, others, board: board.map(Mutex::new), ending: AtomicBool::new(false) }
    }

    /// From now on others may end, too.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Whether this process is the first one of its machine to say why all end.
    pub fn has_last_word(&self) -> bool {
        let lowest = || self.others.iter().all(|(rank, process)| *rank > self.rank || process.is_dead());
        let Some(board) = &self.board else { return lowest() };
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ask = || -> std::io::Result<bool> {
            board.lock()?;
            let is_first = board.metadata()?.len() == 0;
            if is_first {
                board.write_all(b"!")?;
            }
            board.unlock()?;
            Ok(is_first)
        };
        ask().unwrap_or_else(|_| lowest())
    }

    /// Whether another one has died; of those that are left one says which.
    pub fn mourn(&self) -> bool {
        let dead = self.others.iter().find(|(_, process)| process.is_dead());
        // Asked last: who has done its work ends after all have come to their end.
        let Some((rank, process)) = dead.filter(|_| !self.is_ending()) else { return false };
        if self.has_last_word() {
            let line = format!(
                "inazuma: error: rank {rank} (process {}) has died, and all end with it; give the same command again \
                 (`pretrain` with --resume)",
                process.number
            );
            note::say(Level::ERROR, &line);
        }
        true
    }

    /// Looks after the others from now on. Where one has died, and nothing ends this process, `abort` does.
    pub fn watch(self: &Arc<Self>, abort: impl Fn() + Send + 'static) -> Result<()> {
        if self.others.is_empty() {
            return Ok(());
        }
        let own = self.clone();
        let watch = move || {
            while !own.is_ending() {
                std::thread::sleep(LOOK);
                if own.mourn() {
                    std::thread::sleep(GRACE);
                    abort();
                    std::process::exit(1);
                }
            }
        };
        std::thread::Builder::new()
            .name("neighbours".to_owned())
            .spawn(watch)
            .context("cannot start a thread")?;
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::ranks::threads;

    fn sleeping() -> (Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let number = child.id();
        let (_, since) = state(number).unwrap();
        (child, Process { machine: String::new(), number, since })
    }

    #[test]
    fn who_dies_is_missed_and_one_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let board = folder.path().join("board");
        File::create(&board).unwrap();
        let (mut child, process) = sleeping();
        let open = || OpenOptions::new().append(true).open(&board).ok();
        let [a, b] = [0, 2].map(|rank| Neighbours::of(rank, vec![(1, process.clone())], open()));
        assert!(process.is_seen() && !process.is_dead() && !a.mourn() && !b.mourn());
        child.kill().unwrap();
        // Its parent has not asked for it yet.
        while !process.is_dead() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(a.mourn() && b.mourn());
        assert!(!a.has_last_word() && !b.has_last_word(), "one of them has spoken");
        child.wait().unwrap();
        assert!(process.is_dead() && a.mourn());
        a.end();
        assert!(!a.mourn(), "who has done its work misses nobody");
        // Another one of its number is not taken for it.
        let later = Process { since: process.since + 1, number: std::process::id(), ..process };
        assert!(later.is_dead() && !later.is_seen());
    }

    #[test]
    fn without_a_board_the_lowest_speaks() {
        let (mut child, process) = sleeping();
        let [low, high] = [0, 2].map(|rank| Neighbours::of(rank, vec![(1, process.clone())], None));
        assert!(low.has_last_word() && !high.has_last_word());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(low.has_last_word() && high.has_last_word());
    }

    #[test]
    fn all_hear_of_each_other_and_leave_no_file() {
        let met = threads::run(3, |ranks| Neighbours::meet(ranks.transport.as_deref().unwrap()).unwrap());
        for (rank, neighbours) in met.iter().enumerate() {
            let others: Vec<usize> = neighbours.others.iter().map(|(rank, _)| *rank).collect();
            assert_eq!(others, [0, 1, 2].into_iter().filter(|other| *other != rank).collect::<Vec<_>>());
            assert!(neighbours.board.is_some() && !neighbours.mourn());
        }
        assert_eq!(met.iter().filter(|neighbours| neighbours.has_last_word()).count(), 1);
        let (own, left) = (std::process::id(), fs::read_dir(std::env::temp_dir()).unwrap().flatten());
        let name = format!("inazuma-ranks-{own}-");
        assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&name)));
    }
}
