//! Files that a fault must not leave half written: names until they are whole, atomic replacement, JSON lines; and TOML.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The path with something appended to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a partial file, empty, and locks it, so that two runs of `command` cannot write one result.
///
/// # Errors
/// It cannot be written, or another run holds it.
pub fn lock(path: &Path, command: &str) -> Result<File> {
    let name = path.display();
    let cannot = || format!("cannot write {name}");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another `inazuma {command}` is writing {name}"),
        // Some network file systems have no locks; files can be written there all the same.
        Err(TryLockError::Error(_)) => {}
    }
    file.set_len(0).with_context(cannot)?;
    Ok(file)
}

/// Writes a file whole or not at all: another name, sync, rename.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = with_suffix(path, ".tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    sync_directory(path.parent());
    Ok(())
}

/// Makes a rename durable where the system can; elsewhere it is as durable as it gets.
pub fn sync_directory(directory: Option<&Path>) {
    if let Some(directory) = directory.and_then(|directory| File::open(directory).ok()) {
        let _ = directory.sync_all();
    }
}

/// Reads TOML.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        anyhow!("line {line}: {}", error.message())
    })
}

/// A file of JSON lines, each with a `step`, that is only ever appended to.
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens or creates the file, first dropping lines beyond `step` (those that a resumed run makes again)
    /// and a last line that was cut off.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let name = path.display();
        if path.exists() {
            let text = fs::read(path).with_context(|| format!("cannot read {name}"))?;
            let mut kept = Vec::new();
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                let record = serde_json::from_slice::<serde_json::Value>(line).ok();
                let at = record.as_ref().and_then(|record| record.get("step")?.as_u64());
                if line.ends_with(b"\n") && at.is_some_and(|at| at <= step) {
                    kept.extend_from_slice(line);
                }
            }
            if kept.len() != text.len() {
                write_atomically(path, &kept)?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(JsonLines { path: path.to_owned(), file: file.with_context(|| format!("cannot write {name}"))? })
    }

    /// Appends a record in one write, so that an interruption cannot mix lines.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_later_and_broken_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":10}\n{\"step\":20}\n{\"step\":30}\n{\"st").unwrap();
        JsonLines::open(&path, 20).unwrap().append(&serde_json::json!({"step": 25})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":10}\n{\"step\":20}\n{\"step\":25}\n");
    }
}
