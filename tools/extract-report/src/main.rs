//! `extract-report`: what `inazuma extract` keeps of a dump, and how fast it is.
//!
//!     cargo run --release -p extract-report -- text OUT --reference WIKIEXTRACTOR.jsonl.xz --show 20
//!     cargo run --release -p extract-report -- speed DUMP.xml.bz2 --repeat 50
//!
//! `text` compares the articles in OUT with those of another extractor, sentence by sentence, counts the lines that
//! have markup left, and looks for the texts in `visible.tsv`, which a reader sees and WikiExtractor drops.
//! `speed` measures the whole extraction against decompression alone.

mod align;
mod articles;
mod compare;
mod markup;
mod speed;
mod visible;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;

/// What `inazuma extract` keeps of a dump, beside another extractor, and how fast it is
#[derive(Parser)]
#[command(name = "extract-report")]
enum Command {
    /// Compare the text with another extractor's, and look for markup left
    Text(Text),
    /// Measure the extraction against decompression alone, alternated
    Speed(speed::Args),
}

#[derive(clap::Args)]
struct Text {
    /// A directory that `inazuma extract` wrote (jsonl)
    #[arg(value_name = "OUT")]
    extracted: PathBuf,
    /// JSON lines with `title` and `text` of another extractor, plain or .xz
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Show up to N missing sentences of each cause, and N lines with markup
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,
    /// Do not look for the texts of visible.tsv, which are those of the 206 Japanese country articles
    #[arg(long)]
    no_visible: bool,
    /// Exit with status 1 below this share of sentences present, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    require: f64,
}

fn main() {
    let result = match Command::parse() {
        Command::Text(args) => text(&args),
        Command::Speed(args) => speed::run(&args),
    };
    if let Err(error) = result {
        // Whoever reads may stop when it has seen enough: `… | head`.
        let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref::<std::io::Error>().is_some_and(closed) {
            return;
        }
        eprintln!("extract-report: {error:#}");
        std::process::exit(1);
    }
}

fn text(args: &Text) -> Result<()> {
    let ours = articles::read_directory(&args.extracted)?;
    let reference = args.reference.as_deref().map(articles::read_file).transpose()?;
    let mut enough = true;
    let mut out = std::io::stdout().lock();
    if let Some(reference) = &reference {
        let report = compare::compare(&ours, reference);
        report.print(args.show, &mut out)?;
        enough = report.percent() >= args.require;
    }
    let clean = markup::report(&ours, args.show, &mut out)?;
    let seen = args.no_visible || visible::report(&ours, reference.as_ref(), &mut out)?;
    ensure!(enough, "fewer than {} % of the sentences are present", args.require);
    ensure!(clean, "more than one line in 2,000 has markup left");
    ensure!(seen, "texts of visible.tsv are missing");
    Ok(())
}
