//! `inazuma report`: a run as a page.

use std::path::PathBuf;

use anyhow::Result;

use super::plot::of_locale;
use crate::view::plot::{Language, Options};
use crate::view::recorded::{Over, Recorded};
use crate::view::report;

/// Write a page about a run: curves, scores, configuration, data, where time and memory go
///
/// One HTML file that asks nothing of the network; it is light or dark as the reader's system, and can be printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma report run --out run.html
  inazuma report model --out model.html")]
pub struct Args {
    /// Directory of a run, or of a fine-tuned model
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where the page goes
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
    /// What the curves are drawn over
    #[arg(long, value_enum, default_value = "steps")]
    x: Over,
    /// Exponential average of the curves, as of plot
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = super::plot::share)]
    smooth: f64,
    /// Of the curves' labels [default: that of the locale]
    #[arg(long, value_enum)]
    lang: Option<Language>,
}

pub fn run(args: Args) -> Result<()> {
    let curves = Options {
        quantities: Vec::new(),
        over: args.x,
        smooth: args.smooth,
        log: false,
        language: args.lang.unwrap_or_else(of_locale),
        title: None,
        size: None,
    };
    let run = Recorded::open(&args.run)?;
    report::write(&run, &curves, None, &args.out)?;
    note!("wrote {}", args.out.display());
    Ok(())
}
