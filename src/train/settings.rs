//! Values of the configuration's keys, as TOML and `--set` give them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::files::parse_toml;

use super::key::{Key, Resume, Value, required};
use super::keys::{MODEL_PREFIX, following, key, keys};

/// Values by key; later ones replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
}

impl Settings {
    /// What every key has that nothing sets.
    pub fn defaults() -> Result<Self> {
        let mut settings = Settings::default();
        for key in keys() {
            if let Some(value) = key.default()? {
                settings.set_value(key.name, value)?;
            }
        }
        Ok(settings)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub fn whole(&self, name: &str) -> Result<u64> {
        required(name, self.get(name))
    }

    pub fn size(&self, name: &str) -> Result<usize> {
        required(name, self.get(name))
    }

    /// The size that a key has unless it is `auto`.
    pub fn found(&self, name: &str) -> Option<usize> {
        self.size(name).ok()
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        required(name, self.get(name))
    }

    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    pub fn set_value(&mut self, name: &str, value: Value) -> Result<()> {
        let key = key(name)?;
        let shown = value.to_string();
        let value = key.check(value, &shown)?;
        following(key.name).for_each(|other| self.remove(other.name));
        self.values.insert(key.name, value);
        Ok(())
    }

    /// `key=value` each, as `--set` takes them.
    pub fn set_texts<'a>(&mut self, assignments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut values = Vec::new();
        for assignment in assignments {
            let Some((name, text)) = assignment.split_once('=') else {
                bail!("\"{assignment}\" is not of the form key=value")
            };
            let key = key(name.trim())?;
            values.push((key.name, key.parse(text.trim())?));
        }
        self.set_values(values)
    }

    /// Sets keys before those that follow from them: these can be given beside them, in any order.
    fn set_values(&mut self, mut values: Vec<(&'static str, Value)>) -> Result<()> {
        values.sort_by_key(|(name, _)| following(name).next().is_none());
        for (name, value) in values {
            self.set_value(name, value)?;
        }
        Ok(())
    }

    /// All keys of a TOML file.
    pub fn set_file(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        self.set_toml(&text).with_context(|| format!("{name}"))
    }

    pub fn set_toml(&mut self, text: &str) -> Result<()> {
        let table: toml::Table = parse_toml(text)?;
        let mut flat = Vec::new();
        flatten("", &table, &mut flat);
        let mut values = Vec::new();
        for (name, value) in flat {
            let key = key(&name)?;
            let value = match value {
                toml::Value::Integer(n) if *n >= 0 => Value::Whole(*n as u64),
                toml::Value::Integer(n) => Value::Number(*n as f64),
                toml::Value::Float(x) => Value::Number(*x),
                toml::Value::String(word) => Value::Word(word.clone()),
                other => return key.refuse(&other.to_string()),
            };
            values.push((key.name, value));
        }
        self.set_values(values)
    }

    /// As a TOML file that `set_file` reads back to the same.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut in_model = false;
        for key in keys() {
            let Some(value) = self.values.get(key.name) else { continue };
            let model = key.name.strip_prefix(MODEL_PREFIX);
            if model.is_some() && !in_model {
                text.push_str("\n[model]\n");
                in_model = true;
            }
            let _ = writeln!(text, "{} = {value}", model.unwrap_or(key.name));
        }
        text
    }

    /// Where these are not what a run that began with `saved` computes.
    pub fn changes(&self, saved: &Settings) -> Vec<Change> {
        let shown = |value: Option<&Value>| value.map_or("absent".into(), |value| value.to_string());
        keys()
            .filter(|key| key.resume != Resume::Free)
            .map(|key| (key, self.get(key.name), saved.get(key.name)))
            .filter(|(_, asked, saved)| asked != saved)
            .map(|(key, asked, saved)| Change { key, to: shown(asked), from: shown(saved) })
            .collect()
    }
}

/// A key that has another value than in the run that goes on.
pub struct Change {
    pub key: &'static Key,
    pub from: String,
    pub to: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, in the run {}", self.key.name, self.to, self.from)
    }
}

fn flatten<'a>(prefix: &str, table: &'a toml::Table, flat: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{name}."), inner, flat),
            value => flat.push((format!("{prefix}{name}"), value)),
        }
    }
}
