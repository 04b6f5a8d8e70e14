//! `inazuma watch`: runs on the terminal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::note::takes_colour;
use crate::view::recorded::Over;
use crate::view::watch::{Dashboard, Look, watch};

use super::arguments::ended_by_signal;

/// Watch runs on the terminal: curves, rates, memory, time left, the last lines
///
/// Only reads their directories, so it may run beside the training, over ssh too, or later. Keys: q, Esc or Ctrl-C leave;
/// arrows show other quantities; g shows one or all; x draws over steps, tokens or hours; 1 to 9 hide a run.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma watch run
  inazuma watch run-a run-b
  inazuma watch run --once --width 120 --height 40")]
pub struct Args {
    /// What `pretrain` or `finetune` writes; several beside each other
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Seconds from one look at the directories to the next
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    interval: f64,
    /// What curves are drawn over
    #[arg(long = "x", value_enum, default_value_t = Over::Steps, value_name = "X")]
    over: Over,
    /// Print the dashboard once, as text, and end
    #[arg(long)]
    once: bool,
    /// With --once: columns
    #[arg(long, default_value_t = 80, requires = "once", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    width: u16,
    /// With --once: lines
    #[arg(long, default_value_t = 24, requires = "once", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    height: u16,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.1 to 3600".into())
}

/// Whether the locale's characters are those of Unicode.
fn is_unicode() -> bool {
    let named = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
    let locale = named.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
    cfg!(windows) || locale.contains("utf-8") || locale.contains("utf8")
}

pub fn run(args: Args) -> Result<()> {
    let mut dashboard = Dashboard::open(&args.runs)?;
    dashboard.over(args.over);
    let unicode = is_unicode();
    if args.once {
        let text = dashboard.text(Look { color: false, unicode }, args.width, args.height)?;
        let mut out = std::io::stdout().lock();
        return out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot write to standard output");
    }
    ensure!(
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        "watch needs a terminal; --once prints the dashboard as text"
    );
    let color = takes_colour();
    let interval = Duration::from_secs_f64(args.interval);
    watch(&mut dashboard, Look { color, unicode }, interval, ended_by_signal()?)
}
