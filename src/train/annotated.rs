//! A configuration for people: every key with its value, its meaning, and how it differs from the preset. Still TOML, which
//! `--config` takes back.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::device::Room;
use crate::interop::checkpoint::CONFIG;
use crate::interop::export::run::locate;

use super::config::{Sources, Surroundings, TrainConfig};
use super::describe::default;
use super::following::{FOLLOWING, Rule};
use super::key::{AUTO, Key, Kind, Value};
use super::keys::{GENERATOR_FRACTION, MODEL_PREFIX, in_phase, keys, phase_keys};
use super::presets::{DEFAULT_PRESET, preset, preset_names};
use super::settings::Settings;

/// Pieces of a vocabulary that nobody has named: only sizes that follow from it depend on it.
const SOME_VOCABULARY: u64 = 32_000;

/// A key and what it is in a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The whole name, as `--set` takes it.
    pub name: String,
    /// Nothing where it follows from others when a run begins.
    pub value: Option<serde_json::Value>,
    pub help: &'static str,
    pub kind: String,
    pub default: String,
    /// Of the preset; nothing where it says none.
    pub preset: Option<serde_json::Value>,
    /// Whether the preset has another value, other than one that is found or derived when a run begins.
    pub changed: bool,
    /// As TOML writes the value, and the preset's.
    #[serde(skip)]
    written: [Option<String>; 2],
    /// Of a key that has the preset's value: what would follow from the others in its place, if it were not given. As TOML.
    #[serde(skip)]
    follows: Option<String>,
    /// From 0.
    #[serde(skip)]
    phase: Option<usize>,
    #[serde(skip)]
    key: &'static Key,
}

/// A configuration beside the preset that it is compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Annotated {
    /// Named by the user, or by the file; of a run, which does not keep the name, that with the fewest differences. Of a
    /// file that names none nothing: there is no comparison.
    pub preset: Option<String>,
    pub keys: Vec<Entry>,
    #[serde(skip)]
    title: String,
}

impl Annotated {
    /// The configuration of a run or a checkpoint, or where there is none, that of `sources`; `--set` changes either.
    ///
    /// # Errors
    /// No run there; a key or value that is none.
    pub fn of(run: Option<&Path>, sources: &Sources) -> Result<(Self, Vec<String>)> {
        let (settings, notes, title) = match run {
            Some(run) => {
                // Of a run the configuration is enough: its checkpoints may be elsewhere.
                let path = match run.join(CONFIG) {
                    path if path.is_file() => path,
                    _ => match locate(run)? {
                        Some((of, _)) => of.join(CONFIG),
                        None => bail!("{}: neither a run (no `{CONFIG}`) nor a checkpoint", run.display()),
                    },
                };
                let mut settings = TrainConfig::load(&path)?;
                sources.assign(&mut settings)?;
                (settings, Vec::new(), path.display().to_string())
            }
            None => {
                let (settings, notes) = sources.settings_for(&[])?;
                let title = match &sources.file {
                    Some(path) => path.display().to_string(),
                    None => format!("the preset {}", sources.preset.as_deref().unwrap_or(DEFAULT_PRESET)),
                };
                (settings, notes, title)
            }
        };
        let of_file = sources.file.as_deref().filter(|_| sources.preset.is_none());
        let named = match of_file {
            Some(path) => named_in(path)?,
            None => sources.preset.as_deref().or(run.is_none().then_some(DEFAULT_PRESET)),
        };
        let (name, keys) = match named {
            Some(name) => (Some(name), compared(&settings, Some(name))?),
            None if of_file.is_some() => (None, compared(&settings, None)?),
            None => nearest(&settings).map(|(name, keys)| (Some(name), keys))?,
        };
        Ok((Annotated { preset: name.map(str::to_owned), keys, title }, notes))
    }

    /// Leaves what differs from the preset, and what has the preset's value but would follow as another one if it were not
    /// given.
    ///
    /// # Errors
    /// There is no preset to differ from.
    pub fn only_changed(&mut self) -> Result<()> {
        ensure!(
            self.preset.is_some(),
            "{}: which preset it was made from does not stand there; name one with --preset",
            self.title
        );
        self.keys.retain(|entry| entry.changed || entry.follows.is_some());
        Ok(())
    }

    /// As a file for `--config`.
    pub fn to_toml(&self) -> String {
        let mut text = match &self.preset {
            Some(preset) => format!("# {}{DIFFERS}{preset} is marked \"preset:\".\n", self.title),
            None => format!("# {}\n", self.title),
        };
        let mut section = None;
        for entry in &self.keys {
            let name = match entry.phase {
                Some(_) => entry.key.name,
                None => entry.name.strip_prefix(MODEL_PREFIX).unwrap_or(&entry.name),
            };
            let of = (entry.phase, entry.name.starts_with(MODEL_PREFIX));
            if section != Some(of) && of != (None, false) {
                text.push_str(if entry.phase.is_some() { "\n[[phase]]\n" } else { "\n[model]\n" });
            }
            section = Some(of);
            let _ = writeln!(text, "\n# {}", entry.help);
            let _ = writeln!(text, "# {}; default: {}", entry.kind, entry.default);
            if entry.changed {
                let _ = writeln!(text, "# preset: {}", entry.written[1].as_deref().unwrap_or("not set"));
            }
            if let Some(follows) = &entry.follows {
                let _ = writeln!(
                    text,
                    "# as in the preset: without this line {follows} would follow from other keys"
                );
            }
            let _ = match &entry.written[0] {
                Some(value) => writeln!(text, "{name} = {value}"),
                None => writeln!(text, "# {name} = (found when a run begins)"),
            };
        }
        text
    }
}

/// Stands before the preset's name in the first line of what is printed.
const DIFFERS: &str = "; what differs from the preset ";

/// The preset that a configuration was compared with when it was printed.
fn named_in(path: &Path) -> Result<Option<&'static str>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let first = text.lines().next().filter(|line| line.starts_with('#')).unwrap_or_default();
    let name = first.rsplit_once(DIFFERS).and_then(|(_, rest)| rest.split(' ').next());
    Ok(preset_names().find(|preset| Some(*preset) == name))
}

/// The preset with the fewest differences, and these.
fn nearest(settings: &Settings) -> Result<(&'static str, Vec<Entry>)> {
    let mut best: Option<(usize, &'static str, Vec<Entry>)> = None;
    for name in preset_names() {
        let entries = compared(settings, Some(name))?;
        let differences = entries.iter().filter(|entry| entry.changed).count();
        if best.as_ref().is_none_or(|(least, ..)| differences < *least) {
            best = Some((differences, name, entries));
        }
    }
    match best {
        Some((_, name, entries)) => Ok((name, entries)),
        None => bail!("there are no presets; please report this"),
    }
}

/// All keys of the configuration, beside those of a preset where there is one.
fn compared(settings: &Settings, name: Option<&str>) -> Result<Vec<Entry>> {
    // Of a resolved configuration what follows from other keys is compared with what would follow in the preset.
    let resolved = settings.get(GENERATOR_FRACTION).is_none();
    let base = match name.map(preset).transpose()? {
        Some(plain) if resolved => derived(&plain, settings)?,
        Some(plain) => plain,
        None => settings.clone(),
    };
    let mut entries = Vec::new();
    for key in keys() {
        let (value, of_preset) = (settings.get(key.name), base.get(key.name));
        // The fraction decides sizes, and does not stay where they are decided.
        if !(key.name == GENERATOR_FRACTION && resolved) {
            entries.push(entry(key, None, value, of_preset));
        }
    }
    for phase in 0..settings.phases() {
        for key in phase_keys() {
            let value = settings.get_in(phase, key.name);
            if value.is_some() || base.get_in(phase, key.name).is_some() {
                entries.push(entry(key, Some(phase), value, base.get_in(phase, key.name)));
            }
        }
    }
    match name {
        Some(name) => find_following(settings, &preset(name)?, &mut entries)?,
        None => entries.iter_mut().for_each(|entry| entry.preset = None),
    }
    Ok(entries)
}

/// Finds keys that have the preset's value, and would have another by the rules of `train::following` were they not given.
fn find_following(settings: &Settings, plain: &Settings, entries: &mut [Entry]) -> Result<()> {
    let follows = |entry: &&mut Entry| entry.phase.is_none() && FOLLOWING.contains(&entry.name.as_str());
    let mut given = Settings::default();
    for entry in entries.iter_mut().filter(follows).filter(|entry| entry.changed) {
        settings.get(&entry.name).map_or(Ok(()), |value| given.set_value(&entry.name, value.clone()))?;
    }
    let mut followed = settings.clone();
    Rule::of(plain, &given)?.apply(&mut followed)?;
    for entry in entries.iter_mut().filter(follows).filter(|entry| !entry.changed) {
        let other = followed.get(&entry.name).filter(|other| Some(*other) != settings.get(&entry.name));
        entry.follows = other.map(Value::to_string);
    }
    Ok(())
}

/// The preset as a run with this vocabulary would resolve it, but for what the device decides.
fn derived(plain: &Settings, like: &Settings) -> Result<Settings> {
    let vocab_size = like.whole("model.vocab_size").unwrap_or(SOME_VOCABULARY) as usize;
    let mut settings = plain.clone();
    for name in ["micro_batch", "vocabulary_chunk"] {
        settings.set_value(name, Value::Whole(1))?;
    }
    let surroundings = Surroundings { vocab_size, room: &Room::unlimited() };
    let mut resolved = TrainConfig::resolve(settings, surroundings)?.settings().clone();
    for name in ["micro_batch", "vocabulary_chunk"] {
        let auto = Value::Word(AUTO.to_owned());
        (0..resolved.phases()).try_for_each(|phase| resolved.set_in(phase, name, auto.clone()))?;
        resolved.set_value(name, auto)?;
    }
    Ok(resolved)
}

fn entry(key: &'static Key, phase: Option<usize>, value: Option<&Value>, preset: Option<&Value>) -> Entry {
    // Sizes that the device decides are no difference, nor is what the preset leaves to follow.
    let found = matches!(key.kind, Kind::Auto(..)) && !matches!(preset, Some(Value::Whole(_)));
    let asked = !matches!(value, Some(Value::Word(word)) if word == AUTO);
    let vocabulary = key.name == "model.vocab_size";
    Entry {
        name: phase.map_or_else(|| key.name.to_owned(), |phase| in_phase(phase, key.name)),
        value: value.map(Into::into),
        help: key.help,
        kind: key.kind.to_string(),
        default: default(key),
        preset: preset.map(Into::into),
        changed: value != preset && value.is_some() && !(found && asked) && !vocabulary,
        written: [value, preset].map(|value| value.map(Value::to_string)),
        follows: None,
        phase,
        key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(preset: Option<&str>, set: &[&str]) -> Sources {
        let set = set.iter().map(|text| text.to_string()).collect();
        Sources { preset: preset.map(str::to_owned), set, ..Sources::default() }
    }

    fn changed(annotated: &Annotated) -> Vec<&str> {
        annotated.keys.iter().filter(|entry| entry.changed).map(|entry| entry.name.as_str()).collect()
    }

    /// What is printed means the same as what was asked for, for every preset, whatever else is set.
    #[test]
    fn what_is_printed_is_read_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for name in preset_names() {
            for set in [&[][..], &["learning_rate=3e-4", "model.layers=2", "masking=word"]] {
                let asked = sources(Some(name), set);
                let (annotated, _) = Annotated::of(None, &asked).unwrap();
                let path = dir.path().join("printed.toml");
                std::fs::write(&path, annotated.to_toml()).unwrap();
                let back = Sources { file: Some(path), ..sources(Some(name), &[]) };
                let expected = asked.settings_for(&[]).unwrap().0;
                assert_eq!(back.settings_for(&[]).unwrap().0, expected, "{name}");
                // Nor does it need the preset's name.
                let back = Sources { preset: None, ..back };
                assert_eq!(back.settings_for(&[]).unwrap().0, expected, "{name}");
                for key in keys() {
                    assert!(annotated.to_toml().contains(key.help), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn differences_to_the_preset_are_marked() {
        let (mut annotated, _) =
            Annotated::of(None, &sources(Some("tiny"), &["log_every=7", "dropout=0.1"])).unwrap();
        assert_eq!(changed(&annotated), ["log_every"]);
        annotated.only_changed().unwrap();
        let text = annotated.to_toml();
        assert!(text.ends_with("default: 100\n# preset: 10\nlog_every = 7\n"), "{text}");
    }

    /// Steps that are not the preset's decide other keys (docs/configuration.md): what has the preset's value none the less is
    /// no difference, and is printed only where it would not be found again.
    #[test]
    fn what_follows_is_printed_where_it_differs_or_would_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changed.toml");
        for (set, printed) in [
            (&["steps=400"][..], &["steps", "warmup_steps", "optimizer"][..]),
            (&["steps=400", "warmup_steps=20"], &["steps", "warmup_steps", "optimizer"]),
            (&["steps=400", "optimizer=adam"], &["steps", "warmup_steps", "optimizer"]),
            (&["batch_size=64"], &["batch_size"]),
            (&["batch_size=4"], &["batch_size", "learning_rate"]),
            (&["batch_size=4", "learning_rate=5e-4"], &["batch_size", "learning_rate"]),
            (&["log_every=7"], &["log_every"]),
        ] {
            let asked = sources(Some("tiny"), set);
            let (mut annotated, _) = Annotated::of(None, &asked).unwrap();
            annotated.only_changed().unwrap();
            let names: Vec<&str> = annotated.keys.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, printed, "{set:?}");
            std::fs::write(&path, annotated.to_toml()).unwrap();
            let back = Sources { file: Some(path.clone()), ..sources(Some("tiny"), &[]) };
            assert_eq!(back.settings_for(&[]).unwrap().0, asked.settings_for(&[]).unwrap().0, "{set:?}");
        }
        let (mut annotated, _) =
            Annotated::of(None, &sources(Some("tiny"), &["steps=400", "warmup_steps=20"])).unwrap();
        annotated.only_changed().unwrap();
        let text = annotated.to_toml();
        let said =
            "# as in the preset: without this line 40 would follow from other keys\nwarmup_steps = 20\n";
        assert!(text.contains(said), "{text}");
    }

    /// A file is compared with the preset that it names, and with none where it names none: not with the default.
    #[test]
    fn of_a_file_the_preset_is_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        let of = |preset| Annotated::of(None, &Sources { file: Some(path.clone()), ..sources(preset, &[]) });
        let (printed, _) = Annotated::of(None, &sources(Some("tiny"), &["log_every=7"])).unwrap();
        std::fs::write(&path, printed.to_toml()).unwrap();
        let (known, _) = of(None).unwrap();
        assert_eq!((known.preset.as_deref(), changed(&known)), (Some("tiny"), vec!["log_every"]));
        // Printed again it still says so.
        assert_eq!(
            known.to_toml().lines().next(),
            printed.to_toml().replace("the preset tiny;", &format!("{};", path.display())).lines().next()
        );

        std::fs::write(&path, "steps = 500\n[model]\nlayers = 2\n").unwrap();
        let (mut unknown, _) = of(None).unwrap();
        assert!(unknown.preset.is_none() && changed(&unknown).is_empty());
        let text = unknown.to_toml();
        assert!(!text.contains("preset:") && text.contains("\nsteps = 500\n"), "{text}");
        let error = unknown.only_changed().unwrap_err().to_string();
        assert!(error.contains("my.toml: which preset") && error.contains("--preset"), "{error}");
        let (named, _) = of(Some("base")).unwrap();
        assert_eq!(named.preset.as_deref(), Some("base"));
        assert!(changed(&named).contains(&"model.layers"));
    }

    /// A run does not keep the name of its preset, and has sizes where presets leave them to be found.
    #[test]
    fn of_a_run_the_nearest_preset_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in preset_names() {
            let asked = sources(Some(name), &["micro_batch=4", "learning_rate=1e-5"]);
            let surroundings = Surroundings { vocab_size: 4000, room: &Room::unlimited() };
            let config = TrainConfig::resolve(asked.settings_for(&[]).unwrap().0, surroundings).unwrap();
            std::fs::write(dir.path().join(CONFIG), config.settings().to_toml()).unwrap();
            let (annotated, _) = Annotated::of(Some(dir.path()), &sources(None, &[])).unwrap();
            assert_eq!(annotated.preset.as_deref(), Some(name));
            assert_eq!(changed(&annotated), ["learning_rate"], "{name}");
            let mut back = Settings::defaults().unwrap();
            back.remove(GENERATOR_FRACTION);
            back.set_toml(&annotated.to_toml()).unwrap();
            assert_eq!(&back, config.settings(), "{name}");
        }
        // Its checkpoints need not be there.
        std::fs::write(dir.path().join("latest"), "checkpoints/step-00000006\n").unwrap();
        Annotated::of(Some(dir.path()), &sources(None, &[])).unwrap();
        let error =
            format!("{:#}", Annotated::of(Some(&dir.path().join("x")), &sources(None, &[])).unwrap_err());
        assert!(error.contains("neither a run"), "{error}");
    }
}
