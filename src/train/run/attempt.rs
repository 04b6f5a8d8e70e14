//! A run from its first step or its last checkpoint, as long as nothing stands in its way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::json;

use crate::device::{Device, Peaks};
use crate::files::JsonLines;
use crate::interop::checkpoint::{BudgetState, Found, Rollback, State};
use crate::note::Bar;
use crate::plan::InFlight;
use crate::store::{Store, Stores};

use super::super::config::{Surroundings, TrainConfig, describe_phases, leg_of};
use super::super::evaluate::Evaluator;
use super::super::events::{Events, FOLDER, HELD_OUT};
use super::super::init::Init;
use super::super::profile::StepProfiler;
use super::super::progress::Progress;
use super::super::settings::Change;
use super::super::vigilance::Vigilance;
use super::begin::{Beginning, found, start};
use super::budget::{self, Budget};
use super::clock::Clock;
use super::decay::DecayFrom;
use super::forecast::Forecast;
use super::leg::{Machine, Workshop};
use super::outlook::Outlook;
use super::record::record;

use super::saving::Saving;
use super::setup::{Asked, announce, asked, check, first_step};
use super::training::{Run, Stop};
use super::{HISTORY, METRICS, Options, Report, together};

/// What a run begins with, as far as the command and the run's directory say.
struct Beginnings {
    config: TrainConfig,
    changes: Vec<Change>,
    budget: Option<BudgetState>,
    found: Option<Found>,
    init: Option<Init>,
    decay: Option<DecayFrom>,
}

fn beginnings(options: &Options, store: &Store, surroundings: Surroundings<'_>) -> Result<Beginnings> {
    let ranks = &options.ranks;
    let init = ranks.agree(options.init.as_deref().map(Init::open).transpose())?;
    let decay = options.decay_from.as_deref().filter(|_| !options.resume);
    let decay = ranks.agree(decay.map(DecayFrom::open).transpose())?;
    let begins_with = init.as_ref().map(Init::checkpoint);
    together::of_one_checkpoint(ranks, begins_with.or(decay.as_ref().map(|from| &from.checkpoint.path)))?;
    let asked = ranks.agree(asked(options, init.as_ref(), decay.as_ref(), surroundings))?;
    let Asked { config, changes, budget } = asked;
    let mut config = together::one_config(options, config, surroundings)?;
    let found = found_by_all(options)?;
    ranks.agree(match &found {
        Some(found) => budget::resumed(options.budget, &found.checkpoint.state, &changes),
        None if options.resume => budget::unknown(&config),
        None => Ok(()),
    })?;
    config.split = together::split(options, &config, found.as_ref().map(|found| &found.checkpoint.state))?;
    ranks.agree(check(options, &config, surroundings))?;
    ranks.agree(init.as_ref().map_or(Ok(()), |init| init.check(store, &config.model)))?;
    Ok(Beginnings { config, changes, budget, found, init, decay })
}

/// Where the run goes on: the first rank looks, the others open what it found, which must be the same.
fn found_by_all(options: &Options) -> Result<Option<Found>> {
    let ranks = &options.ranks;
    if !options.resume {
        return Ok(None);
    }
    let mut own = None;
    let step = ranks.first_says(|| {
        own = found(&options.out)?;
        Ok(own.as_ref().map(|found| found.checkpoint.state.step))
    })?;
    let other = |step| Found::of_step(&options.out, step);
    let found = ranks.agree(if ranks.is_first() { Ok(own) } else { step.map(other).transpose() })?;
    together::of_one_checkpoint(ranks, found.as_ref().map(|found| &found.checkpoint.path))?;
    Ok(found)
}

/// Trains from the first step or the last checkpoint. `rollbacks` has those since this process began; `begun` counts the
/// steps that are begun.
pub fn attempt(
    options: &Options,
    rollbacks: &[Rollback],
    clock: &Clock,
    stop: &AtomicBool,
    begun: &AtomicU64,
) -> Result<Report> {
    let ranks = &options.ranks;
    // Of several none may stop alone.
    let agreed = AtomicBool::new(false);
    let asked_to_stop = stop;
    let stop = if ranks.are_several() { &agreed } else { stop };
    let stopped = || ranks.any(asked_to_stop.load(Ordering::Relaxed));
    let _claim = together::claim(options)?;
    let stores = ranks.agree(Stores::open(&options.stores))?;
    let store = stores.first().clone();
    for (store, weight) in stores.iter() {
        detail!("{}: {} tokens, weight {weight}", store.path().display(), store.tokens());
    }
    together::of_one_kind(options, &stores)?;
    let device = Device::of_rank(&options.device, options.threads, ranks, options.reduce);
    let device = ranks.agree(device)?.with_memory_limit(options.memory_limit);
    let surroundings = Surroundings { vocab_size: store.vocab_size(), room: device.room() };
    let Beginnings { mut config, changes, budget, found, init, decay } =
        beginnings(options, &store, surroundings)?;
    let first = ranks.agree(first_step(options, &config, init.as_ref(), decay.as_ref(), found.as_ref()))?;
    let mut legs = ranks.agree(config.legs())?;
    #[cfg(test)]
    options.borders.iter().for_each(|&at| super::super::config::change_from(&mut legs, at, |_| ()));
    let leg = leg_of(&legs, first);
    let mut own = legs[leg].config.clone();
    if config.has_phases() {
        describe_phases(&legs).iter().for_each(|line| note!("{line}"));
    }
    let peaks = options.profile.then(|| Peaks::measure(&device)).transpose()?;
    let peak = peaks.map_or_else(|| Peaks::multiply_adds(&device), |peaks| Ok(peaks.flops_per_second));
    // Of all devices together.
    let peak = ranks.gather_all(ranks.agree(peak)?)?.iter().sum();
    let kernels = options.out.join("kernels.json");
    if options.resume {
        device.reuse_kernels(&kernels)?;
    }
    if stopped()? {
        return Ok(Report::not_begun());
    }
    let workshop = Workshop { options, device: &device, stores: &stores };
    let mut machine = ranks.agree(workshop.open(&own))?;
    if together::measures(options, found.as_ref().map(|found| &found.checkpoint.state)) {
        config.split = together::measured(ranks, &mut machine, &own)?;
        drop(machine);
        // Micro-batches may be larger than they were.
        ranks.agree(check(options, &config, surroundings))?;
        legs.iter_mut().for_each(|leg| leg.config.split = config.split.clone());
        own = legs[leg].config.clone();
        machine = ranks.agree(workshop.open(&own))?;
    }
    let evaluator = match &options.eval_store {
        Some(path) => Some(ranks.agree(Evaluator::new(path, &store, &config.evaluated()?, &device))?),
        None => None,
    };
    if let Some(evaluator) = &evaluator {
        evaluator.of_one_text()?;
    }
    if stopped()? {
        return Ok(Report::not_begun());
    }
    let executor = machine.executor.as_mut();
    let beginning = Beginning::of(found, decay, init);
    let state = start(options, beginning, budget, &config, &stores, executor, stop)?;
    let Some(mut state) = state else { return Ok(Report::not_begun()) };
    workshop.begin(&mut machine, &own, &state)?;
    let Machine { executor, feeding, batcher, cross_check } = machine;
    let out = &options.out;
    if ranks.is_first() {
        workshop.record_kernels(&kernels, &legs, leg, executor.as_ref())?;
        if let Err(error) = record(out, options, &stores, &state.device, &executor.identity()) {
            note!("warning: {error:#}; training goes on without it");
        }
    }
    record_history(options, &mut state, rollbacks, &changes)?;
    let budget = Budget::of(&state, clock, &config, evaluator.is_some());
    let schedule = config.schedule_from(state.began);
    announce(out, &config, &state, &schedule, budget.as_ref(), &executor.identity(), ranks);
    Outlook { out, config: &config, legs: &legs, state: &state, stores: &stores, plan: executor.plan() }
        .lines(budget.as_ref().is_some_and(Budget::is_open))
        .iter()
        .for_each(|line| note!("{line}"));
    let left = config.steps.saturating_sub(state.step);
    if options.profile && !budget.as_ref().is_some_and(Budget::is_open) && left < StepProfiler::STEPS {
        warning!(
            "warning: --profile takes {} steps, and {left} are left: it shows nothing",
            StepProfiler::STEPS
        );
    }
    let mut progress = Progress::new(&config, &state, peak)?;
    if budget.as_ref().is_some_and(Budget::is_open) {
        progress.set_legs(&legs, None);
    }
    let writes_events = options.tensorboard && ranks.is_first();
    let events = |folder: &str, done| writes_events.then(|| Events::begin(&out.join(folder), done));
    let lines =
        |name: &str, done| ranks.is_first().then(|| JsonLines::open(&out.join(name), done)).transpose();
    let run = Run {
        events: events(FOLDER, state.step),
        held_out_events: match evaluator {
            Some(_) => events(&format!("{FOLDER}/{HELD_OUT}"), evaluated_before(&config, &state)),
            None => None,
        },
        schedule,
        metrics: lines(METRICS, state.step)?,
        evaluations: match evaluator {
            Some(_) => lines("eval.jsonl", evaluated_before(&config, &state))?,
            None => None,
        },
        bar: if ranks.is_first() { Bar::start() } else { Bar::none() },
        vigilance: Vigilance::new(&config, state.began),
        forecast: Some(Forecast::new(state.step)),
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
        sent: 0,
        made: 0,
        cross_check,
        suspect: None,
        debug_nan: options.debug_nan,
        state,
    };
    let watch = |step| {
        begun.fetch_add(1, Ordering::Relaxed);
        options.watch.iter().for_each(|watch| watch.0(step, &device));
    };
    run.train(batcher, Stop { asked: asked_to_stop, agreed: stop }, &watch)
}

/// Adds what has happened to the run since its checkpoint was written, to its state and to `history.jsonl`.
fn record_history(
    options: &Options,
    state: &mut State,
    rollbacks: &[Rollback],
    changes: &[Change],
) -> Result<()> {
    let new = rollbacks.iter().filter(|rollback| !state.rollbacks.contains(rollback));
    let new: Vec<Rollback> = new.cloned().collect();
    if new.is_empty() && changes.is_empty() {
        return Ok(());
    }
    if !options.ranks.is_first() {
        state.rollbacks.extend(new);
        return Ok(());
    }
    let path = options.out.join(HISTORY);
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
