//! The parts of the page.

use std::path::Path;

use serde_json::{Map, Value};

use super::facts::Facts;
use super::html::{self, Cell, list, name, note, number, section, table, words};
use super::samples::Samples;
use crate::files::size;
use crate::note::grouped;
use crate::view::plot::scale::brief;
use crate::view::recorded::{Kind, Record, Recorded};

/// Lines of a profile that are shown.
const OPS: usize = 25;
/// Evaluations that are shown: the last ones.
const EVALUATIONS: usize = 20;

/// Of evaluations: what would make the table wider than paper.
const ASIDE: [&str; 6] =
    ["sequences", "tokens", "sampled_accuracy", "disc_spread", "unigram_entropy", "base_rate_entropy"];

/// What and how far a run is.
pub fn heading(run: &Recorded, facts: &Facts) -> String {
    let last = run.metrics().last();
    let about = match run.kind {
        Kind::Pretraining => {
            let of = facts.settings.iter().find(|setting| setting.name == "steps");
            let of = of
                .and_then(|setting| setting.value.parse().ok())
                .map_or(String::new(), |n| format!(" of {}", grouped(n)));
            let step = last.map_or(0, |record| record.step);
            let tokens = last.and_then(|record| record.number("tokens")).unwrap_or(0.0);
            format!("ELECTRA, pre-trained: {} steps{of}, {} tokens", grouped(step), grouped(tokens as u64))
        }
        Kind::FineTuning => {
            let task = text(facts.task.get("task"));
            let epochs = run.metrics().len();
            format!("ELECTRA, fine-tuned ({task}): {epochs} epoch{}", if epochs == 1 { "" } else { "s" })
        }
    };
    format!("<h1>{}</h1>\n<p class=\"lead\">{}</p>\n", words(&run.name()).1, words(&about).1)
}

pub fn of_pretraining(run: &Recorded, facts: &Facts, samples: Option<&Samples>) -> String {
    let mut page = section("Held-out scores", &evaluations(run.evaluations()));
    page += &section("Masked, replaced, judged", &samples.map_or_else(|| no_samples(facts), Samples::html));
    page += &section("Device, data, checksums", &data(facts));
    if let Some(summary) = &facts.memory {
        let rows = summary.bytes_by_role.iter().map(|(role, &bytes)| {
            (
                "",
                vec![words(role), number(size(bytes)), html::bar(bytes as f64 / summary.bytes.max(1) as f64)],
            )
        });
        let rest = format!(
            "{} in {} buffers for a micro-batch, by the plan. Activations share memory by lifetime: {} of tensors.",
            size(summary.bytes),
            summary.buffers,
            size(summary.unshared_activation_bytes)
        );
        page += &section(
            "Memory by role",
            &(table(&["role", "size", ""], &rows.collect::<Vec<_>>()) + &note(&rest)),
        );
    }
    if let Some(profile) = &facts.profile {
        page += &section("Where a step's time goes", &ops(profile));
    }
    if !facts.incidents.is_empty() {
        page += &section("Incidents", &incidents(&facts.incidents));
    }
    if !facts.history.is_empty() {
        let rows: Vec<_> = facts.history.iter().map(|event| ("", vec![name(&event.to_string())])).collect();
        page += &section("History", &table(&["event, the newest first"], &rows));
    }
    page + &section("Configuration", &configuration(facts))
}

pub fn of_fine_tuning(run: &Recorded, facts: &Facts) -> String {
    let mut page = section(
        "Epochs and dev scores",
        &records(run.metrics(), &["steps", "tokens", "grad_norm", "skipped_steps"]),
    );
    let facts_of = |members: &Map<String, Value>, but: &[&str]| {
        let mut all = Vec::new();
        members
            .iter()
            .filter(|(key, _)| !but.contains(&key.as_str()))
            .for_each(|(key, value)| flat(key, value, &mut all));
        all
    };
    let made = facts_of(&facts.made, &["epochs"]);
    if !made.is_empty() {
        page += &section("Training, data, checksums", &list(&made));
    }
    let task = facts_of(&facts.task, &[]);
    if !task.is_empty() {
        page += &section("Task", &list(&task));
    }
    page
}

/// The numbers of lines as a table, all but some.
fn records(records: &[Record], but: &[&str]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for key in
        records.iter().flat_map(|record| record.values.keys()).filter(|key| !but.contains(&key.as_str()))
    {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let cell = |record: &Record, column: &&str| match record.number(column) {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => number(grouped(value.abs() as u64)),
        Some(value) => number(brief(value)),
        None => number("–"),
    };
    let rows = records.iter().map(|record| ("", columns.iter().map(|column| cell(record, column)).collect()));
    table(&columns, &rows.collect::<Vec<_>>())
}

fn evaluations(all: &[Record]) -> String {
    if all.is_empty() {
        return note(
            "None: pretrain --eval-store STORE measures them while a run trains, eval pretrain RUN --store STORE those of a \
             checkpoint.",
        );
    }
    let first = all.len().saturating_sub(EVALUATIONS);
    let mut page = records(&all[first..], &ASIDE);
    if first > 0 {
        page += &note(&format!("The last {EVALUATIONS} of {}; all are in eval.jsonl.", all.len()));
    }
    let of_last =
        |name: &str| all.last().and_then(|record| record.number(name)).map_or("–".to_owned(), brief);
    page + &note(&format!(
        "Losses are in nats. Who knows only how often each piece occurs scores a masked-LM loss of {}; who knows only how \
         often tokens are replaced, a discriminator loss of {}.",
        of_last("unigram_entropy"),
        of_last("base_rate_entropy")
    ))
}

/// Why there are none, and how there would be some.
fn no_samples(facts: &Facts) -> String {
    let store = facts.made.get("eval_store").and_then(|store| store.get("path")).and_then(Value::as_str);
    let why = match store {
        None => "the run has no held-out store (pretrain --eval-store STORE) to take texts from".to_owned(),
        Some(path) if !Path::new(path).is_file() => {
            format!("the held-out store {} is no longer where it was", file_of(path))
        }
        Some(_) => "this page was made without them".to_owned(),
    };
    note(&format!("None: {why}. report --text FILE shows what the networks make of other texts."))
}

/// The name of a file in a path of any system.
fn file_of(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}

fn data(facts: &Facts) -> String {
    let mut list_of = Vec::new();
    let mut say = |term: &str, text: String| list_of.push((term.to_owned(), text));
    let recorded = |key: &str| facts.made.get(key).filter(|value| !value.is_null());
    let device = recorded("device").map(|device| text(Some(device)));
    if let Some(device) = device.or_else(|| facts.state.as_ref().map(|state| state.device.clone())) {
        say("device", device);
    }
    // Beside a card, what feeds it.
    let threads = recorded("threads").and_then(Value::as_u64).map(|n| match n {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    });
    let processor = recorded("processor").map(|name| text(Some(name)));
    let parts: Vec<String> = processor.into_iter().chain(threads).collect();
    if !parts.is_empty() {
        say("processor", parts.join(", "));
    }
    recorded("program").into_iter().for_each(|program| say("program", text(Some(program))));
    let stores = recorded("stores").and_then(Value::as_array).cloned().unwrap_or_default();
    let several = stores.len() > 1;
    for store in &stores {
        let weight = if several { format!(", weight {}", text(store.get("weight"))) } else { String::new() };
        say("store", described(store) + &weight);
    }
    recorded("eval_store").into_iter().for_each(|store| say("held-out store", described(store)));
    if let Some(state) = &facts.state {
        if stores.is_empty() {
            let store = &state.store;
            let [documents, tokens] = [store.documents, store.tokens].map(grouped);
            say(
                "store",
                format!("{documents} documents, {tokens} tokens, CRC-32 of the header {}", store.crc),
            );
        }
        say("tokenizer", format!("SHA-256 {}", state.tokenizer));
        say("newest checkpoint", format!("step {}, seed {}", grouped(state.step), state.seed));
    }
    if list_of.is_empty() { note("Nothing of these was recorded yet.") } else { list(&list_of) }
}

fn described(store: &Value) -> String {
    let count = |key: &str| grouped(store.get(key).and_then(Value::as_u64).unwrap_or(0));
    let path = text(store.get("path"));
    let file = file_of(&path);
    format!(
        "{file}: {} documents, {} tokens, CRC-32 of the header {}",
        count("documents"),
        count("tokens"),
        text(store.get("crc"))
    )
}

fn ops(profile: &Value) -> String {
    let lines = profile.get("lines").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<(&str, Vec<Cell>)> = lines
        .iter()
        .take(OPS)
        .map(|line| {
            let value = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            let cells = vec![
                name(&text(line.get("op"))),
                name(&text(line.get("shape"))),
                name(&text(line.get("strategy"))),
                number(text(line.get("calls"))),
                number(format!("{:.3}", 1e3 * value("seconds"))),
                number(format!("{:.1} %", 100.0 * value("share"))),
                html::bar(value("share")),
                number(format!("{:.0} %", 100.0 * value("share_of_peak"))),
            ];
            ("", cells)
        })
        .collect();
    let seconds = |key: &str| profile.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let head = ["op", "shape", "strategy", "calls", "ms", "share", "", "of peak"];
    table(&head, &rows)
        + &note(&format!(
            "{} of {} kinds of ops; all ops {:.1} ms, a step by the wall clock {:.1} ms.",
            rows.len(),
            lines.len(),
            1e3 * seconds("ops_seconds"),
            1e3 * seconds("step_seconds")
        ))
}

fn incidents(all: &[Value]) -> String {
    let keys = ["step", "batch", "cause", "gradient_norm", "norm_limit", "learning_rate", "action"];
    let cell = |incident: &Value, key: &str| match incident.get(key).and_then(Value::as_f64) {
        Some(value) => number(brief(value)),
        None => words(&text(incident.get(key))),
    };
    let rows: Vec<_> = all.iter().map(|one| ("", keys.iter().map(|key| cell(one, key)).collect())).collect();
    table(&keys, &rows)
}

fn configuration(facts: &Facts) -> String {
    let row = |setting: &super::facts::Setting| {
        let row = if setting.changed { "changed" } else { "" };
        let cells = vec![
            name(&setting.name),
            Cell("value", words(&setting.value).1),
            Cell("help", words(setting.help).1),
        ];
        (row, cells)
    };
    let rows: Vec<_> = facts.settings.iter().map(row).collect();
    let about = |preset: &String| {
        note(&format!(
            "Bold: other than in the preset {preset}, from which the run differs least (it does not keep its preset's name)."
        ))
    };
    facts.preset.as_ref().map_or_else(String::new, about) + &table(&["key", "value", "meaning"], &rows)
}

/// A value as people read it.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Members by their whole names; lists in a line.
fn flat(name: &str, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| flat(&format!("{name}.{key}"), value, all))
        }
        Value::Array(values) => {
            let each: Vec<String> = values.iter().map(|value| text(Some(value))).collect();
            all.push((name.to_owned(), each.join(", ")));
        }
        other => all.push((name.to_owned(), text(Some(other)))),
    }
}
