//! `inazuma selftest`: is this device to be trusted?

use std::io::Write;

use anyhow::{Result, bail};

use crate::bench::selftest;

use super::arguments::{DeviceArgs, OutputArgs, PrecisionArgs};

/// Compare every kernel, of pre-training and of fine-tuning, with the CPU reference on this device
///
/// Each op of small models with awkward sizes runs on the device from the inputs that the f64 reference has, its
/// outputs poisoned before, with each of its kernels that fits the adapter.
#[derive(clap::Args)]
#[command(after_help = "Example: inazuma selftest --device gpu")]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let report = selftest::run(&args.device.open()?, args.precision.precision)?;
    args.output.show(&report, |out| print(out, &report))?;
    if !report.passed {
        let failed: Vec<&str> =
            report.lines.iter().filter(|(_, line)| !line.passed).map(|(name, _)| name.as_str()).collect();
        bail!("{}: wrong results of {}; do not train on this device", report.device, failed.join("; "));
    }
    note!("all {} kernels agree with the reference", report.lines.len());
    Ok(())
}

fn print(out: &mut dyn Write, report: &selftest::Report) -> Result<()> {
    writeln!(out, "{}", report.device)?;
    writeln!(out, "{:<44} {:>8} {:>10} {:>10}", "op, strategy", "compared", "error", "ids differ")?;
    for (name, line) in &report.lines {
        let verdict = if line.passed { "ok" } else { "FAILED" };
        writeln!(
            out,
            "{name:<44} {:>8} {:>10.1e} {:>9.2}% {verdict} {}",
            line.compared,
            line.worst,
            100.0 * line.integers,
            if line.passed { "" } else { &line.worst_at }
        )?;
    }
    Ok(())
}
