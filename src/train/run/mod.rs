//! A training run from its first step or its last checkpoint to its end.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::Serialize;

use crate::device::{Device, DeviceChoice, Peaks};
use crate::files::{JsonLines, write_atomically};
use crate::interop::checkpoint::State;
use crate::plan::InFlight;
use crate::store::{Stores, WeightedPath};

use super::config::{Sources, Surroundings, TrainConfig};
use super::evaluate::{Evaluation, Evaluator};
use super::examples::Batcher;
use super::feeding::Feeding;
use super::init::Init;
use super::metrics::MetricsRecord;
use super::profile::StepProfiler;
use super::progress::Progress;

mod begin;
mod lock;
mod saving;
mod training;

use begin::{found, resumed_config, start};
pub use lock::Claim;
use saving::Saving;
use training::Run;

const METRICS: &str = "metrics.jsonl";

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
    let claim = if options.resume { Claim::resumed } else { Claim::fresh };
    let _claim = claim(&options.out)?;
    let stores = Stores::open(&options.stores)?;
    let store = stores.first().clone();
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
    let found = if options.resume { found(&options.out)? } else { None };
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
    let state = start(options, init.as_ref(), found, &config, &stores, executor.as_mut())?;
    if let (Some(tensor), Some(scaling)) = (executor.plan().loss_scale, state.loss_scaling) {
        scaling.write(executor.as_mut(), tensor)?;
    }
    if let Some(used) = device.kernels_of(executor.as_ref()) {
        write_atomically(&kernels, &serde_json::to_vec_pretty(&used)?)?;
    }
    let out = &options.out;
    eprintln!("{}: step {} of {} on {}", out.display(), state.step, config.steps, executor.identity());
    let run = Run {
        metrics: JsonLines::open(&out.join(METRICS), state.step)?,
        evaluations: match evaluator {
            Some(_) => Some(JsonLines::open(&out.join("eval.jsonl"), evaluated_before(&config, &state))?),
            None => None,
        },
        progress: Progress::new(&config, &state, peak)?,
        in_flight: InFlight::default(),
        profiler: peaks.map(|peaks| StepProfiler::new(state.step, peaks)),
        saved: None,
        saving: Saving::new(out.clone(), config.keep()),
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

/// The step whose evaluation and earlier ones stay in the file; a finished run that is resumed makes its last
/// one again.
fn evaluated_before(config: &TrainConfig, state: &State) -> u64 {
    if state.step == config.steps { state.step - 1 } else { state.step }
}

#[cfg(test)]
mod tests;
