//! `inazuma estimate`: what a run takes, before it begins.

use anyhow::Result;

use crate::bench::estimate::speed::{Network, Speed};
use crate::bench::estimate::{self, Asked, Options, SHARE};
use crate::store::WeightedPath;
use crate::tensor::Precision;

use super::arguments::{DeviceArgs, MemoryArgs, OutputArgs, count_to, precisions};
use super::configuration::Configuration;

/// Ranks at most: beyond any machine.
const MOST_RANKS: u64 = 1 << 16;

/// Say what a run will take on a device: memory, time, disk, passes over the text
///
/// Some steps are measured where that takes no longer than about 20 seconds (--measure true: in any case; false: never);
/// else the time is told from what there is to compute and a share (--share) of the peak that the device is measured to
/// reach. The numbers hold for this device, driver and version; steps of other lengths are taken to be as fast.
///
/// With --ranks N the same run is predicted on N such devices, one process each, which share every batch: nothing of it is
/// measured (docs/ranks.md has the formulas).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma estimate --preset small --steps 1000000
  inazuma estimate --preset base --device gpu --store wiki.store --json
  inazuma estimate --preset small --device cpu --measure false
  inazuma estimate --preset small --device cpu --ranks 8 --network 25G --step-seconds 0.13")]
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
    /// What a step of the whole batch takes on one device, measured elsewhere (of the phase with most to compute)
    #[arg(long, value_name = "SECONDS", value_parser = positive, conflicts_with_all = ["measure", "share"])]
    step_seconds: Option<f64>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    output: OutputArgs,
    // Last: its heading would go on over what follows.
    #[command(flatten)]
    ranks: RankArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Several ranks")]
struct RankArgs {
    /// Processes with a device each that share every batch (mpirun -n N inazuma pretrain)
    #[arg(long, value_name = "N", value_parser = count_to(MOST_RANKS))]
    ranks: Option<usize>,
    /// Ranks of a node: they exchange through its memory, and share its link to the others [default: 1]
    #[arg(long, value_name = "K", value_parser = count_to(MOST_RANKS), requires = "ranks")]
    ranks_per_node: Option<usize>,
    /// A node's link to the others: bits a second as 25G, or bytes as 8GB/s; pcie: all ranks are on one node
    #[arg(long, value_name = "SPEED|pcie", default_value = "25G", requires = "ranks")]
    network: Network,
    /// How gradients are sent; parameters are f32
    #[arg(long, default_value = "f32", value_parser = precisions(), requires = "ranks")]
    reduce: Precision,
    /// Of a message, in microseconds [default: 30 between nodes, 1 on a node]
    #[arg(long, value_name = "MICROSECONDS", value_parser = not_negative, requires = "ranks")]
    latency: Option<f64>,
    /// Seconds that each micro-batch takes whatever is in it [default: by the launches of its ops; 0 on the processor]
    #[arg(long, value_name = "SECONDS", value_parser = not_negative, requires = "ranks")]
    overhead_seconds: Option<f64>,
    /// Between a device and its host [default: 25GB/s; on the processor, copies in memory]
    #[arg(long, value_name = "SPEED", requires = "ranks")]
    host_link: Option<Speed>,
    /// What a rank reads and writes in its host's memory, together [default: 16GB/s, at most a share of 200GB/s]
    #[arg(long, value_name = "SPEED", requires = "ranks")]
    host_memory: Option<Speed>,
}

impl RankArgs {
    fn asked(self) -> Option<Asked> {
        Some(Asked {
            ranks: self.ranks?,
            per_node: self.ranks_per_node,
            network: self.network,
            reduce: self.reduce,
            latency: self.latency.map(|latency| 1e-6 * latency),
            host_link: self.host_link,
            host_memory: self.host_memory,
            overhead_seconds: self.overhead_seconds,
        })
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|&share| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| "a share above 0 and at most 1".into())
}

/// Seconds that rates can be divided by.
fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|&number| number >= 1e-9).ok_or_else(|| "a number of at least 1e-9".into())
}

fn not_negative(text: &str) -> Result<f64, String> {
    // A limit keeps sums finite.
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1e12).contains(number));
    number.ok_or_else(|| "a number of at least 0".into())
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
        step_seconds: args.step_seconds,
        ranks: args.ranks.asked(),
    })?;
    args.output.show(&estimate, |out| Ok(write!(out, "{estimate}")?))
}
