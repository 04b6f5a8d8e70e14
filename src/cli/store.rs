//! `inazuma store info` and `inazuma store verify`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use crate::store::{Store, verify};

/// Look at a token store, or check every byte of it
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
        store: PathBuf,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// Read the whole store against its checksums
    #[command(after_help = "Example:\n  inazuma store verify wiki.store")]
    Verify {
        store: PathBuf,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match args.command {
        Command::Info { store, json } => {
            let info = verify::info(&Store::open(&store)?);
            match json {
                true => writeln!(out, "{info}")?,
                false => print(&mut out, "", &info)?,
            }
        }
        Command::Verify { store, json } => {
            let store = verify::verify(&store)?;
            let (documents, tokens) = (store.documents(), store.tokens());
            match json {
                true => {
                    let report = serde_json::json!({"ok": true, "documents": documents, "tokens": tokens});
                    writeln!(out, "{report}")?;
                }
                false => writeln!(
                    out,
                    "{}: whole, {documents} documents, {tokens} tokens",
                    store.path().display()
                )?,
            }
        }
    }
    Ok(())
}

/// An object as indented `key  value` lines; a histogram as one line a bin.
fn print(out: &mut impl Write, indent: &str, value: &Value) -> Result<()> {
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
