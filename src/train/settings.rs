//! The configuration's keys: one table of names, kinds and what is allowed, and values for them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number within these bounds.
    Whole(u64, u64),
    /// A number for which this holds.
    Number(fn(f64) -> bool),
    Word(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// Completes "must be …".
    pub allowed: &'static str,
}

const fn whole(name: &'static str, low: u64, high: u64, allowed: &'static str) -> Key {
    Key { name, kind: Kind::Whole(low, high), allowed }
}

const fn number(name: &'static str, holds: fn(f64) -> bool, allowed: &'static str) -> Key {
    Key { name, kind: Kind::Number(holds), allowed }
}

const fn size(name: &'static str) -> Key {
    whole(name, 1, 1 << 24, "a whole number, 1 or more")
}

const POSITIVE: &str = "a number above 0";
const NOT_NEGATIVE: &str = "a number, 0 or more";
const BELOW_ONE: &str = "a number from 0 to below 1";
const COUNT: &str = "a whole number, 1 or more";
const COUNT_OR_NONE: &str = "a whole number, 0 or more";
const MANY: u64 = 1 << 40;

/// Every key there is, in the order of `config.toml`.
pub const KEYS: &[Key] = &[
    whole("steps", 1, MANY, COUNT),
    whole("batch_size", 1, 1 << 20, "a whole number of sequences, 1 to 1048576"),
    whole("micro_batch", 1, 1 << 20, "a whole number of sequences, 1 or more"),
    whole("max_length", 5, 65535, "a whole number of tokens, 5 to 65535"),
    number("learning_rate", |x| x > 0.0, POSITIVE),
    whole("warmup_steps", 0, MANY, COUNT_OR_NONE),
    number("lr_decay_power", |x| x >= 0.0, NOT_NEGATIVE),
    number("weight_decay", |x| x >= 0.0, NOT_NEGATIVE),
    number("clip_norm", |x| x > 0.0, POSITIVE),
    number("adam_beta1", |x| (0.0..1.0).contains(&x), BELOW_ONE),
    number("adam_beta2", |x| (0.0..1.0).contains(&x), BELOW_ONE),
    number("adam_epsilon", |x| x > 0.0, POSITIVE),
    number("mask_probability", |x| x > 0.0 && x < 1.0, "a number between 0 and 1"),
    number("generator_weight", |x| x >= 0.0, NOT_NEGATIVE),
    number("discriminator_weight", |x| x >= 0.0, NOT_NEGATIVE),
    number("temperature", |x| x > 0.0, POSITIVE),
    number("dropout", |x| (0.0..1.0).contains(&x), BELOW_ONE),
    number("attention_dropout", |x| (0.0..1.0).contains(&x), BELOW_ONE),
    // TOML's integers have 63 bits.
    whole("seed", 0, i64::MAX as u64, "a whole number below 2^63"),
    whole("log_every", 1, MANY, COUNT),
    whole("checkpoint_every", 1, MANY, COUNT),
    whole("keep", 0, MANY, "a whole number of checkpoints, 0 to keep all"),
    whole("eval_every", 0, MANY, "a whole number of steps, 0 for only at the end"),
    whole("eval_sequences", 1, 1 << 24, COUNT),
    Key { name: "precision", kind: Kind::Word(&["f32", "f16"]), allowed: "f32 or f16" },
    size("model.vocab_size"),
    size("model.embedding_size"),
    size("model.hidden_size"),
    size("model.layers"),
    size("model.heads"),
    size("model.ffn_size"),
    size("model.max_positions"),
    number("model.generator_fraction", |x| x > 0.0 && x <= 4.0, "a number above 0, at most 4"),
    size("model.generator_hidden_size"),
    size("model.generator_layers"),
    size("model.generator_heads"),
    size("model.generator_ffn_size"),
];

/// Sizes that `model.generator_fraction` decides unless they are given after it.
const FROM_FRACTION: [&str; 3] =
    ["model.generator_hidden_size", "model.generator_heads", "model.generator_ffn_size"];

/// The name in `names` most like `name`.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> &'a str {
    let short = |name: &'a str| name.strip_prefix("model.").unwrap_or(name);
    let mut best = ("", 0.0);
    for known in names {
        let likeness = strsim::normalized_damerau_levenshtein(name, known)
            .max(strsim::normalized_damerau_levenshtein(name, short(known)));
        if likeness > best.1 || best.0.is_empty() {
            best = (known, likeness);
        }
    }
    best.0
}

/// Finds a key; an unknown one is refused with the nearest.
pub fn key(name: &str) -> Result<&'static Key> {
    match KEYS.iter().find(|key| key.name == name) {
        Some(key) => Ok(key),
        None => {
            let nearest = nearest(name, KEYS.iter().map(|key| key.name));
            bail!("unknown key {name}; the nearest known one is {nearest}")
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Whole(u64),
    Number(f64),
    Word(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Whole(n) => write!(f, "{n}"),
            // As short as reads back exactly, and always a float to TOML.
            Value::Number(x) => write!(f, "{x:?}"),
            Value::Word(word) => write!(f, "\"{word}\""),
        }
    }
}

impl Key {
    /// The value that this text means to the key.
    fn parse(&self, text: &str) -> Result<Value> {
        let digits = text.replace('_', "");
        match self.kind {
            Kind::Word(_) => self.check(Value::Word(text.trim_matches('"').to_owned()), text),
            Kind::Whole(..) if digits.parse::<u64>().is_ok() => {
                self.check(Value::Whole(digits.parse()?), text)
            }
            _ => match digits.parse::<f64>() {
                Ok(number) => self.check(Value::Number(number), text),
                Err(_) => self.refuse(text),
            },
        }
    }

    /// Brings a value into the kind of the key; `shown` is what the user wrote.
    fn check(&self, value: Value, shown: &str) -> Result<Value> {
        let value = match (self.kind, value) {
            // 1e6 is as good as 1000000.
            (Kind::Whole(..), Value::Number(x)) if x.fract() == 0.0 && (0.0..9e15).contains(&x) => {
                Value::Whole(x as u64)
            }
            (Kind::Number(_), Value::Whole(n)) => Value::Number(n as f64),
            (_, value) => value,
        };
        let good = match (self.kind, &value) {
            (Kind::Whole(low, high), Value::Whole(n)) => (low..=high).contains(n),
            (Kind::Number(holds), Value::Number(x)) => x.is_finite() && holds(*x),
            (Kind::Word(words), Value::Word(word)) => words.contains(&word.as_str()),
            _ => false,
        };
        if good { Ok(value) } else { self.refuse(shown) }
    }

    fn refuse(&self, shown: &str) -> Result<Value> {
        bail!("{} is {shown}; it must be {}", self.name, self.allowed)
    }
}

/// Values by key; later ones replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
}

impl Settings {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub fn whole(&self, name: &str) -> Result<u64> {
        match self.values.get(name) {
            Some(Value::Whole(n)) => Ok(*n),
            _ => bail!("the configuration lacks {name}"),
        }
    }

    pub fn size(&self, name: &str) -> Result<usize> {
        Ok(self.whole(name)? as usize)
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        match self.values.get(name) {
            Some(Value::Number(x)) => Ok(*x),
            _ => bail!("the configuration lacks {name}"),
        }
    }

    pub fn word(&self, name: &str) -> Result<&str> {
        match self.values.get(name) {
            Some(Value::Word(word)) => Ok(word),
            _ => bail!("the configuration lacks {name}"),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    pub fn set_value(&mut self, name: &str, value: Value) -> Result<()> {
        let key = key(name)?;
        let shown = value.to_string();
        let value = key.check(value, &shown)?;
        if key.name == "model.generator_fraction" {
            FROM_FRACTION.iter().for_each(|size| self.remove(size));
        }
        self.values.insert(key.name, value);
        Ok(())
    }

    /// `key=value`, as `--set` takes it.
    pub fn set_text(&mut self, assignment: &str) -> Result<()> {
        let Some((name, text)) = assignment.split_once('=') else {
            bail!("\"{assignment}\" is not of the form key=value")
        };
        let key = key(name.trim())?;
        self.set_value(key.name, key.parse(text.trim())?)
    }

    /// All keys of a TOML file.
    pub fn set_file(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        self.set_toml(&text).with_context(|| format!("{name}"))
    }

    pub fn set_toml(&mut self, text: &str) -> Result<()> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", error.message())
        })?;
        let mut flat = Vec::new();
        flatten("", &table, &mut flat);
        // What the fraction decides can be given beside it.
        flat.sort_by_key(|(name, _)| name != "model.generator_fraction");
        for (name, value) in flat {
            let key = key(&name)?;
            let value = match value {
                toml::Value::Integer(n) if *n >= 0 => Value::Whole(*n as u64),
                toml::Value::Integer(n) => Value::Number(*n as f64),
                toml::Value::Float(x) => Value::Number(*x),
                toml::Value::String(word) => Value::Word(word.clone()),
                other => {
                    key.refuse(&other.to_string())?;
                    continue;
                }
            };
            self.set_value(&name, value)?;
        }
        Ok(())
    }

    /// As a TOML file that `set_file` reads back to the same.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut in_model = false;
        for key in KEYS {
            let Some(value) = self.values.get(key.name) else { continue };
            let model = key.name.strip_prefix("model.");
            if model.is_some() && !in_model {
                text.push_str("\n[model]\n");
                in_model = true;
            }
            let _ = writeln!(text, "{} = {value}", model.unwrap_or(key.name));
        }
        text
    }

    /// Names of the keys in which two differ.
    pub fn differences(&self, other: &Settings) -> Vec<&'static str> {
        let names = KEYS.iter().map(|key| key.name);
        names.filter(|name| self.values.get(name) != other.values.get(name)).collect()
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
