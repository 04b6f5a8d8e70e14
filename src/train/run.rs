//! A training run from its first step or its last checkpoint to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::device::{Device, DeviceChoice, Peaks};
use crate::files::{JsonLines, write_atomically};
use crate::interop::checkpoint::{self, LossScalingState, State, StoreIdentity};
use crate::model::parameters;
use crate::plan::{Executor, IN_FLIGHT, InFlight};
use crate::store::{Stores, WeightedPath};

use super::config::{Sources, Surroundings, TrainConfig};
use super::evaluate::{Evaluation, Evaluator};
use super::examples::{Batcher, Feeder, StepBatch};
use super::feeding::Feeding;
use super::init::Init;
use super::metrics::MetricsRecord;
use super::profile::StepProfiler;
use super::progress::{Progress, Submitted};
use super::schedule;

/// What `pretrain` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is trained on, with weights.
    pub stores: Vec<WeightedPath>,
    pub out: PathBuf,
    pub sources: Sources,
    pub device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core.
    pub threads: usize,
    pub resume: bool,
    /// A run, a checkpoint or an imported model that this one begins with.
    pub init: Option<PathBuf>,
    /// With `init`: the step at which the schedule begins.
    pub init_step: Option<u64>,
    /// Held-out text to evaluate on.
    pub eval_store: Option<PathBuf>,
    /// Show where the time of a few steps goes.
    pub profile: bool,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub step: u64,
    pub tokens: u64,
    /// The last line of `metrics.jsonl` that this run wrote.
    pub metrics: Option<MetricsRecord>,
    pub evaluation: Option<Evaluation>,
    /// Stopped by the user before the last step, and saved.
    pub interrupted: bool,
}

/// Trains until the last step, or until `stop` is set: then the step is finished and saved.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    let stores = Stores::open(&options.stores)?;
    let store = stores.first().clone();
    if !options.resume {
        ensure_empty(&options.out)?;
    }
    let device = Device::new(&options.device, options.threads)?;
    let surroundings = Surroundings { vocab_size: store.vocab_size(), room: device.room() };
    let init = options.init.as_deref().map(Init::open).transpose()?;
    let config = if options.resume {
        resumed_config(options, surroundings)?
    } else {
        let sizes = init.as_ref().map_or(Ok(Vec::new()), Init::sizes)?;
        let (settings, notes) = options.sources.settings_for(&sizes)?;
        notes.iter().for_each(|note| eprintln!("{note}"));
        let config = TrainConfig::resolve(settings, surroundings)?;
        config.check(surroundings.room, options.eval_store.is_some())?;
        config
    };
    if let Some(init) = &init {
        init.check(&store, &config.model)?;
        init.step(options.init_step, config.steps)?;
    }
    let batcher = Batcher::new(&stores, &config)?;
    let plan = config.plan()?;
    let peaks = options.profile.then(|| Peaks::measure(&device)).transpose()?;
    let peak = peaks.map_or_else(|| Peaks::multiply_adds(&device), |peaks| Ok(peaks.flops_per_second))?;
    let kernels = options.out.join("kernels.json");
    if options.resume {
        device.reuse_kernels(&kernels)?;
    }
    eprintln!("{}", config.room_taken(&plan.plan, device.room()));
    let (mut executor, feeding) = Feeding::open(&device, plan)?;
    let evaluator = match &options.eval_store {
        Some(path) => Some(Evaluator::new(path, &store, &config, &device)?),
        None => None,
    };
    let state = start(options, init.as_ref(), &config, &stores, executor.as_mut())?;
    if let (Some(tensor), Some(scaling)) = (executor.plan().loss_scale, state.loss_scaling) {
        scaling.write(executor.as_mut(), tensor)?;
    }
    if let Some(used) = device.kernels_of(executor.as_ref()) {
        write_atomically(&kernels, &serde_json::to_vec_pretty(&used)?)?;
    }
    let out = &options.out;
    eprintln!("{}: step {} of {} on {}", out.display(), state.step, config.steps, executor.identity());
    let run = Run {
        metrics: JsonLines::open(&out.join("metrics.jsonl"), state.step)?,
        evaluations: match evaluator {
            Some(_) => Some(JsonLines::open(&out.join("eval.jsonl"), evaluated_before(&config, &state))?),
            None => None,
        },
        progress: Progress::new(&config, state.step, state.tokens, peak),
        in_flight: InFlight::default(),
        profiler: peaks.map(|peaks| StepProfiler::new(state.step, peaks)),
        saved: None,
        out,
        config: &config,
        feeding,
        executor,
        evaluator,
        evaluation: None,
        state,
    };
    run.train(batcher, stop)
}

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
fn resumed_config(options: &Options, surroundings: Surroundings<'_>) -> Result<TrainConfig> {
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
fn start(
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
            eprintln!("note: the run was on {}; another device rounds otherwise", state.device);
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
        init.pass_on(out, state.step)?;
        // So that a run that is stopped before its first checkpoint resumes from what it began with.
        checkpoint::save(out, executor, &state, 0)?;
    }
    Ok(state)
}

/// The step whose evaluation and earlier ones stay in the file; a finished run that is resumed makes its last
/// one again.
fn evaluated_before(config: &TrainConfig, state: &State) -> u64 {
    if state.step == config.steps { state.step - 1 } else { state.step }
}

struct Run<'a> {
    out: &'a Path,
    config: &'a TrainConfig,
    feeding: Feeding,
    executor: Box<dyn Executor>,
    evaluator: Option<Evaluator>,
    evaluation: Option<Evaluation>,
    metrics: JsonLines,
    evaluations: Option<JsonLines>,
    progress: Progress,
    in_flight: InFlight<Submitted>,
    profiler: Option<StepProfiler>,
    /// As the run stands; `step` counts the steps submitted.
    state: State,
    /// Step of the checkpoint written last by this run.
    saved: Option<u64>,
}

impl Run<'_> {
    fn train(mut self, batcher: Batcher, stop: &AtomicBool) -> Result<Report> {
        let config = self.config;
        let mut feeder = Feeder::start(batcher, self.state.step..config.steps)?;
        let mut interrupted = false;
        while self.state.step < config.steps && !interrupted {
            let batch = feeder.next_step()?;
            self.step(&batch)?;
            let step = self.state.step;
            interrupted = stop.load(Ordering::Relaxed) && step < config.steps;
            if step.is_multiple_of(config.checkpoint_every) || step == config.steps || interrupted {
                self.save()?;
            }
            if config.eval_every > 0
                && step.is_multiple_of(config.eval_every)
                && step < config.steps
                && !interrupted
            {
                self.evaluate()?;
            }
        }
        if !interrupted {
            self.evaluate()?;
        }
        Ok(Report {
            step: self.state.step,
            tokens: self.state.tokens,
            metrics: self.progress.last(),
            evaluation: self.evaluation,
            interrupted,
        })
    }

    /// Submits one update and takes what results of earlier ones have arrived.
    fn step(&mut self, batch: &StepBatch) -> Result<()> {
        let config = self.config;
        let rate = schedule::learning_rate(
            batch.step,
            config.learning_rate,
            config.steps,
            config.warmup_steps,
            config.lr_decay_power,
        );
        let executor = self.executor.as_mut();
        match &mut self.profiler {
            Some(profiler) => {
                let finished = profiler.step(executor, &self.feeding, batch, rate)?;
                if finished {
                    self.profiler = None;
                }
            }
            None => self.feeding.step(executor, batch, rate)?,
        }
        let submitted = Submitted { step: batch.step, totals: batch.totals, learning_rate: rate };
        self.in_flight.submitted(executor, &self.feeding.reported(), submitted)?;
        self.state.step = batch.step + 1;
        self.state.tokens += batch.totals.tokens;
        self.collect(IN_FLIGHT)
    }

    /// Takes results until at most `waiting` steps are in flight, and all that have arrived.
    fn collect(&mut self, waiting: usize) -> Result<()> {
        while let Some((submitted, words)) = self.in_flight.next(self.executor.as_mut(), waiting)? {
            let record = self.progress.arrived(submitted, &words).map_err(|error| self.advise(error))?;
            if let Some(record) = record {
                eprintln!("{}", self.progress.line(&record));
                self.metrics.append(&record)?;
            }
        }
        Ok(())
    }

    /// What to do about a loss that is not a number.
    fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        let kept = match checkpoint::latest(self.out) {
            Ok(path) => format!("the last checkpoint stays: {}", path.display()),
            Err(_) => "there is no checkpoint yet".to_owned(),
        };
        anyhow::anyhow!("{error:#}; {kept}; start again with a lower learning_rate or more warmup_steps")
    }

    fn save(&mut self) -> Result<()> {
        self.collect(0)?;
        if self.saved != Some(self.state.step) {
            if let Some(tensor) = self.executor.plan().loss_scale {
                self.state.loss_scaling = Some(LossScalingState::read(self.executor.as_mut(), tensor)?);
            }
            checkpoint::save(self.out, self.executor.as_mut(), &self.state, self.config.keep)?;
            self.saved = Some(self.state.step);
        }
        self.progress.pause();
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        let (Some(evaluator), Some(evaluations)) = (&mut self.evaluator, &mut self.evaluations) else {
            return Ok(());
        };
        let evaluation = evaluator.evaluate(self.state.step, self.executor.as_mut())?;
        eprintln!("{evaluation}");
        evaluations.append(&evaluation)?;
        self.evaluation = Some(evaluation);
        self.progress.pause();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
