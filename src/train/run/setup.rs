//! What a run is before its first step: its configuration, where its schedule stands, and what is said of it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::interop::checkpoint::{self, BudgetState, Found, State};
use crate::plan::Identity;
use crate::ranks::Ranks;

use super::super::config::{Surroundings, TrainConfig};
use super::super::init::Init;
use super::super::schedule::Schedule;
use super::super::settings::Change;
use super::Options;
use super::begin::resumed_config;
use super::budget::{self, Budget};
use super::decay::DecayFrom;

/// The configuration of a run, checked against the device.
pub struct Asked {
    pub config: TrainConfig,
    /// What the user has changed of a run that goes on.
    pub changes: Vec<Change>,
    /// Of a run that begins, where there is one.
    pub budget: Option<BudgetState>,
}

/// The configuration that `options` ask for, of a run that begins, goes on, or ends another.
pub fn asked(
    options: &Options,
    init: Option<&Init>,
    decay: Option<&DecayFrom>,
    surroundings: Surroundings<'_>,
) -> Result<Asked> {
    let (mut changes, mut budget) = (Vec::new(), None);
    if options.resume {
        let config;
        (config, changes) = resumed_config(options, surroundings)?;
        return Ok(Asked { config, changes, budget });
    }
    let config = match (decay, options.budget) {
        (Some(from), _) => from.config(&options.sources, surroundings)?,
        (None, time) => {
            let sizes = init.map_or(Ok(Vec::new()), Init::sizes)?;
            let (settings, notes) = match time {
                None => options.sources.settings_for(&sizes)?,
                Some(time) => {
                    let (settings, notes, state) = budget::begin(time, &options.sources, &sizes)?;
                    budget = Some(state);
                    (settings, notes)
                }
            };
            notes.iter().for_each(|note| note!("{note}"));
            let config = TrainConfig::resolve(settings, surroundings)?;
            if budget.is_some() {
                budget::suits(&config)?;
            }
            config
        }
    };
    Ok(Asked { config, changes, budget })
}

/// Fails where the device has no room for the run.
pub fn check(options: &Options, config: &TrainConfig, surroundings: Surroundings<'_>) -> Result<()> {
    let checked = config.check(surroundings.room, options.eval_store.is_some());
    if !options.resume {
        return checked;
    }
    let path = options.out.join(checkpoint::CONFIG);
    checked.with_context(|| format!("--resume continues {} as it began", path.display()))
}

/// Updates that were made before the first one of this process.
pub fn first_step(
    options: &Options,
    config: &TrainConfig,
    init: Option<&Init>,
    decay: Option<&DecayFrom>,
    found: Option<&Found>,
) -> Result<u64> {
    if let Some(found) = found {
        return Ok(found.checkpoint.state.step);
    }
    match init {
        Some(init) => init.step(options.init_step, config.steps),
        None => Ok(decay.map_or(0, |decay| decay.checkpoint.state.step)),
    }
}

/// Says where a run stands, what computes it, and what its learning rate does.
pub fn announce(
    out: &Path,
    config: &TrainConfig,
    state: &State,
    schedule: &Schedule,
    budget: Option<&Budget<'_>>,
    on: &Identity,
    ranks: &Ranks,
) {
    let open = budget.is_some_and(Budget::is_open);
    let of = if open { String::new() } else { format!(" of {}", config.steps) };
    match ranks.size() {
        1 => note!("{}: step {}{of} on {on}", out.display(), state.step),
        count => note!("{}: step {}{of} on {count} ranks: {}", out.display(), state.step, state.device),
    }
    let rate = || schedule.describe(config.learning_rate, state);
    match budget {
        Some(budget) if open => note!("{}", budget.describe()),
        Some(budget) => note!("{}; {}", rate(), budget.describe()),
        None => note!("{}", rate()),
    }
}
