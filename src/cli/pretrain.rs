//! `inazuma pretrain`: a token store becomes a pre-trained model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::files::size;
use crate::interop::checkpoint::CONFIG;
use crate::ranks::{Given, Ranks, Shares, Travel};
use crate::store::WeightedPath;
use crate::train::run::{self, Options, SelfTest};
use crate::train::{describe, explain};

use super::Interrupted;
use super::arguments::{DeviceArgs, MemoryArgs, OutputArgs, interruptible, quoted};
use super::configuration::Configuration;

/// Below the short help, and the long one, which then lists the configuration's keys.
const EXAMPLES: &str = "Examples:
  inazuma pretrain --store wiki.store --out run --preset small
  inazuma pretrain --store wiki.store --out run --resume
  inazuma pretrain --store wiki.store --out run --budget 24h
  inazuma pretrain --store wiki.store:0.7 --store books.store:0.3 --out run
  inazuma pretrain --store wiki.store --out run --init imported --set steps=100_000
  inazuma pretrain --store wiki.store --out decayed --decay-from run/checkpoints/step-00200000 \\
      --set steps=250_000
  inazuma pretrain --preset small --explain";

/// Pre-train ELECTRA on a token store
///
/// The configuration is the preset's, changed by --config, then --hparams, then --set. RUN/config.toml holds
/// all of it and can be given to --config. Ctrl-C saves a checkpoint first; --resume goes on from the last.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", describe::help()))]
pub struct Args {
    /// What `prepare` wrote; several, as A.store:0.7, are mixed by weight
    #[arg(long, required_unless_present = "explain", value_name = "STORE[:WEIGHT]")]
    store: Vec<WeightedPath>,
    /// Directory of the run; must be empty or new unless --resume
    #[arg(long, value_name = "RUN", required_unless_present = "explain")]
    out: Option<PathBuf>,
    #[command(flatten)]
    configuration: Configuration,
    #[command(flatten)]
    device: DeviceArgs,
    /// Go on from the last checkpoint of RUN
    #[arg(long)]
    resume: bool,
    /// With --resume: let keys that decide what is computed have other values (learning_rate, steps and more, see below)
    #[arg(long, requires = "resume")]
    allow_change: bool,
    /// Begin with another run, a checkpoint, or what `import` wrote; sizes are its own, what it lacks is drawn
    #[arg(long, value_name = "RUN_OR_DIR", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Step at which the schedule begins; above 0 Adam's moments go on too [default: that of an imported model, else 0]
    #[arg(long, value_name = "N", requires = "init")]
    init_step: Option<u64>,
    /// Begin with a checkpoint of a run of schedule=wsd whose rate stays, and let it fall to 0 from there: over --set
    /// steps=N (or decay_share) with the store, the seed and all else of that run
    #[arg(
        long,
        value_name = "CHECKPOINT",
        conflicts_with_all = ["resume", "init", "preset", "config", "hparams", "explain"]
    )]
    decay_from: Option<PathBuf>,
    /// Make as many steps as this time allows (24h, 90m, 1h30m): measured with the first ones, and adjusted on the way, so
    /// that the learning rate is down when it is over
    #[arg(long, value_name = "TIME", value_parser = run::parse_budget, conflicts_with_all = ["decay_from", "explain"])]
    budget: Option<Duration>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// How often a device that was lost is opened again, to go on from the last checkpoint
    #[arg(long, default_value_t = run::RETRIES, value_name = "N")]
    retries: u32,
    /// Updates of the parameters: --set steps=N
    #[arg(long, value_name = "N", conflicts_with = "budget")]
    steps: Option<u64>,
    /// Newest checkpoints that stay, 0 for all: --set keep=N
    #[arg(long, value_name = "N")]
    keep: Option<u64>,
    /// And those of steps that are multiples of M: --set keep_every=M
    #[arg(long, value_name = "M")]
    keep_every: Option<u64>,
    /// Compare the kernels with the processor before the first step: auto does so on hardware, once for each device,
    /// driver, program and plan
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    selftest: SelfTest,
    /// Every N steps compute a micro-batch on the processor too, and stop where the gradients differ
    #[arg(long, value_name = "N", default_value_t = 0)]
    cross_check: u64,
    /// Wait for each step, and name the op in which a number first is infinite or none
    #[arg(long)]
    debug_nan: bool,
    /// Print the plan of a step (ops, shapes, memory by role, FLOPs) and stop; of every phase, where there are phases
    #[arg(long)]
    explain: bool,
    /// With --explain: the plan of this phase alone
    #[arg(long, value_name = "N", requires = "explain")]
    phase: Option<usize>,
    /// Show by op where the time of a few steps goes, then go on
    #[arg(long)]
    profile: bool,
    /// With what --profile shows, write when each op of these steps ran: a trace for ui.perfetto.dev
    #[arg(long, value_name = "FILE.json", conflicts_with = "explain")]
    profile_trace: Option<PathBuf>,
    /// Write what goes into metrics.jsonl and eval.jsonl to RUN/tensorboard, too: event files for TensorBoard
    #[arg(long, conflicts_with = "explain")]
    tensorboard: bool,
    /// Held-out text to evaluate on, at the end and every `eval_every` steps
    #[arg(long, value_name = "STORE")]
    eval_store: Option<PathBuf>,
    /// Started by mpirun: the part of every batch that each rank has, as 3,1, or auto: by how fast they are
    #[arg(long, value_name = "SHARES", conflicts_with = "explain")]
    share: Option<Shares>,
    /// Started by mpirun: how gradients travel between ranks; f16 takes half as many bytes, and rounds
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    reduce: Travel,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    /// What is explained is explained by one; all else is compared as a run's options.
    pub fn given(&self, given: Given) -> Given {
        given.with_switch("--explain", self.explain)
    }

    fn options(self, ranks: Ranks) -> Options {
        let mut sources = self.configuration.sources();
        sources.set.extend(self.steps.map(|steps| format!("steps={steps}")));
        sources.set.extend(self.keep.map(|keep| format!("keep={keep}")));
        sources.phase = self.phase;
        sources.set.extend(self.keep_every.map(|every| format!("keep_every={every}")));
        Options {
            stores: self.store,
            out: self.out.unwrap_or_default(),
            sources,
            device: self.device.device,
            threads: self.device.threads,
            resume: self.resume,
            allow_change: self.allow_change,
            init: self.init,
            init_step: self.init_step,
            decay_from: self.decay_from,
            budget: self.budget,
            eval_store: self.eval_store,
            profile: self.profile || self.profile_trace.is_some(),
            // Of several ranks the first writes it.
            profile_trace: self.profile_trace.filter(|_| ranks.is_first()),
            tensorboard: self.tensorboard,
            memory_limit: self.memory.bytes(),
            retries: self.retries,
            selftest: self.selftest,
            cross_check: self.cross_check,
            debug_nan: self.debug_nan,
            watch: None,
            time: Default::default(),
            ranks,
            share: self.share,
            reduce: self.reduce,
            #[cfg(test)]
            borders: Vec::new(),
        }
    }
}

pub fn run(args: Args, ranks: &Ranks) -> Result<()> {
    if ranks.is_first()
        && let Some(folder) = args.profile_trace.as_deref().and_then(Path::parent)
    {
        let there = folder.as_os_str().is_empty() || folder.is_dir();
        ensure!(there, "--profile-trace: {}: no such directory", folder.display());
    }
    let (explains, output) = (args.explain, args.output);
    let options = args.options(ranks.clone());
    if explains && !ranks.is_first() {
        return Ok(());
    }
    if explains {
        let (text, summary) = explain::explain(&options)?;
        return output.show(&summary, |out| Ok(out.write_all(text.as_bytes())?));
    }
    let stop = interruptible("stopping and saving")?;
    let report = run::run(&options, stop)?;
    if ranks.is_first() {
        output.show_afterwards(&report);
    }
    if report.interrupted {
        let message = match report.step {
            0 if !options.out.join(CONFIG).is_file() => {
                "interrupted; nothing was written yet: give the command again".to_owned()
            }
            0 => format!("interrupted before the first step; begin again with: {}", options.resuming()),
            step => {
                format!("interrupted after step {step}, which is saved; go on with: {}", options.resuming())
            }
        };
        return Err(Interrupted(message).into());
    }
    if let Some(bytes) = report.sent_bytes_per_step {
        note!("{} ranks: this one sent {} to the others in a step", ranks.size(), size(bytes));
    }
    match report.metrics {
        Some(metrics) => {
            note!("done: {} steps, {} tokens, loss {:.4}", report.step, report.tokens, metrics.quality.loss);
            let run = quoted(&options.out);
            note!(
                "the model is in {run}; next: inazuma finetune squad --init {run} --train F --out DIR \
                 (or inazuma report {run} --out run.html)"
            );
        }
        None => note!(
            "{}: complete at step {}; --resume --allow-change --set steps=N makes it longer",
            options.out.display(),
            report.step
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::train::config::Sources;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: Args,
    }

    fn options(words: &[&str]) -> Options {
        Words::try_parse_from(words).unwrap().args.options(Ranks::default())
    }

    /// The command that is printed asks for all that is not kept in the run.
    #[test]
    fn what_goes_on_with_a_run_is_what_it_was_begun_with() {
        let plain = ["pretrain", "--store", "a store:2", "--store", "b:1", "--out", "東京 run"];
        let more = "--eval-store held --device gpu:1 --threads 3 --memory-limit 6000MB --retries 0 --selftest never \
                    --cross-check 50 --debug-nan --tensorboard";
        let begun = "--preset tiny --set steps=9 --keep 2 --keep-every 4 --precision f16";
        let (more, begun) = (more.split_whitespace(), begun.split_whitespace());
        let all: Vec<&str> = plain.iter().copied().chain(more).chain(begun).collect();
        for words in [&plain[..], &all] {
            let asked = options(words);
            let printed = asked.resuming();
            let words = shlex::split(&printed).unwrap();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(words[..2], ["inazuma", "pretrain"]);
            let again = options(&words[1..]);
            let expected = Options { resume: true, sources: Sources::default(), ..asked };
            assert_eq!(format!("{again:?}"), format!("{expected:?}"), "{printed}");
        }
    }
}
