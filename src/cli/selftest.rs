//! `inazuma selftest`: is this device to be trusted?

use anyhow::{Result, bail};

use crate::bench::selftest;
use crate::device::{Device, DeviceChoice};

use super::configuration::{PRECISIONS, precision};

/// Compare every kernel, of pre-training and of fine-tuning, with the CPU reference on this device
///
/// Each op of small models with awkward sizes runs on the device from the inputs that the f64 reference has, its
/// outputs poisoned before, with each of its kernels that fits the adapter.
#[derive(clap::Args)]
#[command(after_help = "Example: inazuma selftest --device gpu")]
pub struct Args {
    /// auto, cpu, gpu, gpu:N, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// f32; or f16: activations in half precision
    #[arg(long, default_value = "f32", value_parser = PRECISIONS)]
    precision: String,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let report = selftest::run(&Device::new(&args.device, 0)?, precision(&args.precision))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.device);
        println!("{:<44} {:>8} {:>10} {:>10}", "op, strategy", "compared", "error", "ids differ");
        for (name, line) in &report.lines {
            let verdict = if line.passed { "ok" } else { "FAILED" };
            println!(
                "{name:<44} {:>8} {:>10.1e} {:>9.2}% {verdict} {}",
                line.compared,
                line.worst,
                100.0 * line.integers,
                if line.passed { "" } else { &line.worst_at }
            );
        }
    }
    if !report.passed {
        let failed: Vec<&str> =
            report.lines.iter().filter(|(_, line)| !line.passed).map(|(name, _)| name.as_str()).collect();
        bail!("{}: wrong results of {}; do not train on this device", report.device, failed.join("; "));
    }
    eprintln!("all {} kernels agree with the reference", report.lines.len());
    Ok(())
}
