//! The loop over steps: feed, submit, take results, save, evaluate.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::device::Peaks;
use crate::files::{JsonLines, write_atomically};
use crate::interop::checkpoint::{LossScalingState, Snapshot, State};
use crate::note::Bar;
use crate::plan::{Carried, Executor, IN_FLIGHT, InFlight};
use crate::ranks::Ranks;

use super::super::config::{Leg, TrainConfig};
use super::super::divergence::norm_limit;
use super::super::evaluate::{Evaluation, Evaluator};
use super::super::events::Events;
use super::super::examples::{Batcher, Feeder, StepBatch};
use super::super::feeding::Feeding;
use super::super::profile::StepProfiler;
use super::super::progress::{Progress, Submitted};
use super::super::schedule::Schedule;
use super::super::vigilance::Vigilance;
use super::budget::Budget;
use super::cross_check::CrossCheck;
use super::forecast::Forecast;
use super::leg::{Machine, Workshop, extend_positions};
use super::saving::Saving;
use super::{PROFILE, Report, together};

/// Whether the run is to end: of several ranks, what one is asked for all agree to between two steps.
#[derive(Clone, Copy)]
pub struct Stop<'a> {
    pub asked: &'a AtomicBool,
    pub agreed: &'a AtomicBool,
}

/// A run whose first step comes next.
pub struct Run<'a> {
    pub out: &'a Path,
    /// The run's configuration, its legs, and the one that makes the next step with what holds in it.
    pub whole: TrainConfig,
    pub legs: Vec<Leg>,
    pub leg: usize,
    pub config: TrainConfig,
    /// The time that decides the steps, if one does.
    pub budget: Option<Budget<'a>>,
    pub schedule: Schedule,
    pub workshop: Workshop<'a>,
    /// Where steps are profiled.
    pub peaks: Option<Peaks>,
    pub feeding: Feeding,
    pub executor: Box<dyn Executor>,
    pub evaluator: Option<Evaluator>,
    pub evaluation: Option<Evaluation>,
    /// Of several ranks the first writes files.
    pub metrics: Option<JsonLines>,
    pub evaluations: Option<JsonLines>,
    /// The same for TensorBoard, where that was asked for.
    pub events: Option<Events>,
    pub held_out_events: Option<Events>,
    pub progress: Progress,
    pub bar: Bar,
    pub vigilance: Vigilance,
    /// Until it was said when the run will end.
    pub forecast: Option<Forecast>,
    pub in_flight: InFlight<Submitted>,
    pub profiler: Option<StepProfiler>,
    /// As the run stands; `step` counts the steps submitted.
    pub state: State,
    /// Step of the checkpoint that it began with, or whose writing was begun last.
    pub saved: Option<u64>,
    pub saving: Saving,
    /// Bytes that were sent to other ranks in steps of this process, and how many these were where there are others.
    pub sent: u64,
    pub made: u64,
    /// Steps in a row that were no good and were skipped.
    pub skipped: u32,
    pub cross_check: Option<CrossCheck>,
    /// Wait for each step; then its parameters are still those that it was computed with when its results arrive.
    pub debug_nan: bool,
    /// With that, the step that was submitted last.
    pub suspect: Option<StepBatch>,
}

impl Run<'_> {
    /// Trains until the last step, or until `stop` is set: then what is being computed is given up, a step that is being
    /// updated finished, and all saved. `watch` is called before each step.
    pub fn train(self, batcher: Batcher, stop: Stop<'_>, watch: &dyn Fn(u64)) -> Result<Report> {
        let (mut run, mut batcher) = (self, batcher);
        let owes = run.ranks().first_says(|| Ok(run.owes_evaluation()))?;
        let mut interrupted = owes && !run.evaluate(stop.agreed)?;
        run.end_if_the_time_is_over()?;
        while !interrupted {
            interrupted = run.train_leg(batcher, stop, watch)?;
            if interrupted || run.leg + 1 == run.legs.len() {
                break;
            }
            (run, batcher) = run.next_leg()?;
        }
        if !interrupted {
            interrupted = !run.evaluate(stop.agreed)?;
        }
        for lines in [run.metrics.as_mut(), run.evaluations.as_mut()].into_iter().flatten() {
            lines.finish()?;
        }
        Ok(Report {
            step: run.state.step,
            tokens: run.state.tokens,
            metrics: run.progress.last(),
            evaluation: run.evaluation,
            interrupted,
            sent_bytes_per_step: run.sent.checked_div(run.made),
        })
    }

    /// Trains until the last step of the leg, which is saved. True where it was stopped before the run's last.
    fn train_leg(&mut self, batcher: Batcher, stop: Stop<'_>, watch: &dyn Fn(u64)) -> Result<bool> {
        if self.state.step < self.end() {
            extend_positions(self.executor.as_mut(), &self.config, &mut self.state)?;
        }
        let mut feeder = self.feeder(batcher)?;
        let mut interrupted = false;
        while self.state.step < self.end() && !interrupted {
            // What a step needs cannot be had (a damaged store): what has been learnt is not lost with it.
            let (ends, next) = (stop.asked.load(Ordering::Relaxed), feeder.next_step());
            let consent = together::consent(self.ranks(), ends, next);
            let (ends, mut batch) = consent.map_err(|error| self.saved_before(error))?;
            let stop = if self.ranks().are_several() {
                stop.agreed.store(ends, Ordering::Relaxed);
                stop.agreed
            } else {
                stop.asked
            };
            batch.norm_limit = norm_limit(&self.state, self.config.norm_factor);
            batch.temperature = self.config.temperature_at(self.state.step);
            batch.discriminator_weight = self.config.discriminator_weight_at(self.state.step);
            [batch.moment_scale, batch.epsilon_scale] = self.config.moment_scales_at(self.state.step);
            watch(self.state.step);
            self.cross_check(&batch)?;
            self.foresee_the_last()?;
            let made = self.step(&batch, stop)?;
            self.saving.take_stock(false);
            self.keep_to_the_budget()?;
            let (step, config) = (self.state.step, &self.config);
            interrupted = !made || stop.load(Ordering::Relaxed) && step < config.steps;
            let last = step == config.steps || interrupted;
            let evaluates = config.eval_every > 0 && step.is_multiple_of(config.eval_every) && !last;
            if step.is_multiple_of(config.checkpoint_every) || step == self.end() || last {
                self.save(last)?;
            }
            if evaluates {
                interrupted = !self.evaluate(stop)?;
                if interrupted {
                    self.save(true)?;
                }
            }
        }
        Ok(interrupted)
    }

    /// The last step of the leg; with a budget it moves.
    fn end(&self) -> u64 {
        self.legs[self.leg].steps.end
    }

    /// Hands what is trained to the next leg's executor; the one before is gone by then, as there may be no room for both.
    /// Its last step is saved.
    fn next_leg(mut self) -> Result<(Self, Batcher)> {
        self.saving.take_stock(true);
        let carried = Carried::of(self.executor.as_mut())?;
        drop((self.executor, self.cross_check));
        let (leg, workshop, step) = (self.leg + 1, self.workshop, self.state.step);
        let config = self.legs[leg].config.clone();
        note!("step {step} of {}: the plan changes", config.steps);
        let mut machine = workshop.open(&config)?;
        carried.put(machine.executor.as_mut())?;
        drop(carried);
        workshop.begin(&mut machine, &config, &self.state)?;
        let Machine { executor, feeding, batcher, cross_check } = machine;
        let profiler = self
            .profiler
            .and(self.peaks)
            .map(|peaks| StepProfiler::new(step, peaks, self.workshop.options.profile_trace.clone()));
        self.progress.pause();
        if let Some(budget) = self.budget.as_mut().filter(|_| config.phase.number != self.config.phase.number)
        {
            budget.turned();
        }
        Ok((Run { leg, config, executor, feeding, cross_check, profiler, suspect: None, ..self }, batcher))
    }

    /// Makes the batches of the leg's steps that are left.
    fn feeder(&self, batcher: Batcher) -> Result<Feeder> {
        // With a budget there may be more than it looks now.
        let end = if self.budget.is_some() { u64::MAX } else { self.end() };
        let (state, steps) = (self.state.clone(), self.state.step..end);
        Feeder::start(batcher, steps.map(move |step| state.batch_of(step)))
    }

    /// Compares the step's gradients with the processor's, where that is due.
    fn cross_check(&mut self, batch: &StepBatch) -> Result<()> {
        let step = self.state.step;
        // Of several ranks one may have no sequence of a batch.
        let is_due = |check: &&mut CrossCheck| check.is_due(step) && !batch.micro.is_empty();
        let Some(check) = self.cross_check.as_mut().filter(is_due) else { return Ok(()) };
        let since = Instant::now();
        let off = check
            .check(self.executor.as_mut(), &self.feeding, batch)
            .with_context(|| format!("cross-check before step {}", step + 1))?;
        note!(
            "cross-check before step {}: gradients within {off:.1e} of the processor's, {:.1} s",
            step + 1,
            since.elapsed().as_secs_f64()
        );
        self.progress.pause();
        Ok(())
    }

    /// Submits one update and takes what results of earlier ones have arrived. False where it was given up for `stop`:
    /// then it has changed nothing.
    fn step(&mut self, batch: &StepBatch, stop: &AtomicBool) -> Result<bool> {
        let step = self.state.step;
        let rate = self.schedule.rate(step, self.config.learning_rate);
        let rate = (f64::from(rate) * self.state.rate()) as f32;
        let ranks = &self.workshop.options.ranks;
        let sent = ranks.sent();
        let executor = self.executor.as_mut();
        match &mut self.profiler {
            Some(profiler) => {
                if let Some(profile) = profiler.step(executor, &self.feeding, batch, rate)? {
                    let path = self.out.join(PROFILE);
                    if self.workshop.options.ranks.is_first()
                        && let Err(error) = write_atomically(&path, &serde_json::to_vec_pretty(&profile)?)
                    {
                        note!("warning: {error:#}");
                    }
                    self.profiler = None;
                }
            }
            None => {
                if !self.feeding.step_until(executor, batch, rate, stop)? {
                    return Ok(false);
                }
            }
        }
        if ranks.are_several() {
            self.sent += ranks.sent() - sent;
            self.made += 1;
        }
        let (totals, norm_limit) = (batch.totals, batch.norm_limit);
        self.suspect = self.debug_nan.then(|| batch.clone());
        let submitted = Submitted { step, batch: batch.step, totals, learning_rate: rate, norm_limit };
        self.in_flight.submitted(executor, &self.feeding.reported(), submitted)?;
        self.state.step += 1;
        self.state.tokens += batch.totals.tokens;
        // What ranks decide they decide at the same step: not when results happen to arrive.
        let waits = self.debug_nan || self.ranks().are_several();
        self.collect(if waits { 0 } else { IN_FLIGHT })?;
        Ok(true)
    }

    pub fn ranks(&self) -> &Ranks {
        &self.workshop.options.ranks
    }

    /// The error, after the steps before it were saved.
    fn saved_before(&mut self, error: anyhow::Error) -> anyhow::Error {
        let step = self.state.step;
        match self.save(true) {
            Ok(()) => error.context(format!("ended after step {step}, which is saved")),
            Err(saving) => {
                error.context(format!("ended after step {step}, which could not be saved ({saving:#})"))
            }
        }
    }

    /// Begins to save the run as it stands; the last time, waits for it.
    fn save(&mut self, last: bool) -> Result<()> {
        self.collect(0)?;
        if self.saved != Some(self.state.step) {
            let since = Instant::now();
            self.saving.take_stock(true);
            if let Some(tensor) = self.executor.plan().loss_scale {
                self.state.loss_scaling = Some(LossScalingState::read(self.executor.as_mut(), tensor)?);
            }
            self.state.budget = self.budget.as_ref().map(Budget::state);
            self.state.interval = self.progress.interval()?;
            self.state.stage = self.schedule.stage(self.state.step);
            let snapshot = Snapshot::of(self.executor.as_mut(), &self.state)?;
            let logs = [self.metrics.as_ref(), self.evaluations.as_ref()].into_iter().flatten();
            let logs = logs.map(JsonLines::on_disk).collect::<Result<_>>()?;
            if self.ranks().is_first() {
                self.saving.begin(snapshot, since.elapsed(), logs)?;
            }
            self.saved = Some(self.state.step);
        }
        if last {
            self.saving.end()?;
        }
        self.progress.pause();
        Ok(())
    }

    /// Whether the run was stopped between a checkpoint and the evaluation that belongs to it.
    fn owes_evaluation(&self) -> bool {
        let State { step, began, .. } = self.state;
        let every = self.config.eval_every;
        let made = self.evaluations.as_ref().and_then(JsonLines::last);
        let due = every > 0 && step > began && step.is_multiple_of(every) && step < self.config.steps;
        due && made != Some(step)
    }

    /// Evaluates where there is text for it. False where it was given up for `stop`.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<bool> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(true) };
        let since = self.budget.as_ref().map(Budget::now);
        let Some(evaluation) = evaluator.evaluate(self.state.step, self.executor.as_mut(), stop)? else {
            return Ok(false);
        };
        if let (Some(budget), Some(since)) = (&mut self.budget, since) {
            budget.evaluated(budget.now() - since);
        }
        note!("{evaluation}");
        self.evaluations.as_mut().map_or(Ok(()), |lines| lines.append(&evaluation))?;
        let events = self.held_out_events.as_mut();
        events.map_or(Ok(()), |events| events.append(evaluation.step, &evaluation))?;
        self.evaluation = Some(evaluation);
        self.progress.pause();
        Ok(true)
    }
}
