//! `inazuma sample`: what the two networks of a run make of a text.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::builder::TypedValueParser;
use serde::Serialize;

use crate::files::text_of_stdin;
use crate::tasks::data::read_text;
use crate::train::sample::{Options, Sample, Sampler};
use crate::view::sample::{Style, write};

use super::arguments::{DeviceArgs, OutputArgs, count_to};

/// Show what a run's generator proposes in a text, and how its discriminator judges each token
///
/// Masks the text as pre-training does, draws replacements from the generator, and has the discriminator read the
/// result. In a terminal tokens are coloured by the probability that they were replaced; elsewhere, and with NO_COLOR,
/// a table has the same.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma sample run --text 稲妻は雷に伴う光である。
  inazuma sample run --file text.txt --mask-probability 0.3 --count 3 --top 5
  inazuma sample run --step 10000 --text 稲妻は雷に伴う光である。 --json")]
pub struct Args {
    /// A run, a checkpoint, or what `import` wrote with a generator
    #[arg(value_name = "RUN_OR_DIR")]
    run: PathBuf,
    /// The text itself
    #[arg(long, value_name = "T", required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,
    /// File of the text; - reads stdin
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
    /// The checkpoint of this step, instead of the newest
    #[arg(long, visible_alias = "checkpoint", value_name = "N")]
    step: Option<u64>,
    /// Decides what is masked and drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mask so many times, with seeds that follow each other
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = count_to(1000))]
    count: usize,
    /// Share of the tokens to mask [default: the run's]
    #[arg(long, value_name = "P", value_parser = probability)]
    mask_probability: Option<f64>,
    /// Of each masked token, tell so many of the likeliest proposals
    #[arg(long, default_value_t = 3, value_name = "K", value_parser = clap::value_parser!(u16).range(0..=100).map(usize::from))]
    top: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn probability(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..1.0).contains(share) && *share > 0.0);
    share.ok_or_else(|| "must be a number above 0, below 1".into())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    step: u64,
    mask_probability: f64,
    temperature: f32,
    samples: Vec<Sample>,
}

pub fn run(args: Args) -> Result<()> {
    let text = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => text_of_stdin("the text")?,
        (None, Some(path)) => read_text(path)?,
        (None, None) => bail!("there is no text: give --text or --file"),
    };
    ensure!(!text.trim().is_empty(), "the text is empty; there is nothing to mask");
    let options = Options { step: args.step, mask_probability: args.mask_probability, top: args.top };
    let mut sampler = Sampler::open(&args.run, &options, &args.device.open()?)?;
    let mut samples = Vec::new();
    for number in 0..args.count as u64 {
        samples.extend(sampler.sample(&text, args.seed.wrapping_add(number))?);
    }
    let report = Report {
        step: sampler.step,
        mask_probability: sampler.mask_probability,
        temperature: sampler.temperature,
        samples,
    };
    args.output.show(&report, |out| {
        let style = Style::of(std::io::stdout().is_terminal());
        let sequences = report.samples.iter().map(|sample| sample.sequence).max().unwrap_or(1);
        report.samples.iter().enumerate().try_for_each(|(number, sample)| {
            if number > 0 {
                writeln!(out)?;
            }
            write(out, sample, report.step, sequences, style)
        })
    })
}
