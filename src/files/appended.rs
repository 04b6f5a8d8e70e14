//! Files that are only appended to, which a disk that is full for a while does no harm.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file that is only ever appended to, entry by entry. What cannot be written is kept and written when it can be.
pub struct Appended {
    path: PathBuf,
    /// What its entries are called.
    called: &'static str,
    /// Nothing where it could not be opened yet.
    pub(super) file: Option<File>,
    /// Bytes of the whole entries in the file.
    length: u64,
    /// Entries that are not in the file, and how many.
    waiting: Vec<u8>,
    entries: usize,
    /// Why they are not.
    failure: Option<io::Error>,
}

impl Appended {
    /// A file of `length` bytes; opened, or made with its folder, as soon as there is something to write.
    pub fn new(path: &Path, called: &'static str, length: u64) -> Self {
        let path = path.to_owned();
        Appended { path, called, file: None, length, waiting: Vec::new(), entries: 0, failure: None }
    }

    /// Opens or makes the file now.
    pub fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            self.path.parent().map_or(Ok(()), create_dir_all)?;
            self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Appends an entry in one write, so that an interruption cannot mix entries. Where it cannot be written (a full
    /// disk) that is said once, and the next one tries again.
    pub fn append(&mut self, entry: &[u8]) {
        self.waiting.extend_from_slice(entry);
        self.entries += 1;
        self.flush();
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let written = self.open().and_then(|file| file.write_all(&waiting));
        let (shown, called) = (self.path.display(), self.called);
        match written {
            Ok(()) => {
                self.length += waiting.len() as u64;
                self.entries = 0;
                if self.failure.take().is_some() {
                    note!("note: {shown} can be written again; it has all {called}");
                }
            }
            Err(error) => {
                // Half an entry may be there.
                let _ = self.file.as_ref().map(|file| file.set_len(self.length));
                self.waiting = waiting;
                if self.failure.is_none() {
                    note!("note: {shown} cannot be written ({error}); its {called} are kept until it can");
                }
                self.failure = Some(error);
            }
        }
    }

    /// A handle by which another thread brings all that was written to the disk.
    pub fn on_disk(&self) -> Result<File> {
        let file = self.file.as_ref().context("it is not open").and_then(|file| Ok(file.try_clone()?));
        file.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Tries a last time to write what waits.
    ///
    /// # Errors
    /// How many entries are lost.
    pub fn finish(&mut self) -> Result<()> {
        self.flush();
        if let Some(error) = self.failure.take() {
            let (shown, called, lost) = (self.path.display(), self.called, self.entries);
            bail!("{shown} lacks its last {lost} {called}, which could not be written: {error}")
        }
        Ok(())
    }
}
