//! Articles into files of bounded size, and the manifest that says the directory is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Problem, Settings};

/// How articles are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One object a line: `{"id","title","text"}`, paragraphs separated by `\n`.
    Jsonl,
    /// A paragraph a line, a blank line after each article.
    Text,
}

/// Why a page is not among the articles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    Redirect,
    Namespace,
    Disambiguation,
    Model,
    Empty,
    Short,
    Malformed,
}

/// Pages that were left out, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Redirect pages.
    pub redirect: u64,
    /// Pages outside the main namespace.
    pub namespace: u64,
    /// Disambiguation pages.
    pub disambiguation: u64,
    /// Pages that are not wikitext (JSON, CSS, Lua).
    pub model: u64,
    /// Pages without a line of text.
    pub empty: u64,
    /// Articles below the minimum length.
    pub short: u64,
    /// Pages whose XML cannot be read.
    pub malformed: u64,
}

impl Skipped {
    fn count(&mut self, reason: Skip) -> &mut u64 {
        match reason {
            Skip::Redirect => &mut self.redirect,
            Skip::Namespace => &mut self.namespace,
            Skip::Disambiguation => &mut self.disambiguation,
            Skip::Model => &mut self.model,
            Skip::Empty => &mut self.empty,
            Skip::Short => &mut self.short,
            Skip::Malformed => &mut self.malformed,
        }
    }

    fn add(&mut self, other: &Self) {
        self.redirect += other.redirect;
        self.namespace += other.namespace;
        self.disambiguation += other.disambiguation;
        self.model += other.model;
        self.empty += other.empty;
        self.short += other.short;
        self.malformed += other.malformed;
    }
}

/// `manifest.json`: written last, so that a directory with one is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Articles written.
    pub articles: u64,
    /// Pages left out, by reason.
    pub skipped: Skipped,
    /// Characters (Unicode scalar values) of article text, line breaks between paragraphs included.
    pub characters: u64,
    /// Whether everything in the dumps could be read.
    pub complete: bool,
    /// How the articles are written.
    pub format: Format,
    /// The output files in order, by name.
    pub files: Vec<String>,
    /// The file names of the dumps in order.
    pub sources: Vec<String>,
    /// What could not be read, and where.
    pub problems: Vec<String>,
}

/// Finished articles of one piece of a dump, as the bytes to write.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each article ends in `bytes`.
    ends: Vec<usize>,
    characters: u64,
    skipped: Skipped,
    pub problems: Vec<Problem>,
}

impl Batch {
    pub(super) fn skip(&mut self, reason: Skip) {
        *self.skipped.count(reason) += 1;
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn malformed(&mut self, problem: Problem) {
        self.skip(Skip::Malformed);
        self.problems.push(problem);
    }

    pub(super) fn article(&mut self, format: Format, id: &str, title: &str, text: &str, characters: usize) {
        #[derive(Serialize)]
        struct Line<'a> {
            id: &'a str,
            title: &'a str,
            text: &'a str,
        }
        match format {
            Format::Jsonl => {
                let line = Line { id, title, text };
                // Writing strings into memory has no way to fail.
                let _ = serde_json::to_writer(&mut self.bytes, &line);
                self.bytes.push(b'\n');
            }
            Format::Text => {
                self.bytes.extend_from_slice(text.as_bytes());
                self.bytes.extend_from_slice(b"\n\n");
            }
        }
        self.ends.push(self.bytes.len());
        self.characters += characters as u64;
    }
}

/// Writes the articles of a run. Files carry a temporary name until they are full.
pub(super) struct Writer {
    directory: PathBuf,
    extension: &'static str,
    file_bytes: u64,
    current: Option<(BufWriter<File>, String, u64)>,
    /// What the manifest will hold.
    pub manifest: Manifest,
}

const MANIFEST: &str = "manifest.json";

impl Writer {
    /// Prepares the directory: made if missing, the rest of an unfinished run removed.
    ///
    /// # Errors
    /// A complete extraction is there and `force` is not set; the file system refuses.
    pub(super) fn create(settings: &Settings) -> Result<Self> {
        let directory = settings.out.clone();
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let manifest = directory.join(MANIFEST);
        if manifest.exists() {
            if !settings.force && is_complete(&manifest) {
                bail!(
                    "{} already holds a complete extraction; choose another --out, or replace it with --force",
                    directory.display()
                );
            }
            fs::remove_file(&manifest).with_context(|| format!("cannot remove {}", manifest.display()))?;
        }
        remove_articles(&directory)?;
        let name = |path: &PathBuf| match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => path.display().to_string(),
        };
        Ok(Self {
            directory,
            extension: match settings.format {
                Format::Jsonl => "jsonl",
                Format::Text => "txt",
            },
            file_bytes: settings.file_bytes,
            current: None,
            manifest: Manifest {
                articles: 0,
                skipped: Skipped::default(),
                characters: 0,
                complete: false,
                format: settings.format,
                files: Vec::new(),
                sources: settings.dumps.iter().map(name).collect(),
                problems: Vec::new(),
            },
        })
    }

    /// Writes the articles of a batch and counts what it skipped.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<()> {
        let mut start = 0;
        for &end in &batch.ends {
            let length = (end - start) as u64;
            let full = self
                .current
                .as_ref()
                .is_some_and(|(_, _, written)| written.saturating_add(length) > self.file_bytes);
            if full {
                self.close_file()?;
            }
            self.append(&batch.bytes[start..end])?;
            start = end;
        }
        self.manifest.articles += batch.ends.len() as u64;
        self.manifest.characters += batch.characters;
        self.manifest.skipped.add(&batch.skipped);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.current.is_none() {
            let number = self.manifest.files.len();
            let name = format!("articles-{number:05}.{}", self.extension);
            let path = self.directory.join(format!("{name}.tmp"));
            let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            self.current = Some((BufWriter::with_capacity(1 << 20, file), name, 0));
        }
        if let Some((file, name, written)) = &mut self.current {
            file.write_all(bytes)
                .with_context(|| format!("cannot write {}", self.directory.join(name).display()))?;
            *written += bytes.len() as u64;
        }
        Ok(())
    }

    fn close_file(&mut self) -> Result<()> {
        let Some((file, name, _)) = self.current.take() else {
            return Ok(());
        };
        let path = self.directory.join(&name);
        let temporary = self.directory.join(format!("{name}.tmp"));
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.manifest.files.push(name);
        Ok(())
    }

    /// Closes the last file and writes the manifest.
    pub(super) fn finish(mut self, problems: &[String]) -> Result<Manifest> {
        self.close_file()?;
        self.manifest.complete = problems.is_empty();
        self.manifest.problems = problems.to_vec();
        let path = self.directory.join(MANIFEST);
        let temporary = self.directory.join("manifest.json.tmp");
        let mut text = serde_json::to_string_pretty(&self.manifest)?;
        text.push('\n');
        File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(self.manifest)
    }
}

fn is_complete(manifest: &Path) -> bool {
    fs::read(manifest)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .is_some_and(|value| value["complete"] == serde_json::Value::Bool(true))
}

/// Removes the article files of an earlier run, so that none of them passes for one of ours.
fn remove_articles(directory: &Path) -> Result<()> {
    let context = || format!("cannot look through {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.strip_prefix("articles-").is_some_and(|rest| {
            let rest = rest.strip_suffix(".tmp").unwrap_or(rest);
            [".jsonl", ".txt"].iter().any(|end| {
                rest.strip_suffix(end).is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
            })
        });
        if ours {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
