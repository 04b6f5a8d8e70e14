//! Whether a process trains in a directory, as the lock there says. It is neither made nor written here.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::train::run::LOCK;

/// Locks of a directory.
pub struct Locks(Vec<Lock>);

struct Lock {
    path: PathBuf,
    /// When the file was written that nobody held. Who takes it writes it, so it need not be asked of again: for that it is
    /// locked for a moment, in which a process that begins would be refused.
    free: Option<SystemTime>,
}

impl Locks {
    /// Of a run, or of a fine-tuned model: one of several trials has that of all of them.
    pub fn of(directory: &Path) -> Self {
        let trial = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trial-"));
        let above = directory.parent().filter(|_| trial);
        let folders = [Some(directory), above].into_iter().flatten();
        Locks(folders.map(|folder| Lock { path: folder.join(LOCK), free: None }).collect())
    }

    /// Nothing where that cannot be told.
    pub fn are_held(&mut self) -> Option<bool> {
        let each: Vec<Option<bool>> = self.0.iter_mut().map(Lock::is_held).collect();
        if each.contains(&Some(true)) {
            Some(true)
        } else {
            each.into_iter().collect::<Option<Vec<_>>>().map(|_| false)
        }
    }
}

impl Lock {
    fn is_held(&mut self) -> Option<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Some(false),
            Err(_) => return None,
        };
        let written = file.metadata().and_then(|metadata| metadata.modified()).ok();
        if written.is_some() && self.free == written {
            return Some(false);
        }
        self.free = None;
        match file.try_lock_shared() {
            Ok(()) => {
                self.free = written;
                Some(false)
            }
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}
