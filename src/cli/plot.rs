//! `inazuma plot`: runs as a picture.

use std::path::PathBuf;

use anyhow::Result;

use crate::view::plot::{self, Language, Options};
use crate::view::recorded::{Over, Recorded};

/// Draw what runs have recorded: losses, accuracies, rates
///
/// A panel a quantity, a curve a run; scores of held-out text are rings on their run's curve. Of `finetune --trials` the
/// directory takes all trials. The runs may still be training.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma plot run --out run.png
  inazuma plot run-a run-b --out compared.svg --smooth 0.9 --x tokens
  inazuma plot run --quantities loss --log --size 640x400 --out loss.svg")]
pub struct Args {
    /// Directories of runs, or of fine-tuned models
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the picture goes: FILE.svg or FILE.png
    #[arg(long, value_name = "FILE", value_parser = picture)]
    out: PathBuf,
    /// What is drawn, by the names in metrics.jsonl [default: nine of pre-training; losses and scores of fine-tuning]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    quantities: Vec<String>,
    /// What is drawn over
    #[arg(long, value_enum, default_value = "steps")]
    x: Over,
    /// Exponential average, 0 to below 1: the share of what came before; the curve itself stays behind it
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    smooth: f64,
    /// Powers of ten upwards, where numbers are above 0 and no percentages
    #[arg(long)]
    log: bool,
    /// Width and height in pixels (PNG has twice as many)
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(u32, u32)>,
    /// Above everything
    #[arg(long)]
    title: Option<String>,
    /// Of the labels [default: that of the locale]
    #[arg(long, value_enum)]
    lang: Option<Language>,
}

/// A path that ends with what a picture can be.
fn picture(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().map(|end| end.to_ascii_lowercase()) {
        Some(end) if end == "svg" || end == "png" => Ok(path),
        _ => Err("a picture is .svg or .png".to_owned()),
    }
}

pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("from 0 to below 1".to_owned()),
    }
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text
        .split_once(['x', '×'])
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width, height)) if (100..=8000).contains(&width) && (100..=8000).contains(&height) => {
            Ok((width, height))
        }
        _ => Err("WIDTHxHEIGHT, each from 100 to 8000".to_owned()),
    }
}

/// The language that the locale asks for.
pub fn of_locale() -> Language {
    Language::of_locale(|name| std::env::var(name).ok())
}

pub fn run(args: Args) -> Result<()> {
    let options = Options {
        quantities: args.quantities,
        over: args.x,
        smooth: args.smooth,
        log: args.log,
        language: args.lang.unwrap_or_else(of_locale),
        title: args.title,
        size: args.size,
    };
    let runs = Recorded::open_all(&args.runs)?;
    plot::write(&runs, &options, &args.out)?.iter().for_each(|note| note!("{note}"));
    Ok(())
}
