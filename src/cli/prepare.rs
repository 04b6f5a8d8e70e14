//! `inazuma prepare`: text to a token store.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::arguments::ThreadArgs;
use super::progress::{Reporter, left};
use crate::corpus::input::Documents;
use crate::files::{size, with_suffix};
use crate::ranks::Ranks;
use crate::store::format::Header;
use crate::store::prepare::{Options, Progress, prepare};
use crate::store::{Lines, Words, ids};
use crate::tokenizer::{ReadyMade, SpecialIds, Tokenizer};

/// Encode text into a token store, which `pretrain` maps into memory
///
/// Started by mpirun, ranks divide the text among them (each reads all of it, and encodes its share); the first one writes, the
/// same bytes as one process.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma prepare articles/ --tokenizer wiki-32k.model --out wiki.store --held-out 0.5%
  inazuma prepare --ids wiki-ids.jsonl --vocab-size 32768 --special PAD=0,CLS=2,SEP=3,MASK=4 \\
      --out wiki.store")]
pub struct Args {
    /// Directories that `extract` wrote, JSONL with a `text` field, or plain text
    #[arg(required_unless_present = "ids")]
    input: Vec<PathBuf>,
    /// A SentencePiece model with [PAD] [CLS] [SEP] [MASK]
    #[arg(long, value_name = "MODEL", required_unless_present = "ids")]
    tokenizer: Option<PathBuf>,
    /// Instead of text: ready-made ids of another tokenizer, a document a line, as {"ids":[[17,5],[9]]}, one list a
    /// sentence, without special symbols; may be repeated
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["input", "tokenizer", "no_lower", "lines", "words", "dictionary"],
        requires_all = ["special", "vocab_size"])]
    ids: Vec<PathBuf>,
    /// With --ids: the ids of the special symbols
    #[arg(long, value_name = "PAD=…,CLS=…,SEP=…,MASK=…", requires = "ids")]
    special: Option<SpecialIds>,
    /// With --ids: pieces of that tokenizer
    #[arg(long, value_name = "N", requires = "ids")]
    vocab_size: Option<usize>,
    /// File of the store; one that is there is replaced when the new one is whole
    #[arg(long, value_name = "STORE")]
    out: PathBuf,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Do not lower-case the text first
    #[arg(long)]
    no_lower: bool,
    /// Split paragraphs into sentences, or leave them whole
    #[arg(long, value_enum, default_value_t = Lines::Sentence)]
    lines: Lines,
    /// Mark where words begin, for `masking=word` and `span`: a bit a token
    #[arg(long, value_enum, default_value_t = Words::Script)]
    words: Words,
    /// With --words lindera: the directory of its dictionary
    #[arg(long, value_name = "DIR")]
    dictionary: Option<PathBuf>,
    /// Write this share of the documents, chosen by a hash of their text, to STORE.held-out instead
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0%")]
    held_out: f64,
}

pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match share {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("a share such as 0.5% or 0.005, below 100%".to_string()),
    }
}

impl Args {
    /// Whether it divides its work among ranks: ids that are ready-made are only copied.
    pub fn is_divided(&self) -> bool {
        self.ids.is_empty()
    }
}

pub fn run(args: Args, ranks: &Ranks) -> Result<()> {
    let mut reporter = Reporter::new();
    let report = |progress| reporter.report(|seconds| line(progress, seconds));
    let summary = match (&args.tokenizer, args.special, args.vocab_size) {
        (None, Some(special), Some(size)) => {
            let vocabulary = ReadyMade::new(size, special).context("--special")?;
            Some(ids::prepare(&args.ids, &vocabulary, &args.out, args.held_out, report)?)
        }
        (Some(path), ..) => {
            let tokenizer = ranks.agree(Tokenizer::open(path, !args.no_lower))?;
            let documents = ranks.agree(Documents::open(&args.input))?;
            let options = Options {
                lines: args.lines,
                words: args.words,
                dictionary: args.dictionary,
                threads: args.threads.of_rank(ranks),
                held_out: args.held_out,
                ranks: ranks.clone(),
                ..Options::default()
            };
            prepare(documents, &tokenizer, &args.out, &options, report)?
        }
        (None, ..) => bail!("--ids needs --special and --vocab-size"),
    };
    reporter.clear();
    // Of several ranks the first one has written, and tells.
    let Some(summary) = summary else { return Ok(()) };
    let seconds = reporter.seconds();
    let tokens = summary.store.tokens + summary.held_out.map_or(0, |header| header.tokens);
    let describe = |path: PathBuf, header: &Header| {
        note!(
            "wrote {}: {} documents, {} lines, {} tokens ({:.3}% unknown), {}",
            path.display(),
            header.documents,
            header.lines,
            header.tokens,
            100.0 * header.unknown as f64 / header.tokens.max(1) as f64,
            size(header.file_length)
        );
    };
    if let Some(header) = &summary.held_out {
        describe(with_suffix(&args.out, ".held-out"), header);
    }
    describe(args.out, &summary.store);
    if summary.empty_documents > 0 {
        note!("{} documents gave no piece and were left out", summary.empty_documents);
    }
    note!("{seconds:.1} s, {:.2} million tokens/s", tokens as f64 / seconds / 1e6);
    Ok(())
}

fn line(progress: Progress, seconds: f64) -> String {
    let share = progress.bytes_read as f64 / progress.bytes_total.max(1) as f64;
    format!(
        "{:5.1}%  {:.1} million tokens, {:.2} million/s, {:.0} s left",
        100.0 * share,
        progress.tokens as f64 / 1e6,
        progress.tokens as f64 / seconds / 1e6,
        left(seconds, share)
    )
}
