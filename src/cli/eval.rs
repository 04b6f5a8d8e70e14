//! `inazuma eval`: scores of a fine-tuned model on a data set.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::finetune::apply::Model;
use crate::finetune::data::records::Selection;
use crate::finetune::load::Source;
use crate::finetune::package::TaskKind;
use crate::finetune::run::{shown, write_predictions};

use super::arguments::{DeviceArgs, OutputArgs};
use super::finetune::ColumnArgs;

/// Score a fine-tuned model on a data set
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma eval squad --model qa --data jsquad-valid-v1.3.json.xz --predictions answers.json
  inazuma eval classify --model nli --data jsick.tsv.xz --where data=test --json")]
pub struct Args {
    task: TaskKind,
    /// What `finetune` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[arg(long, value_name = "F")]
    data: PathBuf,
    /// Rows of the table to take, as data=test
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    selection: Option<Selection>,
    /// Use so many examples at most, evenly spread
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Write the predictions: squad {"id": "text"}, and the n-best beside it; others an object a line
    #[arg(long, value_name = "OUT")]
    predictions: Option<PathBuf>,
    /// How much no answer must outscore the best one (squad with impossible questions)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    no_answer_threshold: f32,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let mut model = Model::open(&args.model, &args.device.device, args.device.threads)?;
    let task = model.description.task;
    ensure!(
        task == args.task,
        "{}: was fine-tuned for {}, not for {}",
        args.model.display(),
        name(task),
        name(args.task)
    );
    let (columns, limit) = (args.columns.columns(), args.limit);
    let source = Source { path: args.data.clone(), columns, selection: args.selection, limit };
    let outcome = model.evaluate(&source, args.no_answer_threshold)?;
    if let Some(path) = &args.predictions {
        write_predictions(&outcome, path)?;
    }
    ensure!(
        !outcome.scores.is_empty() || args.predictions.is_some(),
        "{}: has no labels to score against; --predictions OUT writes what the model says",
        args.data.display()
    );
    let scores: serde_json::Map<String, serde_json::Value> =
        outcome.scores.iter().map(|(name, score)| ((*name).to_owned(), (*score).into())).collect();
    args.output.show(&scores, |out| Ok(writeln!(out, "{}", shown(&outcome.scores))?))
}

/// A task as the command line calls it.
fn name(task: TaskKind) -> String {
    let value = clap::ValueEnum::to_possible_value(&task);
    value.map_or(String::new(), |value| value.get_name().to_owned())
}
