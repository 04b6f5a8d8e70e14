//! `inazuma extract`: MediaWiki dumps into articles of plain text.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

use super::arguments::{OutputArgs, ThreadArgs};
use super::progress::Reporter;
use crate::corpus::{self, Format, Headings, Italics, Manifest, Settings, Style};

/// Set by Ctrl-C; a signal handler can reach nothing else.
static STOP: AtomicBool = AtomicBool::new(false);

/// Extract the articles of MediaWiki XML dumps as plain text
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  inazuma extract jawiki-latest-pages-articles-multistream.xml.bz2 --out articles

DIR gets articles-00000.jsonl and so on, one {\"id\",\"title\",\"text\"} a line, and at last manifest.json.
Damaged or truncated dumps: what can be read is kept, each gap is named with its byte offset, the manifest says
\"complete\": false and the exit status is 1 (0 with --allow-truncated).")]
pub struct Args {
    /// Dumps: .xml or .xml.bz2 (single or multistream), UTF-8; `-` reads standard input
    #[arg(required = true, value_name = "DUMP")]
    dumps: Vec<PathBuf>,
    /// Directory for the articles and manifest.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// jsonl: one object a line; text: a paragraph a line, a blank line after each article
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Skip articles of fewer characters
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_chars: usize,
    /// Headings of sections with text: drop them, or keep each on a line of its own
    #[arg(long, value_enum, default_value = "drop")]
    headings: Headings,
    /// Text in italics: as it is, or between "
    #[arg(long, value_enum, default_value = "plain")]
    italics: Italics,
    /// Exit with status 0 although a dump is truncated or damaged
    #[arg(long)]
    allow_truncated: bool,
    /// Replace a complete extraction in DIR (an incomplete one is always replaced)
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the extraction and reports it.
///
/// # Errors
/// Whatever [`corpus::extract`] refuses; a dump with unreadable parts, unless `--allow-truncated`.
pub fn run(args: Args) -> Result<()> {
    let settings = Settings {
        dumps: args.dumps,
        out: args.out,
        format: args.format,
        threads: args.threads.count(),
        min_chars: args.min_chars,
        style: Style { headings: args.headings, italics: args.italics },
        file_bytes: 64 << 20,
        force: args.force,
    };
    // Where a handler is installed already, Ctrl-C ends the run at once: the manifest is missing all the same.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed));
    let mut reporter = Reporter::new();
    let result = corpus::extract(&settings, &STOP, &mut |line| reporter.show(line));
    reporter.clear();
    let extraction = result?;
    if extraction.interrupted {
        return Err(super::Interrupted(format!(
            "interrupted; {} holds no manifest, run the command again to start over",
            settings.out.display()
        ))
        .into());
    }
    args.output.show(&extraction.manifest, |out| print(out, &extraction.manifest))?;
    let Some((first, more)) = extraction.problems.split_first() else {
        return Ok(());
    };
    for problem in more.iter().take(20) {
        note!("inazuma: {problem}");
    }
    let count = match more.len() {
        0 => String::new(),
        n => format!(" (and {n} more, see manifest.json)"),
    };
    if args.allow_truncated {
        note!("inazuma: {first}{count}");
        return Ok(());
    }
    bail!(
        "{first}{count}; what could be read is in {}: fetch the dump again, or accept this with --allow-truncated",
        settings.out.display()
    )
}

fn print(out: &mut dyn Write, manifest: &Manifest) -> Result<()> {
    let skipped = manifest.skipped;
    writeln!(
        out,
        "{} articles, {} characters in {} file{}",
        manifest.articles,
        manifest.characters,
        manifest.files.len(),
        if manifest.files.len() == 1 { "" } else { "s" },
    )?;
    writeln!(
        out,
        "skipped: {} redirects, {} outside the main namespace, {} disambiguation pages, {} not wikitext, {} empty, {} short, {} malformed",
        skipped.redirect,
        skipped.namespace,
        skipped.disambiguation,
        skipped.model,
        skipped.empty,
        skipped.short,
        skipped.malformed,
    )?;
    if !manifest.complete {
        writeln!(out, "not complete: {} problems", manifest.problems.len())?;
    }
    Ok(())
}
