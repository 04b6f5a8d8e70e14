//! How a run begins: in an empty directory, from another model, or where its last checkpoint left it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::files::{last_step, write_atomically};
use crate::interop::checkpoint::{self, BudgetState, Found, Snapshot, State, StoreIdentity, Whole};
use crate::model::parameters;
use crate::plan::Executor;
use crate::store::{Store, Stores};

use super::super::config::{Surroundings, TrainConfig};
use super::super::following::FOLLOWING;
use super::super::init::Init;
use super::super::key::Resume;
use super::super::settings::Change;
use super::decay::DecayFrom;
use super::{METRICS, Options, together};

/// The run's own configuration, and what of it was changed because the user says so; other flags that contradict it are
/// refused by name.
pub fn resumed_config(
    options: &Options,
    surroundings: Surroundings<'_>,
) -> Result<(TrainConfig, Vec<Change>)> {
    let path = options.out.join(checkpoint::CONFIG);
    let saved = TrainConfig::load(&path).context("--resume")?;
    let sources = &options.sources;
    let mut settings = saved.clone();
    if sources.preset.is_some() || sources.file.is_some() || sources.hparams.is_some() {
        settings = sources.settings()?.0;
        // What follows from other keys does so once, when a run begins.
        let given = sources.given()?;
        let followed = FOLLOWING.into_iter().chain(options.budget.map(|_| "steps"));
        let followed = followed.filter(|name| given.get(name).is_none());
        for name in followed.filter(|_| sources.hparams.is_none()) {
            saved.get(name).map_or(Ok(()), |value| settings.set_value(name, value.clone()))?;
        }
        if options.budget.is_some() && settings.phases() == saved.phases() {
            settings.share_as(&saved)?;
        }
    } else {
        sources.assign(&mut settings)?;
    }
    TrainConfig::keep_sizes(&mut settings, &saved)?;
    let config = TrainConfig::resolve(settings, surroundings)?;
    let (asked, fixed): (Vec<_>, Vec<_>) =
        config.settings().changes(&saved).into_iter().partition(|change| change.key.resume == Resume::Asked);
    let refused = if options.allow_change || !fixed.is_empty() { &fixed } else { &asked };
    let hint = if fixed.is_empty() { " (--allow-change allows it)" } else { "" };
    ensure!(
        refused.is_empty(),
        "--resume continues {} as it began: {}{hint}",
        path.display(),
        refused.iter().map(Change::to_string).collect::<Vec<_>>().join("; ")
    );
    Ok((config, asked))
}

/// Where a run goes on, said on stderr; nothing where it begins.
///
/// # Errors
/// No checkpoint to go on from though the run has come further than its first step. Nothing was changed then.
pub fn found(out: &Path) -> Result<Option<Found>> {
    if let Some(found) = checkpoint::newest(out).context("--resume")? {
        found.notes().iter().for_each(|note| note!("{note}"));
        return Ok(Some(found));
    }
    let metrics = out.join(METRICS);
    if let Some(step) = last_step(&metrics)? {
        bail!(
            "--resume: {} has lines up to step {step}, but there is no checkpoint (no `latest`, none in `checkpoints`): \
             put one back there, or begin again in another directory",
            metrics.display()
        )
    }
    note!("note: {}: there is no checkpoint yet; the run begins at step 0", out.display());
    Ok(None)
}

/// What a run begins with.
pub enum Beginning {
    /// Parameters that its seed draws.
    Drawn,
    /// Its own last checkpoint.
    Resumed(Box<Found>),
    /// One of another run, whose schedule it ends.
    Decay(Box<DecayFrom>),
    /// Another model.
    Init(Box<Init>),
}

impl Beginning {
    pub fn of(found: Option<Found>, decay: Option<DecayFrom>, init: Option<Init>) -> Self {
        match (found, decay, init) {
            (Some(found), ..) => Beginning::Resumed(found.into()),
            (None, Some(decay), _) => Beginning::Decay(decay.into()),
            (None, None, Some(init)) => Beginning::Init(init.into()),
            (None, None, None) => Beginning::Drawn,
        }
    }
}

/// Draws the parameters, or loads what was found; the directory then holds what describes the run, and a checkpoint. So
/// wherever there is a run, `latest` names where it goes on. Nothing, and nothing written, where `stop` was set before a
/// new run's parameters were drawn.
pub fn start(
    options: &Options,
    beginning: Beginning,
    budget: Option<BudgetState>,
    config: &TrainConfig,
    stores: &Stores,
    executor: &mut dyn Executor,
    stop: &AtomicBool,
) -> Result<Option<State>> {
    let (out, store, first) = (&options.out, stores.first(), options.ranks.is_first());
    let fresh = State {
        step: 0,
        began: 0,
        tokens: 0,
        seed: config.seed,
        tokenizer: store.tokenizer_hash().to_owned(),
        lower: store.lower(),
        store: StoreIdentity::of(stores),
        loss_scaling: None,
        interval: None,
        norms: Vec::new(),
        detection: checkpoint::Detection::default(),
        positions: config.has_phases().then(|| first_length(config)).transpose()?,
        rollbacks: Vec::new(),
        stage: None,
        decay_from: None,
        budget,
        shares: config.split.recorded(),
        device: together::device_name(&options.ranks, executor)?,
    };
    // Of several ranks the first writes.
    let written = |write: &dyn Fn() -> Result<()>| if first { write() } else { Ok(()) };
    let write_config = || {
        let text = config.settings().to_toml();
        written(&|| write_atomically(&out.join(checkpoint::CONFIG), text.as_bytes()))
    };
    let write_vocabulary =
        || written(&|| checkpoint::write_vocabulary(out, store.is_ready_made(), store.tokenizer_model()));
    if let Beginning::Resumed(found) = beginning {
        options.ranks.agree(check(&found.checkpoint, &fresh, store))?;
        found.checkpoint.load(executor)?;
        write_config()?;
        write_vocabulary()?;
        if first {
            found.settle()?;
            checkpoint::remove_old(out, found.checkpoint.state.step, config.keep());
        }
        let State { device, shares, .. } = fresh;
        return Ok(Some(State { device, shares, ..found.checkpoint.state }));
    }
    if let Beginning::Decay(from) = beginning {
        options.ranks.agree(check(&from.checkpoint, &fresh, store))?;
        let state = from.load(executor, fresh.device)?;
        let state = State { shares: fresh.shares, ..state };
        written(&|| from.pass_on(out, &state))?;
        write_vocabulary()?;
        let snapshot = Snapshot::of(executor, &state)?;
        written(&|| snapshot.write(out, || Ok(())))?;
        // Last of all, as below.
        write_config()?;
        return Ok(Some(state));
    }
    if !parameters::initialise_until(executor, config.seed, || stop.load(Ordering::Relaxed))? {
        return Ok(None);
    }
    let Beginning::Init(init) = beginning else {
        // First of all, so that who is stopped here can resume.
        write_config()?;
        write_vocabulary()?;
        written(&|| Snapshot::drawn(&fresh).write(out, || Ok(())))?;
        return Ok(Some(fresh));
    };
    let step = init.step(options.init_step, config.steps)?;
    init.load(executor, step)?;
    let stage = config.schedule_from(step).stage(step);
    let positions = fresh.positions.map(|_| init.positions());
    let state = State { step, began: step, tokens: init.tokens(step), stage, positions, ..fresh };
    written(&|| init.pass_on(out, step))?;
    write_vocabulary()?;
    let snapshot = Snapshot::of(executor, &state)?;
    written(&|| snapshot.write(out, || Ok(())))?;
    // Last of all: who resumes finds what the run began with, or no run.
    write_config()?;
    Ok(Some(state))
}

/// The longest sequence that the run begins with.
fn first_length(config: &TrainConfig) -> Result<usize> {
    let legs = config.legs()?;
    legs.first().map(|leg| leg.config.max_length).context("a run of no steps")
}

/// Refuses a store that is not the run's.
fn check(checkpoint: &Whole, fresh: &State, store: &Store) -> Result<()> {
    let (state, shown, text) = (&checkpoint.state, checkpoint.path.display(), store.path().display());
    ensure!(
        state.tokenizer == fresh.tokenizer,
        "{text}: made with another tokenizer than the run {shown} ({:.12}…, not {:.12}…)",
        fresh.tokenizer,
        state.tokenizer
    );
    ensure!(
        state.store == fresh.store,
        "{text}: not the store of the run {shown} ({} documents, {} tokens, checksum {}; the run's had {}, {}, {})",
        fresh.store.documents,
        fresh.store.tokens,
        fresh.store.crc,
        state.store.documents,
        state.store.tokens,
        state.store.crc
    );
    if state.device != fresh.device {
        note!("note: the run was on {}; another device rounds otherwise", state.device);
    }
    Ok(())
}
