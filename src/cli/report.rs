//! `inazuma report`: a run as a page.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::arguments::DeviceArgs;
use super::plot::of_locale;
use crate::train::sample::{self, Sampler};
use crate::view::plot::{Language, Options};
use crate::view::recorded::{Kind, Over, Recorded};
use crate::view::report::{self, Samples};

/// Write a page about a run: curves, scores, configuration, data, where time and memory go
///
/// One HTML file that asks nothing of the network; it is light or dark as the reader's system, and can be printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma report run --out run.html
  inazuma report run --out run.html --text text.txt
  inazuma report qa --out qa.html")]
pub struct Args {
    /// Directory of a run, or of a fine-tuned model
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where the page goes
    #[arg(long, value_name = "FILE.html", value_parser = page)]
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
    /// Lines to show the run's samples of [default: of its held-out store, where that is still there]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// A path that ends with what a page is.
fn page(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().map(|end| end.to_ascii_lowercase()) {
        Some(end) if end == "html" || end == "htm" => Ok(path),
        _ => Err("a page is .html or .htm".to_owned()),
    }
}

pub fn run(args: Args) -> Result<()> {
    let language = args.lang.unwrap_or_else(of_locale);
    let curves = Options { over: args.x, smooth: args.smooth, ..Options::plain(language) };
    let run = Recorded::open(&args.run)?;
    ensure!(
        run.kind == Kind::Pretraining || args.text.is_none(),
        "--text: {} is a fine-tuned model, whose page has no samples; `inazuma predict` uses it on a text",
        args.run.display()
    );
    let samples = match (samples(&run, &args), &args.text) {
        (Err(error), Some(_)) => return Err(error),
        (Err(error), None) => {
            warning!("note: the page has no samples: {error:#}");
            None
        }
        (Ok(samples), _) => samples,
    };
    report::write(&run, &curves, samples.as_ref(), &args.out)?;
    note!("wrote {}", args.out.display());
    Ok(())
}

/// What the networks make of a few texts; nothing where there is none, or no network for it.
fn samples(run: &Recorded, args: &Args) -> Result<Option<Samples>> {
    if run.kind == Kind::FineTuning {
        return Ok(None);
    }
    let texts = report::texts(&run.path, args.text.as_deref())?;
    if texts.is_empty() {
        return Ok(None);
    }
    let mut sampler = Sampler::open(&run.path, &sample::Options::default(), &args.device.open()?)?;
    Samples::draw(&mut sampler, &texts).map(Some).context("samples")
}
