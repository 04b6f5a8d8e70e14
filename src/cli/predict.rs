//! `inazuma predict`: a fine-tuned model answers.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::finetune::apply::{Model, question};
use crate::finetune::data::read_text;
use crate::finetune::data::records::{ChoiceExample, TaggedText, TextExample};
use crate::finetune::load::Examples;
use crate::finetune::package::TaskKind;
use crate::finetune::tasks::Predictions;
use crate::finetune::tasks::squad::candidates;

use super::arguments::{DeviceArgs, OutputArgs};

/// Use a fine-tuned model
///
/// With --question, answers it from --context or --context-file. Otherwise reads JSON lines from stdin and writes
/// one object a line: squad {"question", "context"}, classify and regress {"text"} or {"text1", "text2"},
/// multiple-choice {"question", "choices"}, tag {"text"}; an "id" is passed on.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma predict --model qa --question 日本で一番高い山は何ですか。 --context-file fuji.txt
  inazuma predict --model ner < texts.jsonl > entities.jsonl")]
pub struct Args {
    /// What `finetune` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The question (squad)
    #[arg(long, value_name = "TEXT")]
    question: Option<String>,
    /// The text that holds the answer
    #[arg(long, value_name = "TEXT", conflicts_with = "context_file", requires = "question")]
    context: Option<String>,
    /// File of the text that holds the answer; - reads stdin
    #[arg(long, value_name = "F", requires = "question")]
    context_file: Option<PathBuf>,
    /// How much no answer must outscore the best one (squad with impossible questions)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    no_answer_threshold: f32,
    /// Lines that are predicted together
    #[arg(long, default_value_t = 256)]
    batch: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.batch > 0, "--batch is 0; it must be 1 or more");
    let mut model = Model::open(&args.model, &args.device.device, args.device.threads)?;
    match &args.question {
        Some(text) => ask(&args, &mut model, text),
        None => lines(&args, &mut model),
    }
}

fn ask(args: &Args, model: &mut Model, text: &str) -> Result<()> {
    ensure!(
        model.description.task == TaskKind::Squad,
        "{}: was not fine-tuned to answer questions; give it JSON lines on stdin",
        args.model.display()
    );
    let context = match (&args.context, &args.context_file) {
        (Some(context), _) => context.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut context = String::new();
            std::io::stdin().read_to_string(&mut context).context("cannot read the context from stdin")?;
            context
        }
        (None, Some(path)) => read_text(path)?,
        (None, None) => bail!("--question needs a text to answer from: --context or --context-file"),
    };
    ensure!(!context.trim().is_empty(), "the context is empty; there is nothing to answer from");
    let asked = question("question".into(), text.to_owned(), &context);
    let answers = model.answer(vec![asked], args.no_answer_threshold)?;
    let Some((answer, prediction)) = answers.first() else { bail!("no answer came; please report this") };
    if args.output.json {
        let probability = prediction.n_best.first().map(|candidate| candidate.probability);
        let object = json!({
            "answer": answer,
            "probability": probability,
            "no_answer": prediction.no_answer,
            "n_best": candidates(prediction),
        });
        return args.output.show_json(&object);
    }
    match prediction.n_best.first() {
        Some(best) if !answer.is_empty() => {
            println!("{answer}");
            eprintln!(
                "confidence {:.3} among the {} best; characters {} to {} of the context",
                best.probability,
                prediction.n_best.len(),
                best.start,
                best.end
            );
        }
        _ => {
            println!();
            eprintln!("the text does not answer the question, says the model");
        }
    }
    Ok(())
}

/// A line of stdin, numbered from 1.
struct Line {
    number: usize,
    object: serde_json::Map<String, Value>,
}

impl Line {
    fn text(&self, key: &str) -> Result<String> {
        self.optional(key)?.with_context(|| format!("stdin, line {}: lacks \"{key}\"", self.number))
    }

    fn optional(&self, key: &str) -> Result<Option<String>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => bail!("stdin, line {}: \"{key}\" is not a text", self.number),
        }
    }

    /// The line's id, or its number.
    fn id(&self) -> String {
        match self.object.get("id") {
            Some(Value::String(id)) => id.clone(),
            Some(other) => other.to_string(),
            None => self.number.to_string(),
        }
    }
}

fn lines(args: &Args, model: &mut Model) -> Result<()> {
    let stdin = std::io::stdin().lock();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut batch = Vec::new();
    for (index, line) in stdin.lines().enumerate() {
        let number = index + 1;
        let line = line.with_context(|| format!("stdin, line {number}: cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(&line)
            .with_context(|| format!("stdin, line {number}: not a JSON object"))?;
        batch.push(Line { number, object });
        if batch.len() == args.batch {
            predict(args, model, &std::mem::take(&mut batch), &mut out)?;
            out.flush()?;
        }
    }
    if !batch.is_empty() {
        predict(args, model, &batch, &mut out)?;
    }
    Ok(out.flush()?)
}

fn predict(args: &Args, model: &mut Model, lines: &[Line], out: &mut impl Write) -> Result<()> {
    if model.description.task == TaskKind::Squad {
        let asked =
            lines.iter().map(|line| Ok(question(line.id(), line.text("question")?, &line.text("context")?)));
        let answers = model.answer(asked.collect::<Result<_>>()?, args.no_answer_threshold)?;
        for (line, (answer, prediction)) in lines.iter().zip(answers) {
            let probability = prediction.n_best.first().map(|candidate| candidate.probability);
            let n_best = candidates(&prediction);
            let object =
                json!({"id": line.id(), "answer": answer, "probability": probability, "n_best": n_best});
            writeln!(out, "{object}")?;
        }
        return Ok(());
    }
    let outcome = model.predict(examples(model.description.task, lines)?)?;
    if let Predictions::Lines(objects) = outcome.predictions {
        for object in objects {
            writeln!(out, "{object}")?;
        }
    }
    Ok(())
}

fn examples(task: TaskKind, lines: &[Line]) -> Result<Examples> {
    let each = lines.iter();
    Ok(match task {
        TaskKind::MultipleChoice => Examples::Choice(
            each.map(|line| {
                let choices = line.object.get("choices").and_then(Value::as_array);
                let choices = choices.and_then(|choices| {
                    choices
                        .iter()
                        .map(|choice| choice.as_str().map(str::to_owned))
                        .collect::<Option<Vec<_>>>()
                });
                let choices = choices.with_context(|| {
                    format!("stdin, line {}: \"choices\" is no list of texts", line.number)
                })?;
                Ok(ChoiceExample { id: line.id(), question: line.text("question")?, choices, label: None })
            })
            .collect::<Result<_>>()?,
        ),
        TaskKind::Tag => Examples::Tag(
            each.map(|line| {
                let id = line.id();
                Ok(TaggedText { group: id.clone(), id, text: line.text("text")?, spans: Vec::new() })
            })
            .collect::<Result<_>>()?,
        ),
        _ => Examples::Text(
            each.map(|line| {
                let (first, second) = match line.optional("text1")? {
                    Some(first) => (first, Some(line.text("text2")?)),
                    None => (line.text("text")?, None),
                };
                Ok(TextExample { id: line.id(), first, second, label: None })
            })
            .collect::<Result<_>>()?,
        ),
    })
}
