//! `inazuma config`: a configuration with the meaning of its keys.

use std::path::PathBuf;

use anyhow::Result;

use crate::train::annotated::Annotated;

use super::arguments::OutputArgs;
use super::configuration::Configuration;

/// Print a configuration: each key with its meaning, kind and default
///
/// Of a run, or of a preset with changes as `pretrain` takes them. What differs from the preset is marked; of a run,
/// which does not keep the name, the preset with the fewest differences is taken, unless --preset names one; of --config
/// FILE the one that its first line names, where this command printed it. The output can be given to `pretrain --config`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma config run --changed
  inazuma config --preset small --set steps=500_000 > my.toml")]
pub struct Args {
    /// A run or one of its checkpoints
    #[arg(value_name = "RUN", conflicts_with_all = ["config", "hparams"])]
    run: Option<PathBuf>,
    #[command(flatten)]
    configuration: Configuration,
    /// Only keys that differ from the preset
    #[arg(long)]
    changed: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let (mut annotated, notes) = Annotated::of(args.run.as_deref(), &args.configuration.sources())?;
    notes.iter().for_each(|note| note!("{note}"));
    if args.changed {
        annotated.only_changed()?;
    }
    args.output.show(&annotated, |out| Ok(out.write_all(annotated.to_toml().as_bytes())?))
}
