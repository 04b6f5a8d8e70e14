//! `inazuma predict`: a fine-tuned model answers.

use std::any::Any;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::files::{lines_of_stdin, say_if_typed, text_of_stdin};
use crate::finetune::apply::Model;
use crate::interop::checkpoint;
use crate::interop::export::run::locate;
use crate::tasks::data::read_text;
use crate::tasks::source::Line;
use crate::tasks::squad::{Answer, Answers, Squad};
use crate::tasks::task::Settings;

use super::arguments::{DeviceArgs, OutputArgs, count_to};
use super::predict_ids;
use super::tasks::{PredictionOptions, inputs_by_task};

/// Use a fine-tuned model
#[derive(clap::Args)]
#[command(long_about = format!(
    "Use a fine-tuned model\n\nWith --question, answers it from --context or --context-file. Otherwise reads JSON lines \
     from stdin and writes one object a line: {}; an \"id\" is passed on; without \
     one the answer has the number of the \"line\".", inputs_by_task()
))]
#[command(after_help = "Examples:
  inazuma predict --model qa --question 日本で一番高い山は何ですか。 --context-file fuji.txt
  inazuma predict --model ner < texts.jsonl > entities.jsonl
  inazuma predict --model qa --serve-stdin")]
pub struct Args {
    /// What `finetune` wrote; with --ids also a run or a checkpoint
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Read ready ids, {"input_ids", "token_type_ids"}, and write the logits: to compare with another program
    #[arg(long, conflicts_with = "question")]
    ids: bool,
    /// Stay open for JSON lines on stdin: each gets one line as soon as it is answered, and one that is bad
    /// {"error": …}
    #[arg(long, conflicts_with_all = ["question", "ids"])]
    serve_stdin: bool,
    /// The question (squad)
    #[arg(long, value_name = "TEXT")]
    question: Option<String>,
    /// The text that holds the answer
    #[arg(long, value_name = "TEXT", conflicts_with = "context_file", requires = "question")]
    context: Option<String>,
    /// File of the text that holds the answer; - reads stdin
    #[arg(long, value_name = "F", requires = "question")]
    context_file: Option<PathBuf>,
    #[command(flatten)]
    prediction: PredictionOptions,
    /// Lines that are predicted together
    #[arg(long, default_value_t = 256, value_parser = count_to(100_000))]
    batch: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const NO_ANSWER: &str = "no answer came; please report this";

pub fn run(args: Args) -> Result<()> {
    let asked = args.question.as_deref();
    ensure!(
        asked.is_none_or(|text| !text.trim().is_empty()),
        "--question is empty; there is nothing to answer"
    );
    if args.ids
        && let Some((run, checkpoint)) = locate(&args.model)?
    {
        return predict_ids::networks(&run, &checkpoint, &args.device.open()?);
    }
    if !args.ids {
        refuse_ready_made(&args.model)?;
    }
    let mut model = Model::open(&args.model, &args.device.device, args.device.threads)?;
    match &args.question {
        None if args.ids => predict_ids::fine_tuned(&mut model),
        Some(text) => ask(&args, &mut model, text),
        None if args.serve_stdin => serve(&args, &mut model),
        None => lines(&args, &mut model),
    }
}

/// Says of a model whose tokenizer is not ours what can be done with it.
fn refuse_ready_made(model: &Path) -> Result<()> {
    let Some((run, _)) = locate(model)? else { return Ok(()) };
    ensure!(
        checkpoint::vocabulary(&run)?.is_none(),
        "{}: the model reads ids of a tokenizer that is not SentencePiece; raw text cannot be turned into them here: give \
         it ids with --ids, train it further on ready-made ids (`inazuma prepare --ids`), and use it where its tokenizer is",
        model.display()
    );
    Ok(())
}

fn ask(args: &Args, model: &mut Model, text: &str) -> Result<()> {
    let task = model.description.task;
    ensure!(
        task.name() == Squad::NAME,
        "{}: was not fine-tuned to answer questions; give it JSON lines on stdin",
        args.model.display()
    );
    let context = match (&args.context, &args.context_file) {
        (Some(context), _) => context.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => text_of_stdin("the context")?,
        (None, Some(path)) => read_text(path)?,
        (None, None) => bail!("--question needs a text to answer from: --context or --context-file"),
    };
    ensure!(!context.trim().is_empty(), "the context is empty; there is nothing to answer from");
    let asked = json!({"id": "question", "question": text, "context": context});
    let line = Line { number: 1, object: serde_json::from_value(asked)? };
    let outcome = model.predict(&[line], &args.prediction.settings(task)?)?;
    let answers = (outcome.predictions.as_ref() as &dyn Any).downcast_ref::<Answers>();
    let answer = answers.and_then(|answers| answers.0.first());
    let answer = answer.context(NO_ANSWER)?;
    if args.output.json {
        let object = json!({
            "answer": answer.text,
            "probability": answer.probability(),
            "no_answer": answer.prediction.no_answer,
            "n_best": answer.candidates(),
        });
        return args.output.show_json(&object);
    }
    args.output.show(&(), |out| show(answer, out))
}

/// The answer on stdout, and what else is to be said on stderr.
fn show(answer: &Answer, out: &mut dyn Write) -> Result<()> {
    let n_best = &answer.prediction.n_best;
    match n_best.first() {
        Some(best) if !answer.text.is_empty() => {
            writeln!(out, "{}", answer.text)?;
            note!(
                "confidence {:.3} among the {} best; characters {} to {} of the context",
                best.probability,
                n_best.len(),
                best.start,
                best.end
            );
        }
        _ => {
            writeln!(out)?;
            note!("the text does not answer the question, says the model");
        }
    }
    Ok(())
}

fn lines(args: &Args, model: &mut Model) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut batch = Vec::new();
    say_if_typed(&format!("JSON lines with {}", model.description.task.input()));
    for line in lines_of_stdin() {
        let (number, line) = line?;
        if line.trim().is_empty() {
            continue;
        }
        batch.push(Line::new(number, &line)?);
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

/// One line for each line, in order, each written out before the next is read.
fn serve(args: &Args, model: &mut Model) -> Result<()> {
    let prediction = args.prediction.settings(model.description.task)?;
    note!("{}: reads JSON lines until stdin ends, on {}", args.model.display(), model.device());
    let mut out = std::io::stdout().lock();
    for (number, line) in (1..).zip(lines_of_stdin()) {
        let line = match line {
            // What cannot be read at all will not be read better next time.
            Err(error) if error.downcast_ref::<std::io::Error>().is_some() => return Err(error),
            line => line,
        };
        let given = line.and_then(|(_, text)| Line::new(number, &text));
        let id = given.as_ref().ok().and_then(|line| line.object.get("id").cloned());
        let answer = given.and_then(|line| answers(model, &[line], &prediction)?.next().context(NO_ANSWER));
        let object = answer.unwrap_or_else(|error| {
            let mut object = json!({"error": format!("{error:#}"), "line": number});
            if let Some(id) = id {
                object["id"] = id;
            }
            object
        });
        writeln!(out, "{object}")?;
        out.flush()?;
    }
    Ok(())
}

fn predict(args: &Args, model: &mut Model, lines: &[Line], out: &mut impl Write) -> Result<()> {
    let prediction = args.prediction.settings(model.description.task)?;
    answers(model, lines, &prediction)?.try_for_each(|object| Ok(writeln!(out, "{object}")?))
}

/// The answers to lines, in order.
fn answers(model: &mut Model, lines: &[Line], prediction: &Settings) -> Result<impl Iterator<Item = Value>> {
    let objects = model.predict(lines, prediction)?.predictions.lines();
    ensure!(objects.len() == lines.len(), "{NO_ANSWER}");
    Ok(lines.iter().zip(objects).map(|(line, object)| line.answered(object)))
}
