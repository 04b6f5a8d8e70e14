//! Where a model came from: `import.json` of what `import` wrote, and of a run that began with it or with another run.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::files::write_atomically;

use super::checkpoint::IMPORT;

/// The file of a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance(Map<String, Value>);

/// The step at which the schedule of a run began, which what `import` writes lacks.
const INIT_STEP: &str = "init_step";

impl Provenance {
    /// Of an imported model or a run; nothing of a run that began with nothing.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(IMPORT);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = serde_json::from_slice(&text);
        read.map(|fields| Some(Provenance(fields)))
            .with_context(|| format!("{}: does not say where a model came from", path.display()))
    }

    /// Writes into the directory of a run that it begins, at this step, with the model of `from`, whose own provenance is
    /// `known`.
    pub fn pass_on(known: Option<&Self>, from: &Path, run: &Path, step: u64) -> Result<()> {
        let mut fields = match known {
            Some(imported) if imported.init_step().is_none() => imported.0.clone(),
            _ => Map::from_iter([
                (
                    "source".to_owned(),
                    json!(file_name(&from.canonicalize().unwrap_or_else(|_| from.to_owned()))),
                ),
                ("format".to_owned(), json!("run")),
                ("base_model".to_owned(), json!(known.and_then(Self::base_model))),
            ]),
        };
        fields.insert(INIT_STEP.to_owned(), step.into());
        let mut json = serde_json::to_vec_pretty(&fields)?;
        json.push(b'\n');
        write_atomically(&run.join(IMPORT), &json)
    }

    /// What the run or the imported model was made from.
    pub fn source(&self) -> &str {
        self.text("source")
    }

    /// `hugging-face`, `tensorflow` or `run`.
    pub fn format(&self) -> &str {
        self.text("format")
    }

    pub fn generator_source(&self) -> Option<&str> {
        self.0.get("generator_source").and_then(Value::as_str)
    }

    /// The model of others that all this began with, if there is one.
    pub fn base_model(&self) -> Option<&str> {
        self.0.get("base_model").and_then(Value::as_str)
    }

    /// The step at which a run began; nothing of an imported model itself.
    pub fn init_step(&self) -> Option<u64> {
        self.0.get(INIT_STEP).and_then(Value::as_u64)
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The name of a file or folder, without its place.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
