//! `inazuma parity`: one training step from a golden, compared number by number.

use std::path::PathBuf;

use anyhow::Result;

use crate::device::DeviceChoice;
use crate::train::parity;

use super::configuration::{PRECISIONS, precision};

/// Run one training step from a golden's parameters, moments and batch, and compare everything it holds.
///
/// Dropout is 0 and the samples are the golden's. Prints the largest error of each group of tensors and
/// exits 1 above the tolerances.
#[derive(clap::Args)]
#[command(after_help = "Example: inazuma parity ../shared/goldens/micro.safetensors --device cpu")]
pub struct Args {
    /// A golden: safetensors with the step's inputs and expected outputs
    fixture: PathBuf,
    /// auto, cpu, gpu, gpu:N, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Sequences per micro-batch; 0 means all at once
    #[arg(long, default_value_t = 0)]
    micro_batch: usize,
    /// f32; or f16: activations in half precision, on GPUs that have it, with tolerances of its own
    #[arg(long, default_value = "f32", value_parser = PRECISIONS)]
    precision: String,
    /// Store what was computed, under the golden's names
    #[arg(long)]
    write: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let options = parity::Options {
        device: args.device,
        threads: args.threads,
        micro_batch: args.micro_batch,
        precision: precision(&args.precision),
        write: args.write,
    };
    let report = parity::run(&args.fixture, &options)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    match report.first_failure() {
        None => Ok(()),
        Some(failure) => anyhow::bail!("{}: {failure}", args.fixture.display()),
    }
}
