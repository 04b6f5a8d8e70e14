//! `inazuma eval`: scores of a fine-tuned model on a data set.

use std::any::Any;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgMatches, FromArgMatches};

use crate::finetune::apply::Model;
use crate::finetune::predictions::{shown, write_predictions_to};
use crate::ranks::{Given, Ranks};
use crate::tasks::source::Source;
use crate::tasks::squad::Answers;
use crate::tasks::table::Selection;
use crate::tasks::task::Task;

use super::answer_table;
use super::arguments::{DeviceArgs, OutputArgs};
use super::eval_pretrain;
use super::finetune::ColumnArgs;
use super::tasks::{PredictionOptions, task_parser};

/// Score a fine-tuned model on a data set, or a pre-trained one on held-out text
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Examples:
  inazuma eval pretrain run --store wiki.store.held-out
  inazuma eval squad --model qa --data jsquad-valid-v1.3.json.xz --predictions answers.json
  inazuma eval classify --model nli --data jsick.tsv.xz --where data=test --json")]
pub struct Args {
    // Before the subcommand, which reading takes out of the matches.
    #[command(flatten)]
    of_task: Unless,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is asked of a task, unless a subcommand is given.
struct Unless(Option<OfTask>);

impl clap::Args for Unless {
    fn augment_args(command: clap::Command) -> clap::Command {
        OfTask::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        OfTask::augment_args_for_update(command)
    }
}

impl FromArgMatches for Unless {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked = matches.subcommand_name().is_none().then(|| OfTask::from_arg_matches(matches));
        Ok(Unless(asked.transpose()?))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(clap::Subcommand)]
enum Command {
    Pretrain(eval_pretrain::Args),
}

#[derive(clap::Args)]
struct OfTask {
    /// What the model was fine-tuned for
    #[arg(value_parser = task_parser())]
    task: &'static dyn Task,
    /// What `finetune` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Data to score the model on
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
    /// Show so many questions beside the answers given and known (squad)
    #[arg(long, value_name = "N", conflicts_with = "json")]
    table: Option<usize>,
    /// Write the predictions to this file: squad {"id": "text"}, and the n-best beside it; others an object a line
    #[arg(long, value_name = "OUT")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    prediction: PredictionOptions,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    /// What all ranks must have been given alike; nothing where it does not divide its work among them.
    pub fn given(&self, given: Given) -> Option<Given> {
        self.command.as_ref().map(|Command::Pretrain(args)| args.given(given))
    }
}

pub fn run(args: Args, ranks: &Ranks) -> Result<()> {
    match (args.command, args.of_task.0) {
        (Some(Command::Pretrain(args)), _) => eval_pretrain::run(args, ranks),
        (None, Some(args)) => fine_tuned(args),
        (None, None) => bail!("eval needs a task, or `pretrain`; please report this"),
    }
}

fn fine_tuned(args: OfTask) -> Result<()> {
    let mut model = Model::open(&args.model, &args.device.device, args.device.threads)?;
    let task = model.description.task;
    ensure!(
        task.name() == args.task.name(),
        "{}: was fine-tuned for {}, not for {}",
        args.model.display(),
        task.name(),
        args.task.name()
    );
    let (columns, limit) = (args.columns.columns(), args.limit);
    let source = Source { path: args.data.clone(), columns, selection: args.selection, limit };
    let outcome = model.evaluate(&source, &args.prediction.settings(task)?)?;
    if let Some(path) = &args.predictions {
        write_predictions_to(outcome.predictions.as_ref(), path)?;
    }
    if let Some(most) = args.table {
        let answers = (outcome.predictions.as_ref() as &dyn Any).downcast_ref::<Answers>();
        let answers = answers.context("--table is for questions and answers (squad)")?;
        answer_table::write(&mut std::io::stdout().lock(), answers, most)?;
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
