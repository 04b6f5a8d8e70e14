//! `inazuma tokenizer train` and `inazuma tokenizer encode`.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use rayon::prelude::*;

use crate::files::{LONGEST_LINE, say_if_typed};
use crate::tokenizer::Tokenizer;
#[cfg(feature = "tokenizer-training")]
use {
    super::progress::{Reporter, left},
    crate::corpus::input::Documents,
    crate::files::size,
    crate::store::sentences,
    crate::tokenizer::train::{self, Training},
};

/// Train a SentencePiece model, or encode text with one
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "tokenizer-training")]
    Train(TrainArgs),
    Encode(EncodeArgs),
}

#[cfg(feature = "tokenizer-training")]
/// Train a unigram model with [PAD] [CLS] [SEP] [MASK] as control symbols
#[derive(clap::Args)]
#[command(after_help = "Example:\n  inazuma tokenizer train articles/ --out wiki-32k --vocab-size 32000")]
struct TrainArgs {
    /// Directories that `extract` wrote, JSONL with a `text` field, or plain text
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Writes PREFIX.model, PREFIX.vocab and PREFIX.log: what was asked for and read, and SentencePiece's own log
    #[arg(long, value_name = "PREFIX")]
    out: PathBuf,
    /// Pieces of the vocabulary, the control symbols among them
    #[arg(long, default_value_t = 32_000, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    vocab_size: u32,
    /// Decides which sentences are sampled
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep upper case (`prepare` and `encode` must then be told the same)
    #[arg(long)]
    no_lower: bool,
    /// Train on a random sample of at most this many sentences; 0 takes all
    #[arg(long, default_value_t = 1_000_000)]
    max_sentences: usize,
    /// Share of the corpus's characters that get a piece of their own
    #[arg(long, default_value_t = 0.9995)]
    character_coverage: f64,
}

/// Encode standard input, one text a line, to one JSON array of ids a line
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  echo 国境の長いトンネル | inazuma tokenizer encode --model wiki-32k.model"
)]
struct EncodeArgs {
    /// A SentencePiece model, as `tokenizer train` writes it
    #[arg(long)]
    model: PathBuf,
    /// Do not lower-case the text first
    #[arg(long)]
    no_lower: bool,
    /// The lines are JSON objects: take the text from this field
    #[arg(long, value_name = "FIELD")]
    jsonl: Option<String>,
    /// Write [id, begin, end] for each piece, in code points of the text, instead of ids
    #[arg(long)]
    offsets: bool,
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        #[cfg(feature = "tokenizer-training")]
        Command::Train(args) => run_train(args),
        Command::Encode(args) => run_encode(args),
    }
}

#[cfg(feature = "tokenizer-training")]
fn run_train(args: TrainArgs) -> Result<()> {
    if !(0.9..=1.0).contains(&args.character_coverage) {
        bail!("--character-coverage is {}; it must lie in 0.9..=1", args.character_coverage);
    }
    let mut documents = Documents::open(&args.input)?;
    let options = train::Options {
        vocab_size: args.vocab_size as usize,
        seed: args.seed,
        character_coverage: args.character_coverage,
        max_sentences: args.max_sentences,
        lower: !args.no_lower,
    };
    let mut training = Training::start(options, &args.out)?;
    let out = args.out.display();
    if training.found_interrupted() {
        note!("inazuma: an earlier `tokenizer train` of {out} was interrupted; starting over");
    }
    if training.replaces() {
        note!("inazuma: replacing {out}.model, which an earlier run wrote");
    }
    for input in &args.input {
        training.note(&format!("input: {}", input.display()))?;
    }
    let mut reporter = Reporter::new();
    add_sentences(&mut documents, &mut training, &mut reporter)?;
    let summary = training.finish(|stage| reporter.stage(stage))?;
    reporter.clear();
    note!(
        "wrote {}: {} pieces from {} of {} sentences in {:.1} s (the log: {out}.log)",
        summary.model.display(),
        summary.pieces,
        summary.sentences_used,
        summary.sentences_seen,
        reporter.seconds()
    );
    Ok(())
}

#[cfg(feature = "tokenizer-training")]
/// Adds the sentences that `prepare` will encode, so that the model is trained on what it will see.
fn add_sentences(documents: &mut Documents, training: &mut Training, reporter: &mut Reporter) -> Result<()> {
    while let Some(document) = documents.next() {
        for paragraph in document?.paragraphs() {
            sentences::split(paragraph, |sentence| training.add(sentence));
        }
        reporter.report(|seconds| {
            let share = documents.bytes_read as f64 / documents.bytes_total.max(1) as f64;
            format!(
                "reading: {:5.1}% of {}, {} sentences, {} of them sampled, {:.0} s left",
                100.0 * share,
                size(documents.bytes_total),
                training.sample().seen(),
                training.sample().kept(),
                left(seconds, share)
            )
        });
    }
    Ok(())
}

/// Lines that are encoded together, on all cores.
const BATCH_BYTES: usize = 1 << 20;

fn run_encode(args: EncodeArgs) -> Result<()> {
    let tokenizer = Tokenizer::open(&args.model, !args.no_lower)?;
    say_if_typed(match &args.jsonl {
        Some(_) => "JSON lines",
        None => "a text a line",
    });
    let mut input = BufReader::with_capacity(BATCH_BYTES, std::io::stdin().lock());
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut first = 1usize;
    loop {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut size = 0;
        // As many lines as have arrived: whoever types them gets an answer to each.
        while size < BATCH_BYTES && (size == 0 || input.buffer().contains(&b'\n')) {
            let mut line = Vec::new();
            let read = (&mut input)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .context("cannot read standard input")?;
            if read == 0 {
                break;
            }
            ensure!(
                (read as u64) < LONGEST_LINE,
                "standard input, line {}: longer than {LONGEST_LINE} bytes",
                first + lines.len()
            );
            size += read;
            lines.push(line);
        }
        if lines.is_empty() {
            return Ok(output.flush()?);
        }
        let encoded: Vec<Result<Vec<u8>>> = lines
            .par_iter()
            .enumerate()
            .map(|(n, line)| {
                encode_line(&tokenizer, line, args.jsonl.as_deref(), args.offsets)
                    .with_context(|| format!("standard input, line {}", first + n))
            })
            .collect();
        for line in encoded {
            match line {
                Ok(line) => output.write_all(&line)?,
                Err(error) => {
                    output.flush()?;
                    return Err(error);
                }
            }
        }
        output.flush()?;
        first += lines.len();
    }
}

fn encode_line(tokenizer: &Tokenizer, line: &[u8], field: Option<&str>, offsets: bool) -> Result<Vec<u8>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => bail!("invalid UTF-8 at byte {} of the line", error.valid_up_to()),
    };
    let encode = |text: &str| match offsets {
        true => serde_json::to_vec(&places(tokenizer, text)),
        false => serde_json::to_vec(&tokenizer.encode(text)),
    };
    let mut out = match field {
        None => encode(line)?,
        Some(field) => {
            let row: serde_json::Value =
                serde_json::from_str(line).map_err(|error| anyhow::anyhow!("not JSON ({error})"))?;
            match row.get(field).and_then(|text| text.as_str()) {
                Some(text) => encode(text)?,
                None => bail!("no string field {field:?}"),
            }
        }
    };
    out.push(b'\n');
    Ok(out)
}

/// Each piece's id, and where it begins and ends in code points of the text.
fn places(tokenizer: &Tokenizer, text: &str) -> Vec<[usize; 3]> {
    let mut starts: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
    starts.push(text.len());
    let code_point = |byte: usize| starts.partition_point(|&start| start < byte);
    let pieces = tokenizer.encode_with_offsets(text).into_iter();
    pieces.map(|piece| [piece.id as usize, code_point(piece.begin), code_point(piece.end)]).collect()
}
