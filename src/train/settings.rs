//! Values of the configuration's keys, as TOML and `--set` give them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::files::parse_toml;

use super::key::{Key, Resume, Value, required};
use super::keys::{MODEL_PREFIX, PHASE_PREFIX, following, in_phase, key, keys, phase_key, phase_keys};

/// The most phases a run has.
const MOST_PHASES: usize = 64;

type Values = BTreeMap<&'static str, Value>;

/// Values by key; later ones replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    values: Values,
    /// What holds in a phase alone, in their order; none where the run has no phases.
    phases: Vec<Values>,
}

/// What a whole name stands for.
enum Place {
    Run(&'static Key),
    Phase(usize, &'static Key),
}

impl Place {
    fn named(name: &str) -> Result<Self> {
        let Some(rest) = name.strip_prefix(PHASE_PREFIX) else { return key(name).map(Place::Run) };
        let number =
            rest.split_once('.').and_then(|(number, name)| Some((number.parse::<usize>().ok()?, name)));
        match number {
            Some((number, name)) if (1..=MOST_PHASES).contains(&number) => {
                Ok(Place::Phase(number - 1, phase_key(number - 1, name)?))
            }
            _ => {
                bail!("{name}: phases are numbered, 1 to {MOST_PHASES}, as in {}", in_phase(0, "max_length"))
            }
        }
    }

    fn key(&self) -> &'static Key {
        match self {
            Place::Run(key) | Place::Phase(_, key) => key,
        }
    }

    /// The value that the key makes of what was given; a refusal says which phase's it is.
    fn read(&self, read: impl FnOnce(&Key) -> Result<Value>) -> Result<Value> {
        match self {
            Place::Run(key) => read(key),
            Place::Phase(phase, key) => read(key).with_context(|| format!("phase {}", phase + 1)),
        }
    }
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

    /// How many phases there are.
    pub fn phases(&self) -> usize {
        self.phases.len()
    }

    /// What a phase has of its own.
    pub fn get_in(&self, phase: usize, name: &str) -> Option<&Value> {
        self.phases.get(phase)?.get(name)
    }

    /// Sets a value of a phase's own; phases up to it are there then.
    pub fn set_in(&mut self, phase: usize, name: &str, value: Value) -> Result<()> {
        let place = Place::Phase(phase, phase_key(phase, name)?);
        let shown = value.to_string();
        let value = place.read(|key| key.check(value, &shown))?;
        if self.phases.len() <= phase {
            self.phases.resize_with(phase + 1, Values::default);
        }
        self.phases[phase].insert(place.key().name, value);
        Ok(())
    }

    /// Takes the shares of phases from settings that have as many.
    pub fn share_as(&mut self, other: &Settings) -> Result<()> {
        if let Some(of) = other.get("share_of") {
            self.set_value("share_of", of.clone())?;
        }
        for phase in 0..other.phases() {
            match other.get_in(phase, "share") {
                Some(share) => self.set_in(phase, "share", share.clone())?,
                None => drop(self.phases.get_mut(phase).and_then(|own| own.remove("share"))),
            }
        }
        Ok(())
    }

    /// What holds in a phase: its own values, and the run's where it has none.
    pub fn of_phase(&self, phase: usize) -> Settings {
        let mut values = self.values.clone();
        for (&name, value) in self.phases.get(phase).into_iter().flatten() {
            if key(name).is_ok() {
                following(name).for_each(|other| drop(values.remove(other.name)));
                values.insert(name, value.clone());
            }
        }
        Settings { values, phases: Vec::new() }
    }

    /// `key=value` each, as `--set` takes them.
    pub fn set_texts<'a>(&mut self, assignments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut values = Vec::new();
        for assignment in assignments {
            let Some((name, text)) = assignment.split_once('=') else {
                bail!("\"{assignment}\" is not of the form key=value")
            };
            let place = Place::named(name.trim())?;
            let value = place.read(|key| key.parse(text.trim()))?;
            values.push((place, value));
        }
        self.set_values(values)
    }

    /// Sets keys before those that follow from them: these can be given beside them, in any order.
    fn set_values(&mut self, mut values: Vec<(Place, Value)>) -> Result<()> {
        values.sort_by_key(|(place, _)| following(place.key().name).next().is_none());
        for (place, value) in values {
            match place {
                Place::Run(key) => self.set_value(key.name, value)?,
                Place::Phase(phase, key) => self.set_in(phase, key.name, value)?,
            }
        }
        Ok(())
    }

    /// All keys of a TOML file.
    pub fn set_file(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        self.set_toml(&text).with_context(|| format!("{name}"))
    }

    /// Phases that the text has take the place of all there were.
    pub fn set_toml(&mut self, text: &str) -> Result<()> {
        let mut table: toml::Table = parse_toml(text)?;
        let phases = table.remove("phase").map(phase_tables).transpose()?;
        let mut flat = Vec::new();
        flatten("", &table, &mut flat);
        for (phase, table) in phases.iter().flatten().enumerate() {
            flatten(&in_phase(phase, ""), table, &mut flat);
        }
        let mut values = Vec::new();
        for (name, value) in flat {
            let place = Place::named(&name)?;
            let value = match value {
                toml::Value::Integer(n) if *n >= 0 => Value::Whole(*n as u64),
                toml::Value::Integer(n) => Value::Number(*n as f64),
                toml::Value::Float(x) => Value::Number(*x),
                toml::Value::String(word) => Value::Word(word.clone()),
                other => place.read(|key| key.refuse(&other.to_string()))?,
            };
            values.push((place, value));
        }
        if let Some(phases) = &phases {
            self.phases = vec![Values::default(); phases.len()];
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
        for phase in &self.phases {
            text.push_str("\n[[phase]]\n");
            for key in phase_keys() {
                if let Some(value) = phase.get(key.name) {
                    let _ = writeln!(text, "{} = {value}", key.name);
                }
            }
        }
        text
    }

    /// Where these are not what a run that began with `saved` computes.
    pub fn changes(&self, saved: &Settings) -> Vec<Change> {
        let shown = |value: Option<&Value>| value.map_or("absent".into(), |value| value.to_string());
        let of_run = keys().map(|key| (key, key.name.to_owned(), self.get(key.name), saved.get(key.name)));
        let of_phases = (0..self.phases().max(saved.phases())).flat_map(|phase| {
            let get = move |of: &'static str| (self.get_in(phase, of), saved.get_in(phase, of));
            phase_keys().map(move |key| {
                let (asked, saved) = get(key.name);
                (key, in_phase(phase, key.name), asked, saved)
            })
        });
        of_run
            .chain(of_phases)
            .filter(|(key, _, asked, saved)| key.resume != Resume::Free && asked != saved)
            .map(|(key, name, asked, saved)| Change { key, name, to: shown(asked), from: shown(saved) })
            .collect()
    }

    /// The whole names and values of all that is set.
    pub fn all(&self) -> impl Iterator<Item = (String, &Value)> {
        let of_run = keys().filter_map(|key| Some((key.name.to_owned(), self.get(key.name)?)));
        let of_phases = (0..self.phases()).flat_map(move |phase| {
            let get =
                move |key: &'static Key| Some((in_phase(phase, key.name), self.get_in(phase, key.name)?));
            phase_keys().filter_map(get)
        });
        of_run.chain(of_phases)
    }
}

/// What the file has under `phase`.
fn phase_tables(value: toml::Value) -> Result<Vec<toml::Table>> {
    let tables = match value {
        toml::Value::Array(values) => {
            let table = |value| if let toml::Value::Table(table) = value { Some(table) } else { None };
            values.into_iter().map(table).collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    match tables {
        Some(tables) if tables.len() <= MOST_PHASES => Ok(tables),
        Some(tables) => bail!("{} phases are too many; {MOST_PHASES} are the most", tables.len()),
        None => bail!("phases are written as tables, each under a line [[phase]]"),
    }
}

/// A key that has another value than in the run that goes on.
pub struct Change {
    pub key: &'static Key,
    /// The whole name: of a phase's key too.
    pub name: String,
    pub from: String,
    pub to: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, in the run {}", self.name, self.to, self.from)
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
