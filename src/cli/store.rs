//! `inazuma store`: look at, check, convert.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::arguments::{OutputArgs, count_to};
use crate::store::{Store, Words, tfrecord, verify};
use crate::tokenizer::Tokenizer;

/// Look at a token store, check every byte of it, or convert it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a store holds, and how examples of length 128 and 512 use it
    #[command(after_help = "Example:\n  inazuma store info wiki.store --json")]
    Info {
        /// What `prepare` wrote
        store: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Read the whole store against its checksums
    #[command(after_help = "Example:\n  inazuma store verify wiki.store")]
    Verify {
        /// What `prepare` wrote
        store: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Write the examples of an epoch as the reference implementation reads them
    #[command(
        after_help = "Example:\n  inazuma store export wiki.store --out pretrain_tfrecords --max-length 128 --files 100"
    )]
    Export {
        /// What `prepare` wrote
        store: PathBuf,
        /// Directory of the files `pretrain_data.tfrecord-I-of-N`
        #[arg(long)]
        out: PathBuf,
        /// What the files are
        #[arg(long, value_parser = ["tfrecord"], default_value = "tfrecord")]
        format: String,
        /// Tokens of an example; shorter ones are padded with id 0
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(5..))]
        max_length: u16,
        /// Files that the examples are dealt to in turn
        #[arg(long, default_value_t = 1, value_parser = count_to(1000))]
        files: usize,
        /// Decides where examples are cut, and their order
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Examples are cut and ordered anew in each
        #[arg(long, default_value_t = 0)]
        epoch: u64,
    },
    /// Make a store of TFRecord files: each example a document, its segments the lines
    #[command(
        after_help = "Example:\n  inazuma store import pretrain_tfrecords --tokenizer wiki-32k.model --out wiki.store"
    )]
    Import {
        /// Files, or directories with *.tfrecord* in them
        #[arg(required = true)]
        input: Vec<PathBuf>,
        /// The SentencePiece model that the ids are of
        #[arg(long, value_name = "M")]
        tokenizer: PathBuf,
        /// The texts were not lower-cased
        #[arg(long)]
        no_lower: bool,
        /// File of the store
        #[arg(long, value_name = "STORE")]
        out: PathBuf,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Info { store, output } => {
            let info = verify::info(&Store::open(&store)?)?;
            output.show(&info, |out| print(out, "", &info))?;
        }
        Command::Export { store, out, max_length, files, seed, epoch, .. } => {
            let store = Store::open(&store)?;
            let count = tfrecord::export(&store, &out, seed, epoch, usize::from(max_length), files)?;
            note!("wrote {count} examples of length {max_length} to {files} files in {}", out.display());
        }
        Command::Import { input, tokenizer, no_lower, out } => {
            let tokenizer = Tokenizer::open(&tokenizer, !no_lower)?;
            let imported = tfrecord::import(&input, &tokenizer, &out)?;
            note!("wrote {}: {} examples, {} tokens", out.display(), imported.records, imported.tokens);
        }
        Command::Verify { store, output } => {
            let store = verify::verify(&store).or_else(|error| {
                // On stderr it is said as well, as that of any command.
                let report = serde_json::json!({"ok": false, "error": format!("{error:#}")});
                output.show_json(&report)?;
                Err(error)
            })?;
            let (documents, tokens) = (store.documents(), store.tokens());
            let words = store.words();
            let report = serde_json::json!({
                "ok": true, "documents": documents, "tokens": tokens, "words": words.to_string(),
            });
            output.show(&report, |out| {
                let path = store.path().display();
                let marked = match words {
                    Words::None => "no marks of words".to_owned(),
                    words => format!("words marked by {words}"),
                };
                Ok(writeln!(out, "{path}: whole, {documents} documents, {tokens} tokens, {marked}")?)
            })?;
        }
    }
    Ok(())
}

/// An object as indented `key  value` lines; a histogram as one line a bin.
fn print(out: &mut dyn Write, indent: &str, value: &Value) -> Result<()> {
    let Some(object) = value.as_object() else {
        return Ok(writeln!(out, "{indent}{value}")?);
    };
    for (key, value) in object {
        match value {
            Value::Object(_) => {
                writeln!(out, "{indent}{key}")?;
                print(out, &format!("{indent}  "), value)?;
            }
            Value::Array(rows) => {
                writeln!(out, "{indent}{key}")?;
                for row in rows {
                    let fields = row.as_object().into_iter().flatten();
                    let cells: Vec<String> =
                        fields.map(|(key, value)| format!("{key} {}", plain(value))).collect();
                    writeln!(out, "{indent}  {}", cells.join("  "))?;
                }
            }
            _ => writeln!(out, "{indent}{key:<20} {}", plain(value))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.4}", number.as_f64().unwrap_or(f64::NAN))
        }
        other => other.to_string(),
    }
}
