//! `inazuma pretrain`: a token store becomes a pre-trained model.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::device::DeviceChoice;
use crate::store::WeightedPath;
use crate::train::run::{self, Options};

use super::Interrupted;
use super::configuration::Configuration;

/// Pre-train ELECTRA on a token store
///
/// The configuration is the preset's, changed by --config, then --hparams, then --set. RUN/config.toml holds
/// all of it and can be given to --config. Ctrl-C saves a checkpoint first; --resume goes on from the last.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma pretrain --store wiki.store --out run --preset small
  inazuma pretrain --store wiki.store --out run --resume
  inazuma pretrain --store wiki.store:0.7 --store books.store:0.3 --out run
  inazuma pretrain --preset small --explain")]
pub struct Args {
    /// What `prepare` wrote; several, as A.store:0.7, are mixed by weight
    #[arg(long, required_unless_present = "explain", value_name = "STORE[:WEIGHT]")]
    store: Vec<WeightedPath>,
    /// Directory of the run; must be empty or new unless --resume
    #[arg(long, value_name = "RUN", required_unless_present = "explain")]
    out: Option<PathBuf>,
    #[command(flatten)]
    configuration: Configuration,
    /// auto, cpu, gpu, gpu:N, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Go on from the last checkpoint of RUN
    #[arg(long)]
    resume: bool,
    /// Begin with the parameters of another run or checkpoint of the same sizes and tokenizer
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Print the plan of a step (ops, shapes, memory by role, FLOPs) and stop
    #[arg(long)]
    explain: bool,
    /// Show by op where the time of a few steps goes, then go on
    #[arg(long)]
    profile: bool,
    /// Held-out text to evaluate on, at the end and every `eval_every` steps
    #[arg(long, value_name = "STORE")]
    eval_store: Option<PathBuf>,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(args: Args) -> Result<()> {
    let options = Options {
        stores: args.store,
        out: args.out.unwrap_or_default(),
        sources: args.configuration.sources(),
        device: args.device,
        threads: args.threads,
        resume: args.resume,
        init: args.init,
        eval_store: args.eval_store,
        profile: args.profile,
    };
    if args.explain {
        let (text, summary) = run::explain(&options)?;
        match args.json {
            true => println!("{}", serde_json::to_string_pretty(&summary)?),
            false => print!("{text}"),
        }
        return Ok(());
    }
    let on_interrupt = || {
        // Who asks twice does not want to wait for the step.
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("finishing the step and saving; Ctrl-C again stops at once");
    };
    ctrlc::set_handler(on_interrupt).context("cannot watch for Ctrl-C")?;
    let report = run::run(&options, &STOP)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    if report.interrupted {
        let message = format!("interrupted after step {}, saved in {}", report.step, options.out.display());
        return Err(Interrupted(message).into());
    }
    if let Some(metrics) = report.metrics {
        eprintln!("done: {} steps, {} tokens, loss {:.4}", report.step, report.tokens, metrics.quality.loss);
    }
    Ok(())
}
