//! `inazuma eval pretrain`: both losses of a pre-trained model on text that was held out.

use std::path::PathBuf;

use anyhow::Result;

use crate::device::Device;
use crate::ranks::{Given, Ranks, Travel};
use crate::train::evaluate::Evaluator;
use crate::train::key::Value;
use crate::train::run::of_one_checkpoint;
use crate::train::saved::Saved;

use super::Interrupted;
use super::arguments::{DeviceArgs, MemoryArgs, OutputArgs, count_to, interruptible};

/// Losses, accuracies and AUC of a pre-trained model on held-out text
///
/// Masks, draws and sums as `pretrain --eval-store` does, with the run's seed, length and number of sequences: on the
/// same device the figures are those of its eval.jsonl.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma eval pretrain run --store wiki.store.held-out
  inazuma eval pretrain run --store wiki.store.held-out --step 200000 --sequences 4096 --json
  mpirun -n 4 inazuma eval pretrain run --store wiki.store.held-out")]
pub struct Args {
    /// A run, a checkpoint, or what `import` wrote with a generator
    #[arg(value_name = "RUN_OR_DIR")]
    run: PathBuf,
    /// Held-out text, made with the run's tokenizer
    #[arg(long, value_name = "STORE")]
    store: PathBuf,
    /// The checkpoint of this step, instead of the newest
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Sequences that are evaluated [default: the run's eval_sequences; 1024 of an imported model]
    #[arg(long, value_name = "N", value_parser = count_to(1 << 24))]
    sequences: Option<usize>,
    /// Tokens of a sequence at most [default: the run's max_length, of its last phase]
    #[arg(long, value_name = "N", value_parser = count_to(65535))]
    max_length: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    /// What all ranks must have been given alike.
    pub fn given(&self, given: Given) -> Given {
        given
            .with("RUN", self.run.display())
            .with_some("--step", self.step)
            .with_some("--sequences", self.sequences)
            .with_some("--max-length", self.max_length)
            .with_some("--memory-limit", self.memory.bytes())
    }
}

pub fn run(args: Args, ranks: &Ranks) -> Result<()> {
    // A run that is training gets a newer checkpoint meanwhile.
    let first = ranks.first_says(|| Ok(Saved::open(&args.run, args.step)?.checkpoint))?;
    let saved =
        if ranks.are_several() { Saved::open(&first, None) } else { Saved::open(&args.run, args.step) };
    let saved = ranks.agree(saved)?;
    of_one_checkpoint(ranks, Some(&saved.checkpoint))?;
    let device = Device::of_rank(&args.device.device, args.device.threads, ranks, Travel::default());
    let device = ranks.agree(device)?.with_memory_limit(args.memory.bytes());
    let whole = |name, given: Option<usize>| given.map(|n| (name, Value::Whole(n as u64)));
    let changes = [whole("eval_sequences", args.sequences), whole("max_length", args.max_length)];
    let changes: Vec<_> = changes.into_iter().flatten().collect();
    let config = ranks.agree(saved.config(&changes, device.room()))?;
    ranks.given_alike(&config.given())?;
    let mut evaluator = ranks.agree(Evaluator::of_saved(&args.store, &saved, &config, &device))?;
    evaluator.of_one_text()?;
    note!("{}: step {} on {}", saved.checkpoint.display(), saved.state.step, evaluator.identity());
    let stop = interruptible("stopping")?;
    let Some(evaluation) = evaluator.measure(saved.state.step, stop)? else {
        return Err(Interrupted("interrupted; nothing was evaluated".into()).into());
    };
    if !ranks.is_first() {
        return Ok(());
    }
    args.output.show(&evaluation, |out| {
        let quality = &evaluation.quality;
        for (name, value, about) in [
            ("sequences", evaluation.sequences as f64, String::new()),
            ("tokens", evaluation.tokens as f64, String::new()),
            ("loss", quality.loss, String::new()),
            ("mlm_loss", quality.mlm_loss, format!("unigram entropy {:.4}", evaluation.unigram_entropy)),
            ("mlm_accuracy", quality.mlm_accuracy, String::new()),
            ("sampled_accuracy", quality.sampled_accuracy, String::new()),
            ("disc_loss", quality.disc_loss, format!("base rate {:.4}", evaluation.base_rate_entropy)),
            ("disc_accuracy", quality.disc_accuracy, String::new()),
            ("disc_precision", quality.disc_precision, String::new()),
            ("disc_recall", quality.disc_recall, String::new()),
            ("disc_auc", quality.disc_auc, "0.5 is chance".to_owned()),
            ("disc_spread", quality.disc_spread, String::new()),
        ] {
            let digits = if value.fract() == 0.0 && value >= 1.0 { 0 } else { 4 };
            writeln!(out, "{}", format!("{name:<16} {value:>12.digits$}  {about}").trim_end())?;
        }
        Ok(())
    })
}
