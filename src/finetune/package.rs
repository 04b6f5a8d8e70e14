//! A fine-tuned model as a directory: what Hugging Face loads (`config.json`, `model.safetensors`), the tokenizer in
//! both forms, a model card, and `inazuma.json`, which says what the head is for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ArgMatches;
use serde_json::{Map, Value, json};

use crate::files::write_atomically;
use crate::interop::checkpoint::TOKENIZER;
use crate::interop::export::card::Naming;
use crate::interop::{export, huggingface, weights};
use crate::model::ModelConfig;
use crate::plan::Executor;
use crate::tasks::registry::{self, TASKS};
use crate::tasks::task::{Description, HuggingFace, Settings, Task};
use crate::tokenizer::Tokenizer;

use super::training::{self, TRAINING, Training};

/// File that says what a fine-tuned model is for.
pub const DESCRIPTION: &str = "inazuma.json";

/// Keys of all tasks.
const COMMON: [&str; 3] = ["task", "lower", "max_length"];

/// The tasks of version 0.1, which reads no description of theirs that lacks one of [`ALWAYS`].
const FIRST: [&str; 5] = ["squad", "classify", "regress", "multiple-choice", "tag"];

/// Settings that a description of one of the first tasks holds, in this order, whatever the task. A later task's
/// description holds that task's own.
const ALWAYS: [&str; 9] = [
    "span_head",
    "answerability",
    "doc_stride",
    "max_query_length",
    "max_answer_length",
    "n_best",
    "labels",
    "choices",
    "range",
];

/// What a model of `task` is to be by these options of the command line, before any example is read.
///
/// Errors: an option out of its range, of whatever task.
pub fn describe(task: &'static dyn Task, options: &ArgMatches) -> Result<Description> {
    let mut asked = Settings::new();
    for other in TASKS {
        asked.extend(other.settings(options)?);
    }
    let always: &[&str] = if FIRST.contains(&task.name()) { &ALWAYS } else { &[] };
    let mut settings: Settings =
        always.iter().filter_map(|key| Some(((*key).to_owned(), asked.get(*key)?.clone()))).collect();
    settings.extend(task.settings(options)?);
    Ok(Description { task, lower: true, max_length: task.defaults().max_length, settings })
}

/// Reads `inazuma.json` of a model's directory.
pub fn read(directory: &Path) -> Result<Description> {
    let path = directory.join(DESCRIPTION);
    let shown = path.display();
    let text = fs::read(&path).with_context(|| {
        format!("cannot read {shown}; --model takes a directory that `inazuma finetune` wrote")
    })?;
    let description = parse(&text).with_context(|| format!("{shown}: not a model's description"))?;
    ensure!(description.max_length > 0, "{shown}: a length is 0");
    description.task.check(&description).with_context(|| shown.to_string())?;
    Ok(description)
}

fn parse(text: &[u8]) -> Result<Description> {
    let mut settings: Map<String, Value> = serde_json::from_slice(text)?;
    let mut take = |key: &str| settings.shift_remove(key).with_context(|| format!("missing field `{key}`"));
    let [name, lower, max_length] = COMMON.map(&mut take);
    let name: String = serde_json::from_value(name?).context("task")?;
    let Some(task) = registry::find(&name) else {
        let known: Vec<String> = TASKS.iter().map(|task| format!("`{}`", task.name())).collect();
        bail!("unknown task `{name}`, expected one of {}", known.join(", "))
    };
    let lower = serde_json::from_value(lower?).context("lower")?;
    let max_length = serde_json::from_value(max_length?).context("max_length")?;
    Ok(Description { task, lower, max_length, settings })
}

/// The description as the file holds it.
pub(super) fn to_json(description: &Description) -> Value {
    let Description { task, lower, max_length, settings } = description;
    let common = [json!(task.name()), json!(lower), json!(max_length)];
    let common = COMMON.into_iter().map(str::to_owned).zip(common);
    Value::Object(common.chain(settings.clone()).collect())
}

/// The `config.json` of a model.
pub(super) fn config(
    description: &Description,
    model: &ModelConfig,
    pad: u32,
    dropout: f64,
) -> Result<Value> {
    let HuggingFace { class, labels, problem_type, .. } = description.task.huggingface(description)?;
    // Of a model whose head they have no class for, they can load the encoder.
    let mut config = huggingface::config(model, class.unwrap_or("ElectraModel"), pad, dropout);
    if !labels.is_empty() {
        let ids = labels.iter().enumerate();
        config["id2label"] = ids.clone().map(|(id, label)| (id.to_string(), json!(label))).collect();
        config["label2id"] = ids.map(|(id, label)| (label.clone(), json!(id))).collect();
    }
    if let Some(problem_type) = problem_type {
        config["problem_type"] = json!(problem_type);
    }
    Ok(config)
}

/// The dropout that a model's `config.json` says.
pub(super) fn dropout(directory: &Path) -> Result<f64> {
    let path = directory.join(huggingface::CONFIG);
    let shown = path.display();
    let text = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
    let config: Value = serde_json::from_slice(&text).with_context(|| format!("{shown}: not JSON"))?;
    config["hidden_dropout_prob"].as_f64().with_context(|| format!("{shown}: lacks hidden_dropout_prob"))
}

/// What a model's directory is written from, beside the parameters.
pub struct Package<'a> {
    pub description: &'a Description,
    pub model: &'a ModelConfig,
    pub tokenizer: &'a Tokenizer,
    pub dropout: f64,
    pub training: &'a Training,
}

impl Package<'_> {
    /// Writes the model's directory with the executor's parameters; the weights are replaced last.
    pub fn write(&self, directory: &Path, executor: &mut dyn Executor) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let pad = self.tokenizer.special_ids()?.pad;
        let config = config(self.description, self.model, pad, self.dropout)?;
        export::write_json(&directory.join(huggingface::CONFIG), &config)?;
        export::write_json(&directory.join(DESCRIPTION), &to_json(self.description))?;
        export::write_json(&directory.join(TRAINING), &serde_json::to_value(self.training)?)?;
        let naming = Naming { name: export::run::name_of(directory), ..Naming::default() };
        let card = training::card(self.description, self.model, Some(self.training), naming)?;
        write_atomically(&directory.join(export::CARD), card.to_string().as_bytes())?;
        write_atomically(&directory.join(TOKENIZER), self.tokenizer.model())?;
        if let Err(error) = export::write_tokenizer(directory, self.tokenizer, self.description.max_length) {
            note!("note: other programs cannot read its tokenizer: {error:#}");
        }
        let tensors = weights::collect(executor, |p| p.value, |part| Some(huggingface::name(part)))?;
        let path = directory.join(huggingface::WEIGHTS);
        let temporary = directory.join("model.safetensors.tmp");
        weights::write(&temporary, &tensors, Some("pt"))?;
        fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file of a model of version 0.1.
    const FILE: &str = r#"{"task":"regress","lower":true,"max_length":128,"span_head":"plain","answerability":false,"doc_stride":128,"max_query_length":64,"max_answer_length":30,"n_best":20,"labels":[],"choices":0,"range":[0.0,5.0]}"#;

    fn first_tasks() -> impl Iterator<Item = &'static dyn Task> {
        FIRST.into_iter().map(|name| registry::find(name).unwrap())
    }

    #[test]
    fn descriptions_come_back_to_the_byte() {
        for task in first_tasks() {
            let file = FILE.replace("regress", task.name());
            let description = parse(file.as_bytes()).unwrap();
            task.check(&description).unwrap();
            assert_eq!(description.task.name(), task.name());
            assert_eq!(to_json(&description).to_string(), file);
        }
    }

    #[test]
    fn what_is_no_description_is_named() {
        for (from, to, words) in [
            ("\"regress\"", "\"dance\"", "unknown task `dance`, expected one of `squad`, `classify`"),
            ("\"lower\":true,", "", "missing field `lower`"),
            ("\"max_length\":128", "\"max_length\":\"x\"", "max_length: invalid type"),
        ] {
            let error = format!("{:#}", parse(FILE.replace(from, to).as_bytes()).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
        let description = parse(FILE.replace("\"range\":[0.0,5.0]", "\"x\":1").as_bytes()).unwrap();
        let error = format!("{:#}", description.task.check(&description).unwrap_err());
        assert!(error.contains("missing field `range`"), "{error}");
    }

    /// Descriptions of the first tasks hold the same keys, in the order of version 0.1; those of others come back too.
    #[test]
    fn options_become_the_description() {
        let command =
            TASKS.iter().fold(clap::Command::new("finetune"), |command, task| task.options(command));
        let options = command.get_matches_from(["finetune", "--n-best", "7"]);
        for task in TASKS {
            let written = to_json(&describe(task, &options).unwrap());
            let expected: Value = serde_json::from_str(FILE).unwrap();
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            let read = parse(written.to_string().as_bytes()).unwrap();
            assert_eq!(to_json(&read).to_string(), written.to_string());
            assert_eq!(written["task"].as_str(), Some(task.name()));
            if FIRST.contains(&task.name()) {
                assert_eq!(keys(&written), keys(&expected), "{}", task.name());
                assert_eq!(written["n_best"].as_u64(), Some(7));
            }
        }
    }
}
