//! What the ranks of a run agree on before its first step: who writes, that they are given the same, and whose sequences are
//! whose. Where one cannot go on all end, with the line that says which and why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::interop::checkpoint::{self, State, StoreIdentity};
use crate::plan::{Executor, Phase};
use crate::ranks::{Given, Ranks, Shares, Split, Together};
use crate::store::Stores;

use super::super::config::{Surroundings, TrainConfig};
use super::super::examples::Batcher;
use super::super::feeding::Feeding;
use super::Options;
use super::leg::Machine;
use super::lock::Claim;

/// Steps whose times decide `--share auto`, after one that warms up: at least so many, and as many as the fastest rank makes
/// in so many seconds.
const MEASURED: usize = 3;
const MEASURED_SECONDS: f64 = 1.5;

/// Ranks whose speeds are as near as this are as fast: other work on the machine makes as much of a difference.
const ALIKE: f64 = 1.15;

/// The options that every rank must have been given alike, as they are called. Which cards, threads and stores each has is
/// its own: what they come to is compared.
pub fn given(options: &Options) -> Given {
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let out = std::path::absolute(&options.out).unwrap_or_else(|_| options.out.clone());
    let budget = |time| humantime::format_duration(time).to_string().replace(' ', "");
    Given::default()
        .with("--out", out.display())
        .with_switch("--resume", options.resume)
        .with_switch("--allow-change", options.allow_change)
        .with_some("--init", shown(&options.init))
        .with_some("--init-step", options.init_step)
        .with_some("--decay-from", shown(&options.decay_from))
        .with_some("--budget", options.budget.map(budget))
        .with_some("--eval-store", shown(&options.eval_store))
        .with_some("--memory-limit", options.memory_limit)
        .with_some("--share", options.share.as_ref())
        .with("--reduce", options.reduce)
        .with_switch("--debug-nan", options.debug_nan)
        .with_switch("--profile", options.profile)
        .with("--cross-check", options.cross_check)
}

/// What a rank trains on.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    tokenizer: String,
    lower: bool,
    store: StoreIdentity,
    /// Where it lies, which may be elsewhere on another machine.
    place: String,
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        let Text { tokenizer, lower, store, place: _ } = self;
        (tokenizer, lower, store) == (&other.tokenizer, &other.lower, &other.store)
    }
}

/// Claims the run's directory, for all ranks: the first has its lock.
pub fn claim(options: &Options) -> Result<Option<Claim>> {
    let claim = if options.resume { Claim::resumed } else { Claim::fresh };
    let first = options.ranks.is_first();
    options.ranks.agree(if first { claim(&options.out).map(Some) } else { Ok(None) })
}

/// Refuses ranks that were given something else, or read another text.
pub fn of_one_kind(options: &Options, stores: &Stores) -> Result<()> {
    let (ranks, store) = (&options.ranks, stores.first());
    // Again, as the run's directory says more.
    ranks.given_alike(&given(options))?;
    let text = Text {
        tokenizer: store.tokenizer_hash().to_owned(),
        lower: store.lower(),
        store: StoreIdentity::of(stores),
        place: store.path().display().to_string(),
    };
    ranks.all_alike(&text, |other, first| {
        if (&other.tokenizer, other.lower) != (&first.tokenizer, first.lower) {
            return format!("{}: made with another tokenizer than rank 0's {}", other.place, first.place);
        }
        format!(
            "{}: another text than rank 0's {} ({} documents, {} tokens, checksum {}; rank 0 has {}, {}, {})",
            other.place,
            first.place,
            other.store.documents,
            other.store.tokens,
            other.store.crc,
            first.store.documents,
            first.store.tokens,
            first.store.crc
        )
    })
}

/// Refuses ranks that have another checkpoint, of the same name in another place or not. Of several ranks all call it.
pub fn of_one_checkpoint(ranks: &Ranks, checkpoint: Option<&PathBuf>) -> Result<()> {
    let sum =
        |path: &PathBuf| checkpoint::checksum(path).map(|sum| format!("{} ({sum:08x})", path.display()));
    let sum = ranks.agree(checkpoint.filter(|_| ranks.are_several()).map(sum).transpose())?;
    ranks.given_alike(&Given::default().with_some("the checkpoint", sum))
}

/// The configuration of all ranks: what is sized by memory is the least of any, all else must be the same.
pub fn one_config(
    options: &Options,
    config: TrainConfig,
    surroundings: Surroundings<'_>,
) -> Result<TrainConfig> {
    let ranks = &options.ranks;
    if !ranks.are_several() {
        return Ok(config);
    }
    // Sizes that somebody gave to one rank only he wants of all.
    let given = ranks.agree(options.sources.given())?;
    ranks.given_alike(&given.sized_by_room())?;
    ranks.given_alike(&config.given())?;
    let mut settings = config.settings().clone();
    settings.take_least(&ranks.gather_all(settings.sizes_by_room())?)?;
    ranks.agree(TrainConfig::resolve(settings, surroundings))
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
            return Err(Together::new(format!(
                "batch_size is {batch}: {size} ranks need as many sequences at least"
            ))
            .into());
        }
    }
    let recorded = found.map_or(&[][..], |state| &state.shares);
    match &options.share {
        Some(Shares::Given(weights)) if weights.len() != size => {
            Err(Together::new(format!("--share: {} shares, but there are {size} ranks", weights.len()))
                .into())
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
    let own = config.split.own(config.batch_size).len();
    let speeds = ranks.gather_all(own as f64 / time(ranks, machine)?)?;
    let weights = weights(&speeds);
    let shares = weights.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let speeds: Vec<String> = speeds.iter().map(|speed| format!("{speed:.1}")).collect();
    note!(
        "shares of the ranks, by their speed: {shares} ({} sequences/s); they stay: --resume --share sets others",
        speeds.join(", ")
    );
    Split::weighted(ranks.rank(), weights)
}

/// Seconds of a step, the median of some. All make as many, at the same time.
fn time(ranks: &Ranks, machine: &mut Machine) -> Result<f64> {
    let Machine { executor, feeding, batcher, .. } = machine;
    let mut times = Vec::new();
    for step in 0.. {
        let seconds = ranks.agree(one_step(executor.as_mut(), feeding, batcher, step))?;
        if step > 0 {
            times.push(seconds);
        }
        let wants_more = times.len() < MEASURED || times.iter().sum::<f64>() < MEASURED_SECONDS;
        // As the fastest says: slower ones have measured longer by then.
        if ranks.any(!wants_more)? {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2].max(f64::MIN_POSITIVE))
}

fn one_step(executor: &mut dyn Executor, feeding: &Feeding, batcher: &mut Batcher, step: u64) -> Result<f64> {
    let batch = batcher.step(step)?;
    let since = Instant::now();
    feeding.run(executor, Phase::Clear, &batch, 0.0)?;
    feeding.run(executor, Phase::Micro, &batch, 0.0)?;
    executor.finish()?;
    Ok(since.elapsed().as_secs_f64())
}

/// In thousandths of the fastest; equal where all are about as fast.
fn weights(speeds: &[f64]) -> Vec<u64> {
    let fastest = speeds.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    if speeds.iter().all(|speed| speed * ALIKE >= fastest) {
        return vec![1; speeds.len()];
    }
    speeds.iter().map(|speed| ((1000.0 * speed / fastest).round() as u64).max(1)).collect()
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
            return Err(Together::new(format!("rank {rank}: {failed}")).into());
        }
    }
    let asked = all.iter().position(|(stop, _)| *stop);
    if let Some(rank) = asked {
        note!("stopping and saving, as rank {rank} was asked to; a second Ctrl-C or signal stops at once");
    }
    Ok((asked.is_some(), next?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_from_speeds_that_differ() {
        for (speeds, shares) in [
            (&[10.0, 10.0][..], &[1, 1][..]),
            (&[10.0, 8.8], &[1, 1]),
            (&[10.0, 8.6], &[1000, 860]),
            (&[5.0, 10.0, 9.9], &[500, 1000, 990]),
            (&[1e-9, 10.0], &[1, 1000]),
        ] {
            assert_eq!(weights(speeds), shares, "{speeds:?}");
        }
    }

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
