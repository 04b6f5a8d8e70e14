//! One process at a time in a run's directory. The system lets go of a lock when its process ends, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::files::sync_directory;
use crate::interop::checkpoint;
use crate::note::duration;

/// The file that is locked.
pub const LOCK: &str = "lock";

/// Who holds a lock, for the one who wanted it.
#[derive(Serialize, Deserialize)]
struct Holder {
    process: u32,
    host: String,
    /// Seconds since 1970.
    since: u64,
    command: String,
}

impl Holder {
    fn this() -> Self {
        let command: Vec<_> = std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        Holder { process: std::process::id(), host: host(), since: now(), command: command.join(" ") }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Holder { process, host, since, command } = self;
        let held = duration(now().saturating_sub(*since) as f64);
        write!(f, "process {process} on {host}, for {held}: {command}")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn host() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return std::env::var("COMPUTERNAME").unwrap_or_default();
}

/// A directory that no other process trains in.
pub struct Claim {
    path: PathBuf,
    /// Folders made for it, the outermost first: they go again where nothing came into them.
    made: Vec<PathBuf>,
    _file: File,
}

impl Claim {
    /// Claims a directory for a new run; makes it where it is not there.
    ///
    /// # Errors
    /// Another process has it (which one), or something is in it.
    pub fn fresh(out: &Path) -> Result<Self> {
        let shown = out.display();
        let missing = out.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let mut made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        made.reverse();
        fs::create_dir_all(out).with_context(|| format!("cannot create {shown}"))?;
        made.iter().for_each(|path| sync_directory(path.parent()));
        let claim = Self::lock(out, made)?;
        ensure_empty(out)?;
        Ok(claim)
    }

    /// Claims the directory of a run that is to go on.
    ///
    /// # Errors
    /// Another process has it (which one), or no run has begun in it.
    pub fn resumed(out: &Path) -> Result<Self> {
        let config = out.join(checkpoint::CONFIG);
        // So that nothing is written where there is no run.
        fs::metadata(&config).with_context(|| {
            format!("--resume: cannot read {}; a run that stopped before it was there has not begun, start it without --resume (in an empty directory)", config.display())
        })?;
        Self::lock(out, Vec::new())
    }

    fn lock(out: &Path, made: Vec<PathBuf>) -> Result<Self> {
        let path = out.join(LOCK);
        let shown = path.display();
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(&path).with_context(|| format!("cannot write {shown}"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let holder = file.read_to_string(&mut text).ok();
                    let holder = holder.and_then(|_| serde_json::from_str::<Holder>(&text).ok());
                    let holder = holder.map_or("another process".to_owned(), |holder| holder.to_string());
                    bail!("{} is in use by {holder}", out.display())
                }
                Err(TryLockError::Error(error)) => note!(
                    "note: {shown} cannot be locked ({error}); see to it yourself that no other process trains in {}",
                    out.display()
                ),
            }
            if !is_same(&file, &path) {
                // Its holder ended, and removed it, between our opening and our locking it.
                continue;
            }
            file.set_len(0)
                .and_then(|()| file.write_all(&serde_json::to_vec(&Holder::this())?))
                .with_context(|| format!("cannot write {shown}"))?;
            return Ok(Claim { path, made, _file: file });
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked: who waits for it sees that it is no longer the file of this name.
        let _ = fs::remove_file(&self.path);
        for folder in self.made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Whether a file that is open still has its name.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn is_same(_: &File, _: &Path) -> bool {
    true
}

/// Refuses a directory with something in it but for what a run leaves that stopped before it began.
fn ensure_empty(out: &Path) -> Result<()> {
    let shown = out.display();
    let entries = fs::read_dir(out).with_context(|| format!("cannot use {shown} as the run's directory"))?;
    let begun = format!("{}.tmp", checkpoint::CONFIG);
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot use {shown} as the run's directory"))?;
        ensure!(
            entry.file_name() == LOCK || entry.file_name() == begun.as_str(),
            "{shown} is not empty; continue the run in it with --resume (pretrain alone can), or name another directory"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(claim: Result<Claim>) -> String {
        format!("{:#}", claim.err().expect("should be refused"))
    }

    #[test]
    fn a_directory_has_one_holder_and_is_as_before_when_nothing_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/b");
        let claim = Claim::fresh(&out).unwrap();
        for refused in [failure(Claim::fresh(&out)), {
            fs::write(out.join(checkpoint::CONFIG), "").unwrap();
            failure(Claim::resumed(&out))
        }] {
            assert!(refused.contains("is in use by process "), "{refused}");
            assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        }
        drop(claim);
        assert!(!out.join(LOCK).exists());
        assert!(failure(Claim::fresh(&out)).contains("is not empty; continue the run in it with --resume"));
        drop(Claim::resumed(&out).unwrap());
        fs::remove_file(out.join(checkpoint::CONFIG)).unwrap();
        assert!(failure(Claim::resumed(&out)).contains("config.toml"));
        // What a killed process leaves is in nobody's way.
        fs::write(out.join(LOCK), "{").unwrap();
        fs::write(out.join("config.toml.tmp"), "half").unwrap();
        drop(Claim::fresh(&out).unwrap());
        let other = folder.path().join("c/d");
        drop(Claim::fresh(&other).unwrap());
        assert!(!folder.path().join("c").exists());
    }

    /// Many at once, over and over: never two.
    #[test]
    fn of_many_one_has_it() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let (inside, had) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        // The folder may be gone between making and locking: an error, and no harm.
                        if let Ok(claim) = Claim::fresh(&out) {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            had.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                            drop(claim);
                        }
                    }
                });
            }
        });
        assert!(had.into_inner() > 0);
    }
}
