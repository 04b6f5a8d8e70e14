//! `inazuma parity`: one training step from a golden, compared number by number.

use std::path::PathBuf;

use anyhow::Result;

use crate::train::parity;

use super::arguments::{DeviceArgs, OutputArgs, PrecisionArgs};

/// Run one training step from a golden's parameters, moments and batch, and compare everything it holds.
///
/// Dropout is 0 and the samples are the golden's. Prints the largest error of each group of tensors and
/// exits 1 above the tolerances.
#[derive(clap::Args)]
#[command(after_help = "Example: inazuma parity kernels-tests/goldens/pretrain.safetensors --device cpu")]
pub struct Args {
    /// A golden: safetensors with the step's inputs and expected outputs
    fixture: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Sequences per micro-batch; 0 means all at once
    #[arg(long, default_value_t = 0)]
    micro_batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Store what was computed, under the golden's names
    #[arg(long)]
    write: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let options = parity::Options {
        device: args.device.device,
        threads: args.device.threads,
        micro_batch: args.micro_batch,
        precision: args.precision.precision,
        write: args.write,
    };
    let report = parity::run(&args.fixture, &options)?;
    args.output.show(&report, |out| Ok(write!(out, "{report}")?))?;
    match report.first_failure() {
        None => Ok(()),
        Some(failure) => anyhow::bail!("{}: {failure}", args.fixture.display()),
    }
}
