//! JSON lines that outlive what happens to the program and to the disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::appended::Appended;
use super::write_atomically;

/// A file of JSON lines, each with a `step`, that is only ever appended to. What cannot be written is kept and written
/// when it can be.
pub struct JsonLines {
    file: Appended,
    /// The step of the last line that was there when the file was opened.
    last: Option<u64>,
}

/// The step of a line, if it is a whole one.
fn step(line: &[u8]) -> Option<u64> {
    let record = serde_json::from_slice::<serde_json::Value>(line).ok().filter(|_| line.ends_with(b"\n"))?;
    record.get("step")?.as_u64()
}

/// The step of the last whole line of a file that is there.
pub fn last_step(path: &Path) -> Result<Option<u64>> {
    match fs::read(path) {
        Ok(text) => Ok(text.split_inclusive(|&byte| byte == b'\n').filter_map(step).next_back()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl JsonLines {
    /// Opens or creates the file, first dropping lines beyond `upto` (those that a resumed run makes again)
    /// and a last line that was cut off.
    pub fn open(path: &Path, upto: u64) -> Result<Self> {
        let name = path.display();
        let (mut length, mut last) = (0, None);
        if path.exists() {
            let text = fs::read(path).with_context(|| format!("cannot read {name}"))?;
            let mut kept = Vec::new();
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                if let Some(at) = step(line).filter(|&at| at <= upto) {
                    kept.extend_from_slice(line);
                    last = Some(at);
                }
            }
            if kept.len() != text.len() {
                write_atomically(path, &kept)?;
            }
            length = kept.len() as u64;
        }
        let mut file = Appended::new(path, "lines", length);
        file.open().with_context(|| format!("cannot write {name}"))?;
        Ok(JsonLines { file, last })
    }

    /// The step of the last line that was there when the file was opened.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Appends a record in one write, so that an interruption cannot mix lines. Where it cannot be written (a full disk)
    /// that is said once, and the next one tries again.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.append(&line);
        Ok(())
    }

    /// A handle by which another thread brings all lines that were written to the disk.
    pub fn on_disk(&self) -> Result<File> {
        self.file.on_disk()
    }

    /// Tries a last time to write what waits.
    ///
    /// # Errors
    /// How many lines are lost.
    pub fn finish(&mut self) -> Result<()> {
        self.file.finish()
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
        assert_eq!(last_step(&path).unwrap(), Some(30));
        let mut lines = JsonLines::open(&path, 20).unwrap();
        assert_eq!(lines.last(), Some(20));
        lines.append(&serde_json::json!({"step": 25})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":10}\n{\"step\":20}\n{\"step\":25}\n");
    }

    /// A disk that is full for a while: nothing is lost; for good: it is an error at the end, and the first one.
    #[test]
    #[cfg(target_os = "linux")]
    fn lines_wait_while_the_disk_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let full = || fs::OpenOptions::new().append(true).open("/dev/full").ok();
        let mut lines = JsonLines::open(&path, 0).unwrap();
        lines.append(&serde_json::json!({"step": 1})).unwrap();
        let file = std::mem::replace(&mut lines.file.file, full());
        lines.append(&serde_json::json!({"step": 2})).unwrap();
        lines.append(&serde_json::json!({"step": 3})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        lines.file.file = file;
        lines.append(&serde_json::json!({"step": 4})).unwrap();
        let all = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), all);
        lines.finish().unwrap();

        lines.file.file = full();
        lines.append(&serde_json::json!({"step": 5})).unwrap();
        let error = lines.finish().unwrap_err().to_string();
        assert!(error.contains("lacks its last 1 lines"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), all);
    }
}
