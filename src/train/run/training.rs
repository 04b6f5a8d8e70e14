//! The loop over steps: feed, submit, take results, save, evaluate.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;

use crate::files::JsonLines;
use crate::interop::checkpoint::{self, LossScalingState, Snapshot, State};
use crate::plan::{Executor, IN_FLIGHT, InFlight};

use super::super::config::TrainConfig;
use super::super::evaluate::{Evaluation, Evaluator};
use super::super::examples::{Batcher, Feeder, StepBatch};
use super::super::feeding::Feeding;
use super::super::profile::StepProfiler;
use super::super::progress::{Progress, Submitted};
use super::super::schedule;
use super::Report;
use super::saving::Saving;

/// A run whose first step comes next.
pub struct Run<'a> {
    pub out: &'a Path,
    pub config: &'a TrainConfig,
    pub feeding: Feeding,
    pub executor: Box<dyn Executor>,
    pub evaluator: Option<Evaluator>,
    pub evaluation: Option<Evaluation>,
    pub metrics: JsonLines,
    pub evaluations: Option<JsonLines>,
    pub progress: Progress,
    pub in_flight: InFlight<Submitted>,
    pub profiler: Option<StepProfiler>,
    /// As the run stands; `step` counts the steps submitted.
    pub state: State,
    /// Step of the checkpoint that it began with, or whose writing was begun last.
    pub saved: Option<u64>,
    pub saving: Saving,
}

impl Run<'_> {
    /// Trains until the last step, or until `stop` is set: then what is being computed is given up, a step that is being
    /// updated finished, and all saved. `watch` is called before each step.
    pub fn train(mut self, batcher: Batcher, stop: &AtomicBool, watch: &dyn Fn(u64)) -> Result<Report> {
        let config = self.config;
        let mut feeder = Feeder::start(batcher, self.state.step..config.steps)?;
        let mut interrupted = false;
        if self.owes_evaluation() {
            interrupted = !self.evaluate(stop)?;
        }
        while self.state.step < config.steps && !interrupted {
            // What a step needs cannot be had (a damaged store): what has been learnt is not lost with it.
            let batch = feeder.next_step().map_err(|error| self.saved_before(error))?;
            watch(batch.step);
            let made = self.step(&batch, stop)?;
            let step = self.state.step;
            interrupted = !made || stop.load(Ordering::Relaxed) && step < config.steps;
            if step.is_multiple_of(config.checkpoint_every) || step == config.steps || interrupted {
                self.save(step == config.steps || interrupted)?;
            }
            if config.eval_every > 0
                && step.is_multiple_of(config.eval_every)
                && step < config.steps
                && !interrupted
            {
                interrupted = !self.evaluate(stop)?;
                if interrupted {
                    self.save(true)?;
                }
            }
        }
        if !interrupted {
            interrupted = !self.evaluate(stop)?;
        }
        for lines in [Some(&mut self.metrics), self.evaluations.as_mut()].into_iter().flatten() {
            lines.finish()?;
        }
        Ok(Report {
            step: self.state.step,
            tokens: self.state.tokens,
            metrics: self.progress.last(),
            evaluation: self.evaluation,
            interrupted,
        })
    }

    /// Submits one update and takes what results of earlier ones have arrived. False where it was given up for `stop`:
    /// then it has changed nothing.
    fn step(&mut self, batch: &StepBatch, stop: &AtomicBool) -> Result<bool> {
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
            None => {
                if !self.feeding.step_until(executor, batch, rate, stop)? {
                    return Ok(false);
                }
            }
        }
        let submitted = Submitted { step: batch.step, totals: batch.totals, learning_rate: rate };
        self.in_flight.submitted(executor, &self.feeding.reported(), submitted)?;
        self.state.step = batch.step + 1;
        self.state.tokens += batch.totals.tokens;
        self.collect(IN_FLIGHT)?;
        Ok(true)
    }

    /// Takes results until at most `waiting` steps are in flight, and all that have arrived.
    fn collect(&mut self, waiting: usize) -> Result<()> {
        while let Some((submitted, words)) = self.in_flight.next(self.executor.as_mut(), waiting)? {
            let arrived = self.progress.arrived(submitted, &words);
            if let Some(record) = arrived.map_err(|error| self.advise(error))? {
                note!("{}", self.progress.line(&record));
                self.metrics.append(&record)?;
            }
        }
        Ok(())
    }

    /// What to do about a loss that is not a number.
    fn advise(&mut self, error: anyhow::Error) -> anyhow::Error {
        // The last one may be on its way.
        if let Err(error) = self.saving.end() {
            note!("note: {error:#}");
        }
        let kept = match checkpoint::latest(self.out) {
            Ok(path) => format!("the last checkpoint stays: {}", path.display()),
            Err(_) => "there is no checkpoint yet".to_owned(),
        };
        anyhow::anyhow!("{error:#}; {kept}; start again with a lower learning_rate or more warmup_steps")
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

    /// Begins to save the run as it stands; the last time, waits for it. One that cannot be written is no reason to stop
    /// training: it is tried again where the next one is due.
    fn save(&mut self, last: bool) -> Result<()> {
        self.collect(0)?;
        if self.saved != Some(self.state.step) {
            let since = Instant::now();
            if let Err(error) = self.saving.end() {
                note!("warning: {error:#}; training goes on, without that checkpoint");
            }
            if let Some(tensor) = self.executor.plan().loss_scale {
                self.state.loss_scaling = Some(LossScalingState::read(self.executor.as_mut(), tensor)?);
            }
            self.state.interval = self.progress.interval()?;
            let snapshot = Snapshot::of(self.executor.as_mut(), &self.state)?;
            let logs = [Some(&self.metrics), self.evaluations.as_ref()].into_iter().flatten();
            let logs = logs.map(JsonLines::on_disk).collect::<Result<_>>()?;
            self.saving.begin(snapshot, since.elapsed(), logs)?;
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
        let (Some(evaluator), Some(evaluations)) = (&mut self.evaluator, &mut self.evaluations) else {
            return Ok(true);
        };
        let Some(evaluation) = evaluator.evaluate(self.state.step, self.executor.as_mut(), stop)? else {
            return Ok(false);
        };
        note!("{evaluation}");
        evaluations.append(&evaluation)?;
        self.evaluation = Some(evaluation);
        self.progress.pause();
        Ok(true)
    }
}
