//! `inazuma estimate`: what a run takes, before it begins.

use anyhow::Result;

use crate::bench::estimate::{self, Options, SHARE};
use crate::store::WeightedPath;

use super::arguments::{DeviceArgs, MemoryArgs, OutputArgs};
use super::configuration::Configuration;

/// Say what a run will take on a device: memory, time, disk, passes over the text
///
/// Some steps are measured where that takes no longer than about 20 seconds (--measure true: in any case; false: never);
/// else the time is told from what there is to compute and a share (--share) of the peak that the device is measured to
/// reach. The numbers hold for this device, driver and version; steps of other lengths are taken to be as fast.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma estimate --preset small --steps 1000000
  inazuma estimate --preset base --device gpu --store wiki.store --json
  inazuma estimate --preset small --device cpu --measure false")]
pub struct Args {
    #[command(flatten)]
    configuration: Configuration,
    /// Steps of the run: --set steps=N
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// What would be trained on: tells epochs, and measures with real text
    #[arg(long, value_name = "STORE[:WEIGHT]")]
    store: Vec<WeightedPath>,
    /// Measure steps, or never do [default: where it takes no longer than about 20 seconds]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    measure: Option<bool>,
    /// Share of the measured peak that is assumed where steps are not measured
    #[arg(long, default_value_t = SHARE, value_name = "SHARE", value_parser = share)]
    share: f64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|&share| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| "a share above 0 and at most 1".into())
}

pub fn run(args: Args) -> Result<()> {
    let mut sources = args.configuration.sources();
    sources.set.extend(args.steps.map(|steps| format!("steps={steps}")));
    let estimate = estimate::run(&Options {
        sources,
        stores: args.store,
        device: args.device.device,
        threads: args.device.threads,
        memory_limit: args.memory.bytes(),
        measure: args.measure,
        share: args.share,
    })?;
    args.output.show(&estimate, |out| Ok(write!(out, "{estimate}")?))
}
