//! `inazuma score squad`: predictions against gold answers.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use crate::tasks::data::{Purpose, read_text};
use crate::tasks::questions::{self, Gold};
use crate::tasks::squad::score::{SquadScore, score_squad, squad_pair};
use crate::tasks::squad::thresholds::{Judged, Named, Thresholds};

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
        /// Scores by which a question has no answer, {"id": number, …}: adds best_exact and best_f1 over all thresholds, as
        /// SQuAD 2.0 defines them
        #[arg(long, value_name = "FILE")]
        na_probs: Option<PathBuf>,
        /// One JSON object on standard output, which is the default
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> Result<()> {
    let Command::Squad { gold, predictions, na_probs, json: _ } = args.command;
    let dataset = questions::read(&gold, Purpose::Evaluate)?;
    for line in dataset.problems.report(&gold) {
        note!("inazuma: warning: {line}");
    }
    let golds = questions::golds(&dataset.questions);
    let texts = read_predictions(&predictions)?;
    let score = score_squad(&golds, &texts);
    let name = predictions.display();
    if score.missing > 0 {
        note!("inazuma: warning: {name} lacks {} of {} questions, which score 0", score.missing, score.total);
    }
    let known: HashSet<&str> = golds.iter().map(|gold| gold.id.as_str()).collect();
    let unknown = texts.keys().filter(|id| !known.contains(id.as_str())).count();
    if unknown > 0 {
        note!("inazuma: warning: {unknown} ids in {name} are not in {}", gold.display());
    }
    let best = na_probs.map(|path| best(&golds, &texts, &path)).transpose()?;
    let report = Report { score, best };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    score: SquadScore,
    #[serde(flatten)]
    best: Option<Named>,
}

/// The best thresholds on the scores of no answer in a file, of all questions; equal scores in the order of the file.
fn best(golds: &[Gold], texts: &HashMap<String, String>, path: &Path) -> Result<Named> {
    let shown = path.display();
    let scores: serde_json::Map<String, Value> =
        serde_json::from_str(&read_text(path)?).map_err(|error| {
            anyhow!("{shown}: must be one JSON object of numbers, {{\"id\": number, …}} ({error})")
        })?;
    let by_id: HashMap<&str, &Gold> = golds.iter().map(|gold| (gold.id.as_str(), gold)).collect();
    let mut rows = Vec::new();
    for (id, score) in &scores {
        let no_answer = score.as_f64().with_context(|| format!("{shown}: the score of {id} is no number"))?;
        let Some(gold) = by_id.get(id.as_str()) else { continue };
        let text = texts.get(id).map_or("", String::as_str);
        // A question that the predictions lack scores 0, also where "" would be right.
        let (exact, f1) = texts.get(id).map_or((0.0, 0.0), |text| squad_pair(&gold.texts, text));
        let has_answer = gold.texts.iter().any(|text| !text.is_empty());
        rows.push(Judged { has_answer, answered: !text.is_empty(), no_answer, exact, f1 });
    }
    ensure!(
        rows.len() == golds.len(),
        "{shown}: has scores of {} of {} questions; every one needs its own",
        rows.len(),
        golds.len()
    );
    Ok(Thresholds::best(&rows).named())
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
