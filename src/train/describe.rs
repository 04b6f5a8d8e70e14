//! The configuration's keys for people: the list in `pretrain --help`, and the tables in `docs/configuration.md`.

use std::fmt::Write;

use anyhow::Result;

use crate::device::Room;
use crate::files::size;
use crate::gpu::Capabilities;
use crate::plan::DeviceMemory;

use super::config::{Surroundings, TrainConfig};
use super::key::{Default, Key, Reference, Resume};
use super::keys::{keys, phase_keys};
use super::presets::{preset, preset_names};
use super::settings::Settings;

/// A key's default in words.
pub(super) fn default(key: &Key) -> String {
    match key.default {
        Default::Value(text) => text.replace('_', ""),
        Default::Follows(other) => format!("from {other}"),
        Default::Found(from) => format!("from {from}"),
    }
}

/// What a key is to a phase, and where its value comes from else.
fn of_phase(key: &Key) -> (String, String) {
    match key.default {
        Default::Found(from) => (key.help.to_owned(), from.to_owned()),
        _ => (format!("In this phase: {}", key.help), format!("`{}`", key.name)),
    }
}

/// All keys as lines for a terminal.
pub fn help() -> String {
    let mut text = "Keys of --set and --config, and their defaults:\n".to_owned();
    for key in keys() {
        let _ = writeln!(text, "  {}: {} [{}]\n          {}", key.name, key.kind, default(key), key.help);
    }
    let of_phases: Vec<String> = phase_keys().map(|key| format!("phase.N.{}", key.name)).collect();
    let _ =
        writeln!(text, "Of a phase, as phase.1.max_length or in [[phase]] tables: {}.", of_phases.join(", "));
    let free: Vec<&str> = keys().filter(|key| key.resume == Resume::Free).map(|key| key.name).collect();
    let asked: Vec<&str> = keys().filter(|key| key.resume == Resume::Asked).map(|key| key.name).collect();
    text + &format!(
        "With --resume only these may differ: {}; with --allow-change these too: {}.",
        free.join(", "),
        asked.join(", ")
    )
}

/// The table of all keys, and that of the presets, in Markdown.
pub fn markdown() -> Result<String> {
    let mut text =
        "| key | what | value | default | `--hparams` | `--resume` |\n|---|---|---|---|---|---|\n".to_owned();
    for key in keys() {
        let reference = match key.reference {
            Reference::Nowhere => String::new(),
            Reference::Top(name) => format!("`{name}`"),
            Reference::Override(name) => format!("`model_hparam_overrides.{name}`"),
            Reference::Both(name) => format!("`{name}`, `model_hparam_overrides.{name}`"),
        };
        let resume = match key.resume {
            Resume::Fixed => "",
            Resume::Asked => "with `--allow-change`",
            Resume::Free => "may differ",
        };
        let Key { name, help, kind, .. } = key;
        let _ = writeln!(text, "| `{name}` | {help} | {kind} | {} | {reference} | {resume} |", default(key));
    }
    for key in phase_keys() {
        let (help, from) = of_phase(key);
        let resume = if key.resume == Resume::Asked { "with `--allow-change`" } else { "" };
        let name = key.name;
        let _ = writeln!(text, "| `phase.N.{name}` | {help} | {} | {from} |  | {resume} |", key.kind);
    }
    let _ = write!(text, "\n| preset | what it changes |\n|---|---|\n");
    let defaults = Settings::defaults()?;
    for name in preset_names() {
        let settings = preset(name)?;
        let changed: Vec<String> = settings
            .all()
            .filter(|(name, value)| defaults.get(name) != Some(*value))
            .map(|(name, value)| format!("`{name} = {value}`"))
            .collect();
        let changed =
            if changed.is_empty() { "nothing: the defaults".to_owned() } else { changed.join(", ") };
        let _ = writeln!(text, "| `{name}` | {changed} |");
    }
    Ok(text)
}

/// What `auto` gives the presets `small` and `base` on cards with so many GiB, in Markdown.
pub fn sizes(memories: &[u64]) -> Result<String> {
    let mut text = "| card | preset | | `micro_batch` of `batch_size` | `vocabulary_chunk` | plan |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for memory in memories {
        let room = Room::adapter(Capabilities {
            kind: "discrete",
            half: true,
            binding_bytes: (4 << 30) - 4,
            buffer_bytes: 2 << 30,
            memory: Some(DeviceMemory::unused(memory << 30)),
            ..Capabilities::baseline()
        });
        for (name, precision) in [("small", "f32"), ("small", "f16"), ("base", "f32"), ("base", "f16")] {
            let mut settings = preset(name)?;
            settings.set_texts([format!("precision={precision}").as_str()])?;
            let config = TrainConfig::resolve(settings, Surroundings { vocab_size: 32_000, room: &room })?;
            let (micro_batch, batch_size) = (config.micro_batch, config.batch_size);
            let bytes = size(config.plan()?.plan.bytes());
            let chunk = config.vocabulary_chunk;
            let _ = writeln!(
                text,
                "| {memory} GiB | `{name}` | {precision} | {micro_batch} of {batch_size} | {chunk} | {bytes} |"
            );
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::keys::MODEL_PREFIX;

    /// `docs/configuration.md` says what the rows say, and what `auto` gives. With INAZUMA_REWRITE_DOCS=1 the test rewrites it.
    #[test]
    fn the_documentation_has_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut wanted = text.clone();
        for (from, table) in [("keys", markdown()), ("sizing", sizes(&[8, 16, 24, 80]))] {
            let (begin, end) = (format!("<!-- generated from src/train/{from}.rs -->\n"), "<!-- end -->");
            let (before, rest) = wanted.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(end).unwrap();
            wanted = format!("{before}{begin}\n{}\n{end}{after}", table.unwrap());
        }
        if std::env::var_os("INAZUMA_REWRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        } else {
            assert!(
                text == wanted,
                "docs/configuration.md is not what src/train says; rewrite it with \
                 INAZUMA_REWRITE_DOCS=1 cargo test --release --lib the_documentation_has_the_tables"
            );
        }
    }

    #[test]
    fn rows_are_whole() {
        let names: std::collections::BTreeSet<&str> = keys().map(|key| key.name).collect();
        assert_eq!(names.len(), keys().count(), "a name stands twice");
        for key in keys() {
            assert!(!key.help.is_empty() && !key.help.contains(['|', '\n']), "{}", key.name);
            key.default().unwrap();
            if let Default::Follows(other) = key.default {
                assert!(names.contains(other), "{}", key.name);
            }
        }
        let model: Vec<bool> = keys().map(|key| key.name.starts_with(MODEL_PREFIX)).collect();
        assert!(model.is_sorted(), "the model's keys are one table, and last");
        let references = keys().filter_map(|key| match key.reference {
            Reference::Top(name) | Reference::Override(name) | Reference::Both(name) => Some(name),
            Reference::Nowhere => None,
        });
        let distinct: std::collections::BTreeSet<&str> = references.clone().collect();
        assert_eq!(distinct.len(), references.count(), "a name of the reference stands twice");
    }
}
