//! What can be drawn of a run, and what it is called.

use anyhow::{Result, bail};

use super::language::Language;
use crate::view::recorded::{Kind, Recorded};

/// How a quantity's numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Number,
    /// From 0 to 1, written in percent; or percent.
    Share,
}

struct Known {
    name: &'static str,
    english: &'static str,
    japanese: &'static str,
    form: Form,
}

const fn known(name: &'static str, english: &'static str, japanese: &'static str, form: Form) -> Known {
    Known { name, english, japanese, form }
}

use Form::{Number, Share};

const KNOWN: [Known; 27] = [
    known("loss", "loss", "損失", Number),
    known("mlm_loss", "masked-LM loss", "穴埋めの損失", Number),
    known("disc_loss", "discriminator loss", "識別器の損失", Number),
    known("mlm_accuracy", "masked-LM accuracy", "穴埋めの正解率", Share),
    known("sampled_accuracy", "samples that are the original", "標本が元の語である率", Share),
    known("disc_accuracy", "discriminator accuracy", "識別器の正解率", Share),
    known("disc_precision", "discriminator precision", "識別器の適合率", Share),
    known("disc_recall", "discriminator recall", "識別器の再現率", Share),
    known("disc_auc", "discriminator AUC", "識別器の AUC", Number),
    known("disc_spread", "spread of the logits", "識別器のロジットの広がり", Number),
    known("lr", "learning rate", "学習率", Number),
    known("grad_norm", "gradient norm", "勾配のノルム", Number),
    known("tokens_per_second", "tokens per second", "毎秒のトークン数", Number),
    known("positions_per_second", "positions per second", "毎秒の位置数", Number),
    known("mfu", "share of the peak", "ピーク性能に対する率", Share),
    known("model_flops_per_second", "FLOP per second", "毎秒の浮動小数点演算数", Number),
    known("loss_scale", "loss scale", "損失の倍率", Number),
    known("skipped_steps", "skipped steps", "飛ばしたステップ", Number),
    known("train_accuracy", "accuracy in training", "学習中の正解率", Share),
    known("accuracy", "accuracy", "正解率", Share),
    known("f1", "F1", "F1", Share),
    known("exact_match", "exact match", "完全一致", Share),
    known("precision", "precision", "適合率", Share),
    known("recall", "recall", "再現率", Share),
    known("pearson", "Pearson correlation", "ピアソンの相関係数", Number),
    known("spearman", "Spearman correlation", "スピアマンの相関係数", Number),
    known("score", "score", "得点", Number),
];

/// Of pre-training: three rows of three.
const PRETRAINING: [&str; 9] = [
    "loss",
    "mlm_loss",
    "disc_loss",
    "mlm_accuracy",
    "disc_accuracy",
    "disc_auc",
    "lr",
    "grad_norm",
    "tokens_per_second",
];

/// Of fine-tuning: what stands before the dev scores, and behind them.
const TRAINED: [&str; 2] = ["loss", "train_accuracy"];
const BEHIND: [&str; 2] = ["grad_norm", "tokens_per_second"];

/// Where a line stands; no quantities.
const PLACES: [&str; 5] = ["step", "steps", "epoch", "tokens", "skipped_steps"];

/// A quantity of a run's lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    pub name: String,
    pub form: Form,
    /// A score of text that was not trained on, of a line that has both.
    dev: bool,
}

impl Quantity {
    fn new(name: &str, kind: Kind) -> Self {
        let form = KNOWN.iter().find(|known| known.name == name).map_or(Number, |known| known.form);
        let dev = kind == Kind::FineTuning && ![&TRAINED[..], &BEHIND, &PLACES].concat().contains(&name);
        Quantity { name: name.to_owned(), form, dev }
    }

    /// What it is called in a picture; its own name where nothing better is known.
    pub fn label(&self, language: Language) -> String {
        let known = KNOWN.iter().find(|known| known.name == self.name);
        let label = known.map_or(self.name.as_str(), |known| language.of(known.english, known.japanese));
        let unit = if self.form == Share { " (%)" } else { "" };
        let dev = if self.dev { language.of(", dev", "(開発データ)") } else { "" };
        format!("{label}{dev}{unit}")
    }
}

/// Names of all numbers in the lines of these runs, in the order in which they first stand there.
fn recorded(runs: &[&Recorded]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        // The lines of a run are alike: some of them are enough.
        let lines = run.metrics().iter().take(3).chain(run.metrics().last()).chain(run.evaluations().last());
        for (name, value) in lines.flat_map(|record| &record.values) {
            if (value.is_number() || value.is_null()) && !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// The quantities asked for, or a choice that suits what made the runs.
///
/// # Errors
/// One that no run has: those that there are.
pub fn chosen(asked: &[String], kind: Kind, runs: &[&Recorded]) -> Result<Vec<Quantity>> {
    let there = recorded(runs);
    if let Some(unknown) = asked.iter().find(|name| !there.contains(name)) {
        let names = there.iter().filter(|name| *name != "step");
        let names: Vec<&str> = names.map(String::as_str).collect();
        bail!("no line has a number called {unknown}; there are: {}", names.join(", "));
    }
    let mut names: Vec<&str> = asked.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = match kind {
            Kind::Pretraining => PRETRAINING.to_vec(),
            Kind::FineTuning => {
                let others = there.iter().map(String::as_str);
                let scores = others.filter(|name| ![&TRAINED[..], &BEHIND, &PLACES].concat().contains(name));
                TRAINED.into_iter().chain(scores).chain(BEHIND).collect()
            }
        };
        names.retain(|name| there.iter().any(|there| there == name));
    }
    Ok(names.into_iter().map(|name| Quantity::new(name, kind)).collect())
}
