//! Files under the name that they have until they are whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
