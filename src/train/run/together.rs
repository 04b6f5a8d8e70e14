//! What the ranks of a run agree on before its first step: who writes, that they are of one kind, and whose sequences are
//! whose. Where one cannot go on all end, with the line that says which and why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::interop::checkpoint::{State, StoreIdentity};
use crate::plan::{Executor, Phase};
use crate::ranks::{Ranks, Shares, Split, Together, program};
use crate::store::Stores;

use super::super::config::{Surroundings, TrainConfig};
use super::super::examples::Batcher;
use super::super::feeding::Feeding;
use super::Options;
use super::leg::Machine;
use super::lock::Claim;

/// Keys that follow from a device's memory: the ranks take those of the one that has least.
const BY_ROOM: [&str; 2] = ["micro_batch", "vocabulary_chunk"];

/// Steps whose time decides `--share auto`, after one that warms up.
const MEASURED: usize = 3;

/// What all ranks must have in common beside the configuration.
#[derive(Debug, Serialize, Deserialize)]
struct Kind {
    version: String,
    /// Checksum of the program's file; 0 where it cannot be read.
    program: u32,
    tokenizer: String,
    lower: bool,
    store: StoreIdentity,
    /// Where it lies, which may be elsewhere on another machine.
    first_store: String,
    /// What decides which exchanges there are.
    asked: Vec<String>,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        let Kind { version, program, tokenizer, lower, store, asked, first_store: _ } = self;
        (version, program, tokenizer, lower, store, asked)
            == (&other.version, &other.program, &other.tokenizer, &other.lower, &other.store, &other.asked)
    }
}

/// The options that every rank must have been given alike, as they are called.
fn asked(options: &Options) -> Vec<String> {
    let path =
        |path: &Option<PathBuf>| path.as_ref().map_or("nothing".into(), |path| path.display().to_string());
    let Options { resume, allow_change, init_step, budget, debug_nan, profile, cross_check, .. } = options;
    let share = options.share.as_ref().map_or("nothing".to_owned(), |share| format!("{share:?}"));
    vec![
        format!("--resume {resume}"),
        format!("--allow-change {allow_change}"),
        format!("--init {}", path(&options.init)),
        format!("--init-step {init_step:?}"),
        format!("--decay-from {}", path(&options.decay_from)),
        format!("--budget {budget:?}"),
        format!("--eval-store {}", path(&options.eval_store)),
        format!("--share {share}"),
        format!("--reduce {}", options.reduce),
        format!("--debug-nan {debug_nan}"),
        format!("--profile {profile}"),
        format!("--cross-check {cross_check}"),
    ]
}

/// Claims the run's directory, for all ranks: the first has its lock.
pub fn claim(options: &Options) -> Result<Option<Claim>> {
    let claim = if options.resume { Claim::resumed } else { Claim::fresh };
    let first = options.ranks.is_first();
    options.ranks.agree(if first { claim(&options.out).map(Some) } else { Ok(None) })
}

/// Refuses ranks that are another build, or read another text.
pub fn of_one_kind(options: &Options, stores: &Stores) -> Result<()> {
    let (ranks, store) = (&options.ranks, stores.first());
    let kind = Kind {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        program: if ranks.are_several() { program() } else { 0 },
        tokenizer: store.tokenizer_hash().to_owned(),
        lower: store.lower(),
        store: StoreIdentity::of(stores),
        first_store: store.path().display().to_string(),
        asked: asked(options),
    };
    ranks.all_alike(&kind, |other, first| {
        if (&other.version, other.program) != (&first.version, first.program) {
            return format!(
                "another build of inazuma ({} {:08x}) than rank 0 ({} {:08x}); start the same everywhere",
                other.version, other.program, first.version, first.program
            );
        }
        if let Some((other, first)) =
            other.asked.iter().zip(&first.asked).find(|(other, first)| other != first)
        {
            return format!("started with {other}, rank 0 with {first}; give all ranks the same");
        }
        if (&other.tokenizer, other.lower) != (&first.tokenizer, first.lower) {
            return format!(
                "{}: made with another tokenizer than rank 0's {}",
                other.first_store, first.first_store
            );
        }
        format!(
            "{}: another text than rank 0's {} ({} documents, {} tokens, checksum {}; rank 0 has {}, {}, {})",
            other.first_store,
            first.first_store,
            other.store.documents,
            other.store.tokens,
            other.store.crc,
            first.store.documents,
            first.store.tokens,
            first.store.crc
        )
    })
}

/// The configuration of all ranks: what is sized by memory is that of the rank that has least, all else must be the same.
pub fn one_config(ranks: &Ranks, config: TrainConfig, surroundings: Surroundings<'_>) -> Result<TrainConfig> {
    if !ranks.are_several() {
        return Ok(config);
    }
    // Of every phase.
    let sizes = config.legs()?.iter().map(|leg| leg.config.micro_batch).collect::<Vec<_>>();
    let all = ranks.gather_all((sizes, config.settings().to_toml()))?;
    for (rank, (_, other)) in all.iter().enumerate() {
        if let Some((other, first)) = first_difference(other, &all[0].1) {
            return Err(
                Together(format!("rank {rank}: another configuration: {other}; rank 0 has {first}")).into()
            );
        }
    }
    let least = all.iter().min_by_key(|(sizes, _)| sizes).context("no rank has a configuration")?;
    let mut settings = config.settings().clone();
    settings.set_toml(&least.1)?;
    ranks.agree(TrainConfig::resolve(settings, surroundings))
}

/// The first lines that differ, of what is not sized by memory.
fn first_difference<'a>(a: &'a str, b: &'a str) -> Option<(&'a str, &'a str)> {
    let lines = |text: &'a str| -> Vec<&'a str> {
        text.lines().filter(|line| !BY_ROOM.iter().any(|key| line.starts_with(key))).collect()
    };
    let (a, b) = (lines(a), lines(b));
    let line = |lines: &[&'a str], at: usize| lines.get(at).copied().unwrap_or("nothing more");
    (0..a.len().max(b.len())).map(|at| (line(&a, at), line(&b, at))).find(|(a, b)| a != b)
}

/// How the sequences of every batch are divided, as far as that is known before anything is measured.
pub fn split(options: &Options, config: &TrainConfig, found: Option<&State>) -> Result<Split> {
    let ranks = &options.ranks;
    let (rank, size) = (ranks.rank(), ranks.size());
    if !ranks.are_several() {
        ensure!(
            !matches!(&options.share, Some(Shares::Given(weights)) if weights.len() > 1),
            "--share: there is one rank; start several with mpirun"
        );
        return Ok(Split::default());
    }
    for leg in config.legs()? {
        let batch = leg.config.batch_size;
        if batch < size {
            return Err(Together(format!(
                "batch_size is {batch}: {size} ranks need as many sequences at least"
            ))
            .into());
        }
    }
    let recorded = found.map_or(&[][..], |state| &state.shares);
    match &options.share {
        Some(Shares::Given(weights)) if weights.len() != size => {
            Err(Together(format!("--share: {} shares, but there are {size} ranks", weights.len())).into())
        }
        Some(Shares::Given(weights)) => Split::weighted(rank, weights.clone()),
        None | Some(Shares::Measured) if recorded.len() == size => Split::weighted(rank, recorded.to_vec()),
        _ => {
            if !recorded.is_empty() {
                note!("note: the shares of the run were of {} ranks; now each has as much", recorded.len());
            }
            Ok(Split::equal(rank, size))
        }
    }
}

/// Whether shares are to be measured: where they were, they stay.
pub fn measures(options: &Options, found: Option<&State>) -> bool {
    let recorded = found.is_some_and(|state| state.shares.len() == options.ranks.size());
    options.ranks.are_several() && options.share == Some(Shares::Measured) && !recorded
}

/// Shares by how many sequences a second each rank computes, forward and backward. Nothing is updated.
pub fn measured(ranks: &Ranks, machine: &mut Machine, config: &TrainConfig) -> Result<Split> {
    let Machine { executor, feeding, batcher, .. } = machine;
    let own = config.split.own(config.batch_size).len();
    let speed = ranks.agree(time(executor.as_mut(), feeding, batcher).map(|seconds| own as f64 / seconds))?;
    let speeds = ranks.gather_all(speed)?;
    let fastest = speeds.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let weights: Vec<u64> =
        speeds.iter().map(|speed| ((1000.0 * speed / fastest).round() as u64).max(1)).collect();
    let shown: Vec<String> = weights.iter().map(u64::to_string).collect();
    note!("shares of the ranks, by their speed: {} (--share {})", shown.join(" : "), shown.join(","));
    Split::weighted(ranks.rank(), weights)
}

fn time(executor: &mut dyn Executor, feeding: &Feeding, batcher: &mut Batcher) -> Result<f64> {
    let mut best = f64::INFINITY;
    for step in 0..=MEASURED {
        let batch = batcher.step(step as u64)?;
        let since = Instant::now();
        feeding.run(executor, Phase::Clear, &batch, 0.0)?;
        feeding.run(executor, Phase::Micro, &batch, 0.0)?;
        executor.finish()?;
        if step > 0 {
            best = best.min(since.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// What computes, as a checkpoint names it: the same for all ranks.
pub fn device_name(ranks: &Ranks, executor: &dyn Executor) -> Result<String> {
    let all = ranks.gather_all(executor.identity().device())?;
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    all.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    match &all[..] {
        [only] => Ok(only.clone()),
        _ => {
            let named: Vec<String> = counts.iter().map(|(name, count)| format!("{count} × {name}")).collect();
            Ok(named.join(", "))
        }
    }
}

/// Whether the run is to end, and what this rank needs for the next step: of all ranks.
///
/// # Errors
/// A rank has not got it.
pub fn consent<T>(ranks: &Ranks, stop: bool, next: Result<T>) -> Result<(bool, T)> {
    if !ranks.are_several() {
        return next.map(|next| (stop, next));
    }
    let failed = next.as_ref().err().map(|error| format!("{error:#}"));
    let all: Vec<(bool, Option<String>)> = ranks.gather_all((stop, failed))?;
    for (rank, (_, failed)) in all.iter().enumerate() {
        if let Some(failed) = failed {
            return Err(Together(format!("rank {rank}: {failed}")).into());
        }
    }
    Ok((all.iter().any(|(stop, _)| *stop), next?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_one_stops_all() {
        let said = crate::ranks::threads::run(3, |ranks| {
            let go = consent(&ranks, ranks.rank() == 2, Ok(ranks.rank())).unwrap();
            let next = if ranks.rank() == 1 { Err(anyhow::anyhow!("damaged")) } else { Ok(()) };
            (go, consent(&ranks, false, next).unwrap_err().to_string())
        });
        for (rank, (go, error)) in said.into_iter().enumerate() {
            assert_eq!((go, error.as_str()), ((true, rank), "rank 1: damaged"));
        }
    }
}
