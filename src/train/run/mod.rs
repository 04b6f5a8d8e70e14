//! A training run from its first step or its last checkpoint to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::device::{Device, DeviceChoice, Peaks};
use crate::files::JsonLines;
use crate::gpu::{DeviceLost, OutOfMemory};
use crate::interop::checkpoint::{self, Rollback, State};
use crate::note::Bar;
use crate::plan::InFlight;
use crate::store::{Stores, WeightedPath};

use super::config::{Sources, Surroundings, TrainConfig, describe_phases, leg_of};
use super::divergence::MOST_ROLLBACKS;
use super::evaluate::{Evaluation, Evaluator};
use super::events::{Events, FOLDER, HELD_OUT};
use super::init::Init;
use super::metrics::MetricsRecord;
use super::profile::StepProfiler;
use super::progress::Progress;
use super::settings::Change;
use super::vigilance::Vigilance;

mod adjusting;
mod apportion;
mod begin;
mod budget;
mod clock;
mod cross_check;
mod decay;
mod incident;
mod leg;
mod lock;
mod outlook;
mod record;
mod rollback;
mod saving;
mod search;
mod selftest;
mod setup;
mod training;

use begin::{Beginning, found, start};
use budget::Budget;
pub use budget::parse as parse_budget;
use clock::{Clock, Time};
use decay::DecayFrom;
use leg::{Machine, Workshop};
pub use lock::Claim;
use outlook::Outlook;
pub use record::RUN;
use record::record;
use rollback::asked_by;
use saving::Saving;
pub use selftest::SelfTest;
use setup::{Asked, announce, asked, first_step};
use training::Run;

const METRICS: &str = "metrics.jsonl";
const HISTORY: &str = "history.jsonl";
/// Steps whose numbers were no good, a file each.
pub const INCIDENTS: &str = "incidents";
/// Where the time of a step goes, with `--profile`.
pub const PROFILE: &str = "profile.json";

/// How often a lost device is opened again where nobody says.
pub const RETRIES: u32 = 3;

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
    /// Bytes that plans may take at most, where the user says so.
    pub memory_limit: Option<u64>,
    /// How often a lost device is opened again, from one checkpoint to the next.
    pub retries: u32,
    pub resume: bool,
    /// With `resume`: keys that decide what is computed may have other values.
    pub allow_change: bool,
    /// A run, a checkpoint or an imported model that this one begins with.
    pub init: Option<PathBuf>,
    /// With `init`: the step at which the schedule begins.
    pub init_step: Option<u64>,
    /// A checkpoint of a run whose rate stays: this one decays from there.
    pub decay_from: Option<PathBuf>,
    /// The time that the run has, from which its steps follow.
    pub budget: Option<Duration>,
    /// Held-out text to evaluate on.
    pub eval_store: Option<PathBuf>,
    /// Show where the time of a few steps goes.
    pub profile: bool,
    /// With that, a file for what each op of these steps did when.
    pub profile_trace: Option<PathBuf>,
    /// Write event files for TensorBoard, too.
    pub tensorboard: bool,
    /// Whether kernels are tested before the first step.
    pub selftest: SelfTest,
    /// Every so many steps, a micro-batch is computed on the processor too and compared; 0 for never.
    pub cross_check: u64,
    /// Wait for each step, and look for the op in which a number first is none.
    pub debug_nan: bool,
    /// Looks at the device before each step: tests take it away.
    pub watch: Option<Watch>,
    /// What a budget is measured by: tests let time pass.
    pub time: Time,
    /// Steps at which legs end though nothing changes there.
    #[cfg(test)]
    pub borders: Vec<u64>,
}

impl Options {
    /// The command that goes on with the run, or begins it again where nothing of it was written.
    pub fn resuming(&self) -> String {
        let mut words = vec!["inazuma".to_owned(), "pretrain".to_owned()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        self.stores.iter().for_each(|store| option("--store", store.to_string()));
        option("--out", self.out.display().to_string());
        if let Some(path) = &self.eval_store {
            option("--eval-store", path.display().to_string());
        }
        if self.device != DeviceChoice::Auto {
            option("--device", self.device.to_string());
        }
        if self.threads > 0 {
            option("--threads", self.threads.to_string());
        }
        if let Some(bytes) = self.memory_limit {
            option("--memory-limit", bytes.to_string());
        }
        if self.retries != RETRIES {
            option("--retries", self.retries.to_string());
        }
        if self.selftest != SelfTest::default() {
            option("--selftest", self.selftest.to_string());
        }
        if self.cross_check > 0 {
            option("--cross-check", self.cross_check.to_string());
        }
        let switches = [(self.debug_nan, "--debug-nan"), (self.tensorboard, "--tensorboard")];
        words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
        words.push("--resume".to_owned());
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }
}

/// Called with the number of the step that comes next.
type Look = dyn Fn(u64, &Device) + Send + Sync;

#[derive(Clone)]
pub struct Watch(pub Arc<Look>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub step: u64,
    pub tokens: u64,
    /// The last line of `metrics.jsonl` that this run wrote.
    pub metrics: Option<MetricsRecord>,
    pub evaluation: Option<Evaluation>,
    /// Stopped by the user before the last step, and saved if a step was made.
    pub interrupted: bool,
}

impl Report {
    /// Of a run that was stopped before its first step.
    fn not_begun() -> Self {
        Report { step: 0, tokens: 0, metrics: None, evaluation: None, interrupted: true }
    }
}

/// Trains until the last step, or until `stop` is set: then what is trained is saved. Where the device is lost, or has no
/// memory left though it had enough for a step before (others use it too), it is opened again and training goes on from the
/// last checkpoint.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    let mut options = options.clone();
    let clock = Clock::start(options.time.clone());
    let mut rollbacks: Vec<Rollback> = Vec::new();
    let (mut tries, mut saved) = (0, None);
    let begun = AtomicU64::new(0);
    loop {
        let error = match attempt(&options, &rollbacks, &clock, stop, &begun) {
            Err(error) => error,
            ended => return ended,
        };
        let reached = checkpoint::latest(&options.out).ok();
        if let Some(rollback) = asked_by(&error, &options.out)? {
            let step = rollback.step;
            let again = rollbacks.iter().filter(|rollback| rollback.step == step).count();
            if again >= MOST_ROLLBACKS {
                return Err(error.context(format!("given up after {again} rollbacks to step {step}")));
            }
            let without = rollback.batch.map_or(String::new(), |batch| format!(" without batch {batch}"));
            note!(
                "inazuma: {error:#}; going back to step {step}{without}, learning rate × {}",
                rollback.rate
            );
            rollbacks.push(rollback);
        } else if error.downcast_ref::<DeviceLost>().is_some()
            // That the first step has begun says little; a second one says that there was memory for the first.
            || error.downcast_ref::<OutOfMemory>().is_some() && begun.load(Ordering::Relaxed) > 1
        {
            tries = if reached == saved { tries + 1 } else { 1 };
            saved = reached;
            if tries > options.retries {
                return Err(error.context(match options.retries {
                    0 => "--retries is 0".to_owned(),
                    retries => format!("given up after {retries} retries (--retries)"),
                }));
            }
            note!(
                "inazuma: {error:#}; going on from the last checkpoint (try {tries} of {})",
                options.retries
            );
            // A driver that is reset needs a moment.
            for _ in 0..10 * tries {
                if stop.load(Ordering::Relaxed) {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        } else {
            return Err(error);
        }
        // What is left of a run that had begun says how it goes on.
        if options.out.join(checkpoint::CONFIG).is_file() {
            options.resume = true;
            options.sources = Sources::default();
        }
    }
}

/// Trains from the first step or the last checkpoint. `rollbacks` has those since this process began; `begun` counts the
/// steps that are begun.
fn attempt(
    options: &Options,
    rollbacks: &[Rollback],
    clock: &Clock,
    stop: &AtomicBool,
    begun: &AtomicU64,
) -> Result<Report> {
    let stopped = || stop.load(Ordering::Relaxed);
    let claim = if options.resume { Claim::resumed } else { Claim::fresh };
    let _claim = claim(&options.out)?;
    let stores = Stores::open(&options.stores)?;
    let store = stores.first().clone();
    for (store, weight) in stores.iter() {
        detail!("{}: {} tokens, weight {weight}", store.path().display(), store.tokens());
    }
    let device = Device::new(&options.device, options.threads)?.with_memory_limit(options.memory_limit);
    let surroundings = Surroundings { vocab_size: store.vocab_size(), room: device.room() };
    let init = options.init.as_deref().map(Init::open).transpose()?;
    let decay = options.decay_from.as_deref().filter(|_| !options.resume);
    let decay = decay.map(DecayFrom::open).transpose()?;
    let Asked { config, changes, budget } = asked(options, init.as_ref(), decay.as_ref(), surroundings)?;
    let found = if options.resume { found(&options.out)? } else { None };
    match &found {
        Some(found) => budget::resumed(options.budget, &found.checkpoint.state, &changes)?,
        None if options.resume => budget::unknown(&config)?,
        None => {}
    }
    if let Some(init) = &init {
        init.check(&store, &config.model)?;
    }
    let first = first_step(options, &config, init.as_ref(), decay.as_ref(), found.as_ref())?;
    #[cfg_attr(not(test), expect(unused_mut))]
    let mut legs = config.legs()?;
    #[cfg(test)]
    options.borders.iter().for_each(|&at| super::config::change_from(&mut legs, at, |_| ()));
    let leg = leg_of(&legs, first);
    let own = legs[leg].config.clone();
    if config.has_phases() {
        describe_phases(&legs).iter().for_each(|line| note!("{line}"));
    }
    let peaks = options.profile.then(|| Peaks::measure(&device)).transpose()?;
    let peak = peaks.map_or_else(|| Peaks::multiply_adds(&device), |peaks| Ok(peaks.flops_per_second))?;
    let kernels = options.out.join("kernels.json");
    if options.resume {
        device.reuse_kernels(&kernels)?;
    }
    if stopped() {
        return Ok(Report::not_begun());
    }
    let workshop = Workshop { options, device: &device, stores: &stores };
    let mut machine = workshop.open(&own)?;
    let evaluator = match &options.eval_store {
        Some(path) => Some(Evaluator::new(path, &store, &config.evaluated()?, &device)?),
        None => None,
    };
    if stopped() {
        return Ok(Report::not_begun());
    }
    let executor = machine.executor.as_mut();
    let beginning = Beginning::of(found, decay, init);
    let state = start(options, beginning, budget, &config, &stores, executor, stop)?;
    let Some(mut state) = state else { return Ok(Report::not_begun()) };
    workshop.begin(&mut machine, &own, &state)?;
    let Machine { executor, feeding, batcher, cross_check } = machine;
    workshop.record_kernels(&kernels, &legs, leg, executor.as_ref())?;
    let out = &options.out;
    if let Err(error) = record(out, options, &stores, &executor.identity().device()) {
        note!("warning: {error:#}; training goes on without it");
    }
    record_history(out, &mut state, rollbacks, &changes)?;
    let budget = Budget::of(&state, clock, &config, evaluator.is_some());
    let schedule = config.schedule_from(state.began);
    announce(out, &config, &state, &schedule, budget.as_ref(), &executor.identity());
    Outlook { out, config: &config, legs: &legs, state: &state, stores: &stores, plan: executor.plan() }
        .lines(budget.as_ref().is_some_and(Budget::is_open))
        .iter()
        .for_each(|line| note!("{line}"));
    let mut progress = Progress::new(&config, &state, peak)?;
    if budget.as_ref().is_some_and(Budget::is_open) {
        progress.set_legs(&legs, None);
    }
    let events = |folder: &str, done| options.tensorboard.then(|| Events::begin(&out.join(folder), done));
    let run = Run {
        events: events(FOLDER, state.step),
        held_out_events: match evaluator {
            Some(_) => events(&format!("{FOLDER}/{HELD_OUT}"), evaluated_before(&config, &state)),
            None => None,
        },
        schedule,
        metrics: JsonLines::open(&out.join(METRICS), state.step)?,
        evaluations: match evaluator {
            Some(_) => Some(JsonLines::open(&out.join("eval.jsonl"), evaluated_before(&config, &state))?),
            None => None,
        },
        bar: Bar::start(),
        vigilance: Vigilance::new(&config, state.began),
        intervals: 0,
        progress,
        in_flight: InFlight::default(),
        profiler: peaks.map(|peaks| StepProfiler::new(state.step, peaks, options.profile_trace.clone())),
        saved: Some(state.step),
        saving: Saving::new(out.clone(), config.keep()),
        out,
        budget,
        whole: config,
        config: own,
        legs,
        leg,
        workshop,
        peaks,
        feeding,
        executor,
        evaluator,
        evaluation: None,
        skipped: 0,
        cross_check,
        suspect: None,
        debug_nan: options.debug_nan,
        state,
    };
    let watch = |step| {
        begun.fetch_add(1, Ordering::Relaxed);
        options.watch.iter().for_each(|watch| watch.0(step, &device));
    };
    run.train(batcher, stop, &watch)
}

/// Adds what has happened to the run since its checkpoint was written, to its state and to `history.jsonl`.
fn record_history(out: &Path, state: &mut State, rollbacks: &[Rollback], changes: &[Change]) -> Result<()> {
    let new = rollbacks.iter().filter(|rollback| !state.rollbacks.contains(rollback));
    let new: Vec<Rollback> = new.cloned().collect();
    if new.is_empty() && changes.is_empty() {
        return Ok(());
    }
    let path = out.join(HISTORY);
    let mut history = JsonLines::open(&path, state.step)?;
    let written =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for Change { name, from, to, .. } in changes {
        note!("{name} is {to} from step {} on, it was {from}", state.step);
        let event = json!({"step": state.step, "event": "changed", "key": name, "from": from, "to": to});
        history.append(&event)?;
    }
    for rollback in &new {
        let mut event = serde_json::to_value(rollback)?;
        event["event"] = "rollback".into();
        // Until a checkpoint has it, each attempt comes here with it.
        let line = event.to_string();
        if !written.lines().any(|known| known == line) {
            history.append(&event)?;
        }
    }
    state.rollbacks.extend(new);
    history.finish()
}

/// The step whose evaluation and earlier ones stay in the file; a finished run that is resumed makes its last
/// one again.
fn evaluated_before(config: &TrainConfig, state: &State) -> u64 {
    if state.step == config.steps { state.step - 1 } else { state.step }
}

#[cfg(test)]
mod tests;
