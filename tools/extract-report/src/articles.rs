//! Articles as JSON lines: ours and those of the other extractor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    title: String,
    text: String,
}

/// Texts by title, in the order of the files.
#[derive(Default)]
pub struct Articles {
    pub titles: Vec<String>,
    texts: HashMap<String, String>,
}

impl Articles {
    pub fn text(&self, title: &str) -> Option<&str> {
        self.texts.get(title).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.titles.iter().filter_map(|title| Some((title.as_str(), self.text(title)?)))
    }

    fn read(&mut self, input: impl Read) -> Result<()> {
        for (number, line) in BufReader::new(input).lines().enumerate() {
            let row: Row =
                serde_json::from_str(&line?).with_context(|| format!("line {} is no article", number + 1))?;
            if self.texts.insert(row.title.clone(), row.text).is_none() {
                self.titles.push(row.title);
            }
        }
        Ok(())
    }
}

/// Every `.jsonl` of a directory, by name.
pub fn read_directory(directory: &Path) -> Result<Articles> {
    let name = directory.display();
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot look through {name}"))?;
    let mut files: Vec<_> = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    ensure!(!files.is_empty(), "{name} holds no .jsonl file; run `inazuma extract DUMP --out {name}` first");
    let mut articles = Articles::default();
    for path in &files {
        let context = || format!("cannot read {}", path.display());
        articles.read(File::open(path).with_context(context)?).with_context(context)?;
    }
    Ok(articles)
}

/// One file, plain or `.xz`.
pub fn read_file(path: &Path) -> Result<Articles> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut articles = Articles::default();
    match path.extension().is_some_and(|e| e == "xz") {
        true => articles.read(liblzma::read::XzDecoder::new(file)),
        false => articles.read(file),
    }
    .with_context(context)?;
    Ok(articles)
}
