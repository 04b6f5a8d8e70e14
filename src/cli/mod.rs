//! The command line: one thin file per subcommand.
//!
//! Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage (clap's, and of `--set`), 130 interrupted after saving.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::train::config::WrongUsage;

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
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Config(config::Args),
    Completions(manual::CompletionsArgs),
    Devices(devices::Args),
    Estimate(estimate::Args),
    Eval(eval::Args),
    Export(export::Args),
    Extract(extract::Args),
    Finetune(Box<finetune::Args>),
    Import(import::Args),
    Man(manual::ManArgs),
    Tokenizer(tokenizer::Args),
    Parity(parity::Args),
    Plot(plot::Args),
    Predict(predict::Args),
    Prepare(prepare::Args),
    Pretrain(pretrain::Args),
    Sample(sample::Args),
    Report(report::Args),
    Score(score::Args),
    Selftest(selftest::Args),
    Store(store::Args),
    Tensorboard(tensorboard::Args),
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

/// Threads of a command whose user names no number.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Parses the arguments, runs the command, and turns its result into the exit status.
pub fn main() -> ExitCode {
    // Mesa's layer that sorts Vulkan devices asks the desktop first, and complains on stderr where there is
    // none (servers, containers). We choose by type and name ourselves.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    let arguments = match finetune::spelled_out(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return report(&error),
    };
    let result = match Cli::parse_from(arguments).command {
        Command::Bench(args) => bench::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Devices(args) => devices::run(args),
        Command::Estimate(args) => estimate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Export(args) => export::run(args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Import(args) => import::run(args),
        Command::Man(args) => manual::man(args),
        Command::Extract(args) => extract::run(args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Parity(args) => parity::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Pretrain(args) => pretrain::run(args),
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
        Err(error) => report(&error),
    }
}

/// Whether an error is that the reader of our output is gone.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Interrupted>().is_some() {
        note!("inazuma: {error}");
        return ExitCode::from(130);
    }
    // A closed pipe on stdout (`inazuma … | head`) is the reader's choice, not an error of ours.
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}").replace('\n', " ");
    note!("inazuma: error: {line}");
    if error.downcast_ref::<WrongUsage>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
