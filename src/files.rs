//! Files that a fault must not leave half written: names until they are whole, atomic replacement, JSON lines, records with checksums;
//! and TOML.

mod appended;
mod lines;
pub mod records;
mod stdin;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

pub use appended::Appended;
pub use lines::{JsonLines, last_step};
pub use stdin::{lines_of_stdin, say_if_typed, text_of_stdin};

/// A line of input that is longer than this is no text, and would have to be held in memory whole.
pub const LONGEST_LINE: u64 = 1 << 30;

/// Cores of this machine that the process may use: its threads where the user names no number.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

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

/// Writes a file whole or not at all: another name, sync, rename. What a link leads to is replaced, not the link; a pipe, a
/// terminal or a device is written into: renaming a file over `/dev/null` would take it from the whole system.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let written = OpenOptions::new().write(true).open(path).and_then(|mut into| into.write_all(bytes));
        return written.with_context(|| format!("cannot write {}", path.display()));
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
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

/// Bytes that can still be written to the disk of a folder, where the system tells.
pub fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|of| of.f_bavail.saturating_mul(of.f_frsize));
    #[cfg(not(unix))]
    return None;
}

/// A number of bytes for people, in three digits: 0.04 MB, 12.1 MB, 1.34 GB, of 10^6 and 10^9 bytes. What is for programs
/// has bytes.
pub fn size(bytes: u64) -> String {
    let (mut number, mut unit) = (bytes as f64 / 1e6, "MB");
    if number >= 999.5 {
        (number, unit) = (number / 1e3, "GB");
    }
    let decimals = match number {
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn pipes_and_links_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| folder.path().join(name));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomically(&link, b"after").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"after");
        // As a device is: one of our own to be replaced wants root.
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomically(&pipe, b"through").unwrap();
        assert!(!fs::metadata(&pipe).unwrap().is_file());
        assert_eq!(reader.join().unwrap(), b"through");
    }

    #[test]
    fn sizes_have_three_digits() {
        let bytes = [0, 44_000, 9_994_999, 9_995_000, 12_140_000, 99_960_000, 999_400_000, 999_600_000];
        let expected = ["0.00 MB", "0.04 MB", "9.99 MB", "10.0 MB", "12.1 MB", "100 MB", "999 MB", "1.00 GB"];
        assert_eq!(bytes.map(size), expected);
        assert_eq!(
            [54_300_000_000, 80 << 30, 1_234_500_000_000].map(size),
            ["54.3 GB", "85.9 GB", "1234 GB"]
        );
    }
}
