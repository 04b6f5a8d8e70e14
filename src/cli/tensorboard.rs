//! `inazuma tensorboard`: event files of a run that has written none.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::train::events::FOLDER;
use crate::view::recorded::Recorded;
use crate::view::tensorboard::convert;

/// Event files for TensorBoard of a run, or of a fine-tuned model, that was made without --tensorboard
///
/// The run is left as it is. The hours that events tell are those that steps took, before the run's last line.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma tensorboard run --out events/run
  tensorboard --logdir events")]
pub struct Args {
    /// What `pretrain` or `finetune` wrote
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Directory of the event files [default: RUN/tensorboard]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let run = Recorded::open(&args.run)?;
    let lines = run.metrics().len() + run.evaluations().len();
    ensure!(lines > 0, "{}: there are no metrics yet", args.run.display());
    let out = args.out.unwrap_or_else(|| args.run.join(FOLDER));
    ensure!(!out.is_file(), "--out: {} is a file; name a directory for the event files", out.display());
    let events = convert(&run, &out)?;
    note!("{}: {events} events; show them with: tensorboard --logdir {}", out.display(), out.display());
    Ok(())
}
