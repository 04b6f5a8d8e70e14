//! How a run begins: in an empty directory, from another model, or where its last checkpoint left it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::files::write_atomically;
use crate::interop::checkpoint::{self, State, StoreIdentity};
use crate::model::parameters;
use crate::plan::Executor;
use crate::store::Stores;

use super::super::config::{Surroundings, TrainConfig};
use super::super::init::Init;
use super::Options;

/// Refuses a directory with something in it.
pub fn ensure_empty(out: &Path) -> Result<()> {
    let shown = out.display();
    match fs::read_dir(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot use {shown} as the run's directory")),
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{shown} is not empty; continue the run in it with --resume, or name another directory"
            );
            Ok(())
        }
    }
}

/// The run's own configuration; flags that contradict it are refused by name.
pub fn resumed_config(options: &Options, surroundings: Surroundings<'_>) -> Result<TrainConfig> {
    let path = options.out.join(checkpoint::CONFIG);
    let saved = TrainConfig::load(&path).context("--resume")?;
    let sources = &options.sources;
    let mut settings = saved.clone();
    if sources.preset.is_some() || sources.file.is_some() || sources.hparams.is_some() {
        settings = sources.settings()?.0;
    } else {
        sources.assign(&mut settings)?;
    }
    TrainConfig::keep_sizes(&mut settings, &saved)?;
    let config = TrainConfig::resolve(settings, surroundings)?;
    let contradictions = config.settings().contradictions(&saved);
    ensure!(
        contradictions.is_empty(),
        "--resume continues {} as it began: {}",
        path.display(),
        contradictions.join("; ")
    );
    config
        .check(surroundings.room, options.eval_store.is_some())
        .with_context(|| format!("--resume continues {} as it began", path.display()))?;
    Ok(config)
}

/// Draws the parameters, or loads the last checkpoint; the directory then holds what describes the run.
pub fn start(
    options: &Options,
    init: Option<&Init>,
    config: &TrainConfig,
    stores: &Stores,
    executor: &mut dyn Executor,
) -> Result<State> {
    let (out, store) = (&options.out, stores.first());
    let fresh = State {
        step: 0,
        tokens: 0,
        seed: config.seed,
        tokenizer: store.tokenizer_hash().to_owned(),
        lower: store.lower(),
        store: StoreIdentity::of(stores),
        loss_scaling: None,
        device: executor.identity().device(),
    };
    let has_checkpoint = options.resume && checkpoint::is_run(out);
    let state = if has_checkpoint {
        let path = checkpoint::latest(out)?;
        let state = checkpoint::state(&path)?;
        let (shown, text) = (path.display(), store.path().display());
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
        checkpoint::load(&path, executor)?;
        State { device: fresh.device, ..state }
    } else {
        parameters::initialise(executor, config.seed)?;
        match init {
            Some(init) => {
                let step = init.step(options.init_step, config.steps)?;
                init.load(executor, step)?;
                State { step, tokens: init.tokens(step), ..fresh }
            }
            None => fresh,
        }
    };
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    write_atomically(&out.join(checkpoint::CONFIG), config.settings().to_toml().as_bytes())?;
    checkpoint::write_vocabulary(out, store.is_ready_made(), store.tokenizer_model())?;
    if let Some(init) = init {
        init.pass_on(out)?;
        // So that a run that is stopped before its first checkpoint resumes from what it began with.
        checkpoint::save(out, executor, &state, 0)?;
    }
    Ok(state)
}
