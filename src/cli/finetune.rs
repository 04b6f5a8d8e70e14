//! `inazuma finetune`: from an encoder to a model of a task.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::finetune::fit::FitOptions;
use crate::finetune::hparams;
use crate::finetune::run::{self, Init, Options};
use crate::finetune::trials::Report;
use crate::tasks::registry;
use crate::tasks::source::Source;
use crate::tasks::table::{Columns, Selection};
use crate::tasks::task::Task;

use super::Interrupted;
use super::arguments::{
    DeviceArgs, MemoryArgs, OutputArgs, PrecisionArgs, count_to, interruptible, presets, quoted,
};
use super::tasks::{PredictionOptions, TaskOptions, defaults_by_task, task_parser};

/// Fine-tune an encoder on a task
///
/// The data may be .json, .jsonl or .tsv, also as .xz and .gz. JaQuAD, JSQuAD and other SQuAD files, JNLI, JSTS,
/// JCommonsenseQA, MARC-ja, JSICK and the Stockmark entities are read as they come; for other tables name the
/// columns. The dev set is scored after each epoch and the best model kept; the directory loads in Hugging Face.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma finetune squad --init run --train jaquad-train.json.xz --dev jaquad-dev.json.xz --out qa
  inazuma finetune classify --init run --train jsick.tsv.xz --dev jsick.tsv.xz \\
      --dev-where data=test --out nli
  inazuma finetune tag --init run --train stockmark-ner-wikipedia.json.xz --hold-out 10% --out ner
  inazuma finetune squad --init none --like run --train train.json --dev dev.json \\
      --out scratch --trials 3")]
pub struct Args {
    /// What the model is for
    #[arg(value_parser = task_parser())]
    task: &'static dyn Task,
    /// A run, a checkpoint or a Hugging Face directory; `none` draws the parameters, for comparison
    #[arg(long, value_name = "RUN_OR_MODEL_DIR")]
    init: PathBuf,
    /// With --init none: sizes and tokenizer of this run or model
    #[arg(long, value_name = "RUN_OR_MODEL_DIR", conflicts_with = "preset")]
    like: Option<PathBuf>,
    /// With --init none: sizes of this preset of `pretrain` (needs --tokenizer)
    #[arg(long, hide_possible_values = true, value_parser = presets())]
    preset: Option<String>,
    /// SentencePiece model; by default the one beside the encoder
    #[arg(long, value_name = "M")]
    tokenizer: Option<PathBuf>,
    /// Do not lower-case texts; by default as the encoder was trained
    #[arg(long)]
    no_lower: bool,
    /// Training data
    #[arg(long, value_name = "F")]
    train: PathBuf,
    /// Data scored at each epoch
    #[arg(long, value_name = "F", conflicts_with = "hold_out")]
    dev: Option<PathBuf>,
    /// Set this share of the training data aside as dev set, by a hash of the document
    #[arg(long, value_name = "SHARE", value_parser = super::prepare::parse_share)]
    hold_out: Option<f64>,
    /// Rows of the training table to take, as data=train
    #[arg(long, value_name = "COLUMN=VALUE")]
    train_where: Option<Selection>,
    /// Rows of the dev table to take
    #[arg(long, value_name = "COLUMN=VALUE")]
    dev_where: Option<Selection>,
    /// Use so many training examples at most, evenly spread
    #[arg(long, value_name = "N")]
    train_limit: Option<usize>,
    /// Use so many dev examples at most, evenly spread
    #[arg(long, value_name = "N")]
    dev_limit: Option<usize>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Directory of the model; must be empty or new
    #[arg(long)]
    out: PathBuf,
    /// Options under the reference implementation's names: JSON, a .json file, or a whole command line of
    /// run_finetuning.py; options that are given beside it win
    // Not read here: `spelled_out` has put what it means among the others.
    #[arg(long = "hparams", value_name = "JSON")]
    _hparams: Option<String>,
    #[arg(long, help = format!(
        "Passes over the training data [default: {}; 10 for under 1,000 examples]",
        defaults_by_task(|defaults| defaults.epochs)
    ), value_parser = count_to(1_000_000))]
    epochs: Option<usize>,
    /// End a training when the dev score has not risen for so many epochs; the best is kept. The learning rate falls as if
    /// all --epochs were made, so allow more of them than without
    #[arg(long, value_name = "N", value_parser = count_to(1_000_000))]
    patience: Option<usize>,
    /// Examples (of squad: windows) a step
    #[arg(long, default_value_t = 32, value_parser = count_to(1 << 20))]
    batch_size: usize,
    #[arg(long, help = format!(
        "The highest rate, of the head; it falls to 0 at the last step [default: {}]",
        defaults_by_task(|defaults| format!("{:e}", defaults.learning_rate))
    ))]
    learning_rate: Option<f64>,
    /// Share of the steps during which the learning rate rises
    #[arg(long, default_value_t = 0.1)]
    warmup: f64,
    /// Factor on the learning rate from a layer to the one below it
    #[arg(long, default_value_t = 0.8)]
    layerwise_lr_decay: f64,
    /// Draw so many layers from the top anew: those of a young discriminator know little but its own task
    /// (Zhang et al., "Revisiting few-sample BERT fine-tuning", 2021)
    #[arg(long, value_name = "N", default_value_t = 0)]
    redraw_layers: usize,
    /// Share of the activations that are left out in training
    #[arg(long, default_value_t = 0.1)]
    dropout: f64,
    /// Of AdamW, on all parameters but biases and norms
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    #[arg(long, help = format!(
        "Tokens of a sequence at most [default: {}, or what the model can read]",
        defaults_by_task(|defaults| defaults.max_length)
    ))]
    max_length: Option<usize>,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Decides the head's first parameters, the order of the examples, and dropout
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Train so many times, with seeds that follow each other; mean and spread are reported
    #[arg(long, default_value_t = 1, value_parser = count_to(10_000))]
    trials: usize,
    /// Write what goes into metrics.jsonl to DIR/tensorboard, too: event files for TensorBoard
    #[arg(long)]
    tensorboard: bool,
    #[command(flatten)]
    task_options: TaskOptions,
    #[command(flatten)]
    prediction: PredictionOptions,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The columns of a table.
#[derive(Clone, Debug, clap::Args)]
pub struct ColumnArgs {
    /// Column of the example's id
    #[arg(long, value_name = "NAME")]
    id_column: Option<String>,
    /// Column of the (first) text, or of the question
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column of the second text; of the choices; of a tagged text's document
    #[arg(long, value_name = "NAME")]
    second_column: Option<String>,
    /// Column of the label, the score, or the spans
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
}

impl ColumnArgs {
    pub fn columns(&self) -> Columns {
        Columns {
            id: self.id_column.clone(),
            first: self.text_column.clone(),
            second: self.second_column.clone(),
            label: self.label_column.clone(),
        }
    }
}

/// Examples under which more epochs are the default.
const FEW: u64 = 1000;

impl Args {
    fn init(&self) -> Result<Init> {
        if self.init.as_os_str() != "none" {
            if self.like.is_some() || self.preset.is_some() {
                bail!("--like and --preset go with --init none; the sizes are those of --init")
            }
            return Ok(Init::Pretrained(self.init.clone()));
        }
        match (&self.like, &self.preset) {
            (Some(path), _) => Ok(Init::Like(path.clone())),
            (None, Some(name)) => Ok(Init::Preset(name.clone())),
            (None, None) => {
                bail!("--init none needs the sizes: --like RUN, or --preset NAME with --tokenizer M")
            }
        }
    }

    fn source(&self, path: &std::path::Path, selection: &Option<Selection>, limit: Option<usize>) -> Source {
        let (columns, selection) = (self.columns.columns(), selection.clone());
        Source { path: path.to_owned(), columns, selection, limit }
    }

    /// Refuses numbers out of their range.
    fn check(&self) -> Result<()> {
        for (name, value, holds, allowed) in [
            ("--warmup", self.warmup, (0.0..=1.0).contains(&self.warmup), "from 0 to 1"),
            ("--dropout", self.dropout, (0.0..1.0).contains(&self.dropout), "from 0 to below 1"),
            ("--layerwise-lr-decay", self.layerwise_lr_decay, self.layerwise_lr_decay > 0.0, "above 0"),
            ("--weight-decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more"),
            (
                "--learning-rate",
                self.learning_rate.unwrap_or(1.0),
                self.learning_rate.is_none_or(|rate| rate > 0.0),
                "above 0",
            ),
        ] {
            if !holds {
                bail!("{name} is {value}; it must be {allowed}")
            }
        }
        if self.patience.is_some() && self.dev.is_none() && self.hold_out.is_none() {
            bail!("--patience watches the score of a dev set: give --dev or --hold-out")
        }
        Ok(())
    }

    fn options(&self) -> Result<Options> {
        self.check()?;
        let defaults = self.task.defaults();
        Ok(Options {
            init: self.init()?,
            tokenizer: self.tokenizer.clone(),
            lower: self.no_lower.then_some(false),
            train: self.source(&self.train, &self.train_where, self.train_limit),
            dev: self.dev.as_ref().map(|path| self.source(path, &self.dev_where, self.dev_limit)),
            redraw_layers: self.redraw_layers,
            hold_out: self.hold_out,
            out: self.out.clone(),
            description: self.task_options.describe(self.task)?,
            max_length: self.max_length,
            fit: FitOptions {
                precision: self.precision.precision,
                epochs: self.epochs.unwrap_or(defaults.epochs),
                batch_size: self.batch_size,
                learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
                warmup: self.warmup,
                layer_decay: self.layerwise_lr_decay,
                dropout: self.dropout,
                weight_decay: self.weight_decay,
                max_length: 0,
                seed: self.seed,
            },
            few_epochs: self.epochs.is_none().then_some((FEW, 10)),
            prediction: self.prediction.settings(self.task)?,
            trials: self.trials,
            patience: self.patience,
            device: self.device.device.clone(),
            threads: self.device.threads,
            memory_limit: self.memory.bytes(),
            tensorboard: self.tensorboard,
        })
    }
}

/// The command line with what `--hparams` of `finetune` means written out, and what is to be said of that.
pub fn spelled_out(arguments: Vec<OsString>) -> Result<(Vec<OsString>, Vec<String>)> {
    let text = |index: usize| arguments.get(index).and_then(|word| word.to_str());
    // Before the command there may be options of all commands.
    let command = (1..arguments.len()).find(|&index| text(index).is_none_or(|word| !word.starts_with("--")));
    let command = command.unwrap_or(arguments.len());
    let task = (command + 1..arguments.len()).filter_map(text).find(|word| registry::find(word).is_some());
    let (Some("finetune"), Some(task)) = (text(command), task) else { return Ok((arguments, Vec::new())) };
    let place =
        arguments.iter().position(|word| word.to_str().is_some_and(|word| word.starts_with("--hparams")));
    let given = match place.and_then(|place| Some((place, text(place)?))) {
        Some((place, "--hparams")) => text(place + 1),
        Some((_, word)) => word.strip_prefix("--hparams="),
        None => None,
    };
    let Some(given) = given else { return Ok((arguments, Vec::new())) };
    let translated = hparams::translate(given, task).context("--hparams")?;
    let said = |option: &str| {
        let mut words = arguments.iter().filter_map(|word| word.to_str());
        words.any(|word| word.split('=').next() == Some(option))
    };
    let more = translated.options.iter().filter(|(option, _)| !said(option));
    let more: Vec<OsString> = more.map(|(option, value)| format!("{option}={value}").into()).collect();
    Ok((arguments.into_iter().chain(more).collect(), translated.notes))
}

pub fn run(args: Args) -> Result<()> {
    let options = args.options()?;
    let stop = interruptible("finishing the step")?;
    let report = run::run(&options, stop)?;
    args.output.show_afterwards(&report);
    if report.interrupted {
        return Err(Interrupted(kept(&report, &options)).into());
    }
    if args.trials > 1 {
        for (name, mean) in &report.mean {
            let spread = report.spread.get(name).map_or(String::new(), |spread| format!(" ± {spread}"));
            note!("{name}: {mean}{spread} over {} trials", args.trials);
        }
        let (out, first) = (options.out.display(), quoted(&options.out.join("trial-1")));
        note!("done: the models are in {out}, a directory each; next: inazuma predict --model {first}");
    } else if let Some(trial) = report.trials.first() {
        let scores: Vec<String> =
            trial.scores.iter().map(|(name, score)| format!("{name} {score}")).collect();
        let out = options.out.display();
        note!("done: the model of epoch {} is in {out}  {}", trial.best_epoch, scores.join(", "));
        note!("next: inazuma predict --model {}", quoted(&options.out));
    }
    Ok(())
}

/// What is there of an interrupted training. There is nothing to go on from: Adam's moments are not kept.
fn kept(report: &Report, options: &Options) -> String {
    let place = match (options.trials, report.trials.len()) {
        (1, _) => options.out.clone(),
        (_, begun) => options.out.join(format!("trial-{begun}")),
    };
    let place = place.display();
    match report.trials.last().map(|trial| trial.best_epoch) {
        Some(epoch) if epoch > 0 => format!(
            "interrupted; the model is in {place}: that of epoch {epoch}, the best so far; training does not go on from it"
        ),
        _ => format!(
            "interrupted in the first epoch; the model is in {place} as it was then; training does not go on from it"
        ),
    }
}
