//! The command line: one thin file per subcommand.
//!
//! Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage (clap's, and of `--set`), 130 interrupted after saving.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use tracing::Level;

use crate::note::{self, Verbosity};
use crate::ranks::{self, Given, Ranks, Together};

mod answer_table;
mod arguments;
mod bench;
mod config;
mod configuration;
mod devices;
mod estimate;
mod eval;
mod eval_pretrain;
mod export;
mod extract;
mod finetune;
mod import;
mod manual;
mod parity;
mod plot;
mod predict;
mod predict_ids;
mod prepare;
mod pretrain;
mod progress;
mod report;
mod sample;
mod score;
mod selftest;
mod store;
mod tasks;
mod tensorboard;
mod tokenizer;
mod watch;

#[derive(Parser)]
#[command(name = "inazuma", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say nothing on stderr but warnings and errors
    #[arg(long, global = true, conflicts_with = "verbose", help_heading = "What is said on stderr")]
    quiet: bool,
    /// Say more on stderr, with the time of each line
    #[arg(long, global = true, help_heading = "What is said on stderr")]
    verbose: bool,
}

impl Cli {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Completions(manual::CompletionsArgs),
    Config(config::Args),
    Devices(devices::Args),
    Estimate(estimate::Args),
    Eval(eval::Args),
    Export(export::Args),
    Extract(extract::Args),
    Finetune(Box<finetune::Args>),
    Import(import::Args),
    Man(manual::ManArgs),
    Parity(parity::Args),
    Plot(plot::Args),
    Predict(predict::Args),
    Prepare(prepare::Args),
    Pretrain(pretrain::Args),
    Report(report::Args),
    Sample(sample::Args),
    Score(score::Args),
    Selftest(selftest::Args),
    Store(store::Args),
    Tensorboard(tensorboard::Args),
    Tokenizer(tokenizer::Args),
    Watch(watch::Args),
}

/// A run that was interrupted by the user and has saved what it had: exit status 130, not a failure.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Parses the arguments, runs the command, and turns its result into the exit status.
pub fn main() -> ExitCode {
    // Mesa's layer that sorts Vulkan devices asks the desktop first, and complains on stderr where there is
    // none (servers, containers). We choose by type and name ourselves.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    let (arguments, notes) = match finetune::spelled_out(std::env::args_os().collect()) {
        Ok(spelled_out) => spelled_out,
        Err(error) => return report(&error),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(said) => return say_before_ranks(&said),
    };
    let ranks = match ranks::start() {
        Ok(ranks) => ranks,
        Err(error) => return report(&error),
    };
    note::start(if ranks.is_first() { cli.verbosity() } else { Verbosity::Errors });
    let suits = arguments::attend(&ranks).and_then(|()| cli.command.suits(&ranks));
    if let Err(error) = suits {
        return report_of_rank(&error, &ranks);
    }
    notes.iter().for_each(|note| note!("--hparams: {note}"));
    let result = match cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Devices(args) => devices::run(args),
        Command::Estimate(args) => estimate::run(args),
        Command::Eval(args) => eval::run(args, &ranks),
        Command::Export(args) => export::run(args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Import(args) => import::run(args),
        Command::Man(args) => manual::man(args),
        Command::Extract(args) => extract::run(args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Parity(args) => parity::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Prepare(args) => prepare::run(args, &ranks),
        Command::Pretrain(args) => pretrain::run(args, &ranks),
        Command::Sample(args) => sample::run(args),
        Command::Report(args) => report::run(args),
        Command::Score(args) => score::run(args),
        Command::Selftest(args) => selftest::run(args),
        Command::Store(args) => store::run(args),
        Command::Tensorboard(args) => tensorboard::run(args),
        Command::Watch(args) => watch::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report_of_rank(&error, &ranks),
    }
}

/// What clap says, help or an error, before processes that were started together know of each other.
fn say_before_ranks(said: &clap::Error) -> ExitCode {
    let status = u8::try_from(said.exit_code()).unwrap_or(2);
    if ranks::started_as().is_some_and(|rank| rank > 0) {
        if status == 0 {
            return ExitCode::SUCCESS;
        }
        // Where the first one has the same to say, all are ended with it meanwhile. Else it is this one's alone.
        std::thread::sleep(UNTIL_THE_FIRST_HAS_SPOKEN);
    }
    let _ = said.print();
    ExitCode::from(status)
}

const UNTIL_THE_FIRST_HAS_SPOKEN: Duration = Duration::from_secs(2);

/// Of several ranks that end with the same line one says it; one that ends alone takes the others with it.
fn report_of_rank(error: &anyhow::Error, ranks: &Ranks) -> ExitCode {
    let together = error.is::<Together>() || error.is::<Interrupted>();
    match ranks.are_several() {
        true if together && !ranks.is_first() => status(error),
        true if !together => {
            report(&anyhow!("rank {}: {error:#}", ranks.rank()));
            ranks.abort();
            status(error)
        }
        _ => report(error),
    }
}

impl Command {
    /// Its name, where it divides its work among ranks, and what decides which rank does what. What else is given is compared
    /// where it is known what it comes to.
    fn divided(&self) -> Option<Given> {
        let name = |name: &str| Given::program().with("the command", name);
        match self {
            Command::Pretrain(args) => Some(args.given(name("pretrain"))),
            Command::Eval(args) => args.given(name("eval pretrain")),
            Command::Prepare(args) if args.is_divided() => Some(name("prepare")),
            _ => None,
        }
    }

    /// Fails where several ranks were started for what one process does, or for something else each.
    fn suits(&self, ranks: &Ranks) -> Result<()> {
        if !ranks.are_several() {
            return Ok(());
        }
        let divided = self.divided();
        let alone = || Given::program().with("the command", "for one process");
        ranks.given_alike(&divided.clone().unwrap_or_else(alone))?;
        if divided.is_some() {
            return Ok(());
        }
        Err(Together::new(format!(
            "{} processes were started, and only `pretrain`, `eval pretrain` and `prepare` of text divide their work among ranks",
            ranks.size()
        ))
        .into())
    }
}

/// Whether an error is that the reader of our output is gone.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Says how a command ended, whatever is wanted of the log.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() {
        note::say(Level::INFO, &format!("inazuma: {error}"));
        return status(error);
    }
    // A closed pipe on stdout (`inazuma … | head`) is the reader's choice, not an error of ours.
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}").replace('\n', " ");
    note::say(Level::ERROR, &format!("inazuma: error: {line}"));
    status(error)
}

fn status(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<Interrupted>() {
        130
    } else if ranks::is_usage(error) {
        2
    } else {
        1
    })
}
