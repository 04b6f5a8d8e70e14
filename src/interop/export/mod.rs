//! Directories as Hugging Face's transformers load them: `config.json`, `model.safetensors`, the tokenizer in both
//! forms, and a model card. What they hold comes from the caller: a run's two networks are in `run`, fine-tuned models
//! in `finetune::export`.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::files::{sync_directory, with_suffix, write_atomically};
use crate::tokenizer::Tokenizer;

use super::checkpoint::TOKENIZER;
use super::huggingface::{CONFIG, TOKENIZER_CONFIG, WEIGHTS};
use super::tensors::Tensors;
use super::weights::WeightFile;

pub mod card;
pub mod run;
pub mod tokenizer;

use tokenizer::{HuggingFaceTokenizer, TOKENIZER_JSON};

/// The model card.
pub const CARD: &str = "README.md";

/// The type of the numbers in an exported file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    #[default]
    F32,
    F16,
    Bf16,
}

impl Numbers {
    pub const NAMES: [&str; 3] = ["f32", "f16", "bf16"];

    /// As `config.json` calls it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Numbers::F32 => "float32",
            Numbers::F16 => "float16",
            Numbers::Bf16 => "bfloat16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Numbers::F32 => Dtype::F32,
            Numbers::F16 => Dtype::F16,
            Numbers::Bf16 => Dtype::BF16,
        }
    }

    /// Bytes of the numbers, each rounded to the nearest, ties to even.
    ///
    /// Errors: a number that is too large for the type.
    fn bytes(self, values: &[f32]) -> Result<Vec<u8>> {
        let fits = |value: f32, rounded: f32| {
            ensure!(
                rounded.is_finite() || !value.is_finite(),
                "{value} is too large for {}; bf16 holds as large numbers as f32",
                self.torch_name()
            );
            Ok(())
        };
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for &value in values {
            match self {
                Numbers::F32 => bytes.extend(value.to_le_bytes()),
                Numbers::F16 => {
                    let rounded = half::f16::from_f32(value);
                    fits(value, rounded.to_f32())?;
                    bytes.extend(rounded.to_le_bytes());
                }
                Numbers::Bf16 => {
                    let rounded = half::bf16::from_f32(value);
                    fits(value, rounded.to_f32())?;
                    bytes.extend(rounded.to_le_bytes());
                }
            }
        }
        Ok(bytes)
    }
}

impl FromStr for Numbers {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Numbers::F32),
            "f16" => Ok(Numbers::F16),
            "bf16" => Ok(Numbers::Bf16),
            other => bail!("{other} is none of {}", Numbers::NAMES.join(", ")),
        }
    }
}

/// How an export is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub numbers: Numbers,
    pub naming: card::Naming,
}

/// What goes into a directory.
pub struct Contents<'a> {
    pub config: Value,
    pub weights: &'a WeightFile,
    /// The name that a tensor of the file gets; nothing where it is left out.
    pub rename: &'a dyn Fn(&str) -> Option<String>,
    /// Nothing where texts came as ready-made ids.
    pub tokenizer: Option<&'a Tokenizer>,
    pub max_length: usize,
    pub card: card::Card,
}

impl Contents<'_> {
    /// Fills a directory that exists.
    pub fn write(mut self, directory: &Path, options: &Options) -> Result<()> {
        self.config["dtype"] = options.numbers.torch_name().into();
        write_json(&directory.join(CONFIG), &self.config)?;
        if let Some(tokenizer) = self.tokenizer {
            write_tokenizer(directory, tokenizer, self.max_length)?;
        }
        write_atomically(&directory.join(CARD), self.card.to_string().as_bytes())?;
        self.write_weights(&directory.join(WEIGHTS), options.numbers)
    }

    fn write_weights(&self, path: &Path, numbers: Numbers) -> Result<()> {
        let source = WeightFile::path(self.weights).display();
        let mut converted = Vec::new();
        for name in self.weights.names()? {
            let Some(new) = (self.rename)(&name) else { continue };
            let bytes = numbers.bytes(&self.weights.read(&name)?);
            let bytes = bytes.with_context(|| format!("{source}: tensor {name}"))?;
            converted.push((new, self.weights.shape(&name).unwrap_or_default(), bytes));
        }
        ensure!(!converted.is_empty(), "{source}: holds none of the network's tensors");
        let views = converted.iter().map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(numbers.dtype(), shape.clone(), bytes)?))
        });
        super::weights::write_views(path, views.collect::<Result<_>>()?, Some("pt"))?;
        Ok(())
    }
}

/// Writes the SentencePiece model and what Hugging Face needs instead of it.
///
/// Errors: a model that their library cannot compute, by name.
pub fn write_tokenizer(directory: &Path, tokenizer: &Tokenizer, max_length: usize) -> Result<()> {
    let theirs = HuggingFaceTokenizer::new(tokenizer)?;
    write_atomically(&directory.join(TOKENIZER), tokenizer.model())?;
    write_json(&directory.join(TOKENIZER_CONFIG), &theirs.config(max_length))?;
    write_json(&directory.join(TOKENIZER_JSON), &theirs.json()?)
}

pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// A directory that appears under its name when it is whole. It must be empty or new.
pub struct NewDirectory {
    path: PathBuf,
    temporary: PathBuf,
}

impl NewDirectory {
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display();
        let listed = match fs::read_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot use {shown} as a directory")),
            Ok(mut entries) => entries.next(),
        };
        ensure!(listed.is_none(), "{shown} is not empty; name another directory, or remove it");
        let temporary = with_suffix(path, ".partial");
        if temporary.exists() {
            // Left by an export that was stopped.
            fs::remove_dir_all(&temporary)
                .with_context(|| format!("cannot remove {}", temporary.display()))?;
        }
        fs::create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
        Ok(NewDirectory { path: path.to_owned(), temporary })
    }

    /// Where its contents are written.
    pub fn inside(&self) -> &Path {
        &self.temporary
    }

    /// A folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.temporary.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// Gives it its name.
    pub fn finish(self) -> Result<()> {
        let shown = self.path.display();
        if self.path.exists() {
            fs::remove_dir(&self.path).with_context(|| format!("cannot replace {shown}"))?;
        }
        fs::rename(&self.temporary, &self.path).with_context(|| format!("cannot write {shown}"))?;
        sync_directory(self.path.parent());
        Ok(())
    }
}

impl Drop for NewDirectory {
    /// Nothing stays of an export that failed.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

#[cfg(test)]
mod tests;
