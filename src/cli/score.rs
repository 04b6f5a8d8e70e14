//! `inazuma score squad`: predictions against gold answers.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Subcommand;

use crate::tasks::data::{Purpose, read_text};
use crate::tasks::questions;
use crate::tasks::squad::score::score_squad;

/// Score predictions that any system made
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Exact match and F1 of question answering, as JGLUE computes them, in percent
    #[command(after_help = "Example:\n  inazuma score squad jsquad-valid.json predictions.json")]
    Squad {
        /// Questions and answers as SQuAD JSON (.gz and .xz too)
        gold: PathBuf,
        /// One JSON object, {"id": "text", …}; a question that it lacks scores 0
        predictions: PathBuf,
        /// One JSON object on standard output, which is the default
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> Result<()> {
    let Command::Squad { gold, predictions, json: _ } = args.command;
    let dataset = questions::read(&gold, Purpose::Evaluate)?;
    for line in dataset.problems.report(&gold) {
        warning!("inazuma: warning: {line}");
    }
    let golds = questions::golds(&dataset.questions);
    let texts = read_predictions(&predictions)?;
    let score = score_squad(&golds, &texts);
    let name = predictions.display();
    if score.missing > 0 {
        warning!(
            "inazuma: warning: {name} lacks {} of {} questions, which score 0",
            score.missing,
            score.total
        );
    }
    let known: HashSet<&str> = golds.iter().map(|gold| gold.id.as_str()).collect();
    let unknown = texts.keys().filter(|id| !known.contains(id.as_str())).count();
    if unknown > 0 {
        warning!("inazuma: warning: {unknown} ids in {name} are not in {}", gold.display());
    }
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&score)?)?;
    Ok(())
}

fn read_predictions(path: &Path) -> Result<HashMap<String, String>> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|error| {
        anyhow!(
            "{}: predictions must be one JSON object of texts, {{\"id\": \"text\", …}} ({error})",
            path.display()
        )
    })
}
