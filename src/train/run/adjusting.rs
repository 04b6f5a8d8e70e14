//! A run with a budget of time: its steps follow from how fast they are.

use anyhow::Result;
use serde_json::json;

use crate::files::{JsonLines, write_atomically};
use crate::interop::checkpoint;

use super::super::key::Value;
use super::HISTORY;
use super::training::Run;

impl Run<'_> {
    /// Before the first step of a process: nothing may be left.
    pub fn end_if_the_time_is_over(&mut self) -> Result<()> {
        let step = self.state.step;
        match &self.budget {
            Some(budget) if budget.is_over() && step > self.state.began && step < self.config.steps => {
                self.make_it(step)
            }
            _ => Ok(()),
        }
    }

    /// Before a step: where the time has room for it and no other, it is the last, and its rate that of a last one.
    pub fn foresee_the_last(&mut self) -> Result<()> {
        let room = self.budget.as_ref().and_then(|budget| budget.room(self.in_flight.count()));
        if self.state.step + 1 < self.config.steps && room.is_some_and(|room| room < 2) {
            self.make_it(self.state.step + 1)?;
        }
        Ok(())
    }

    /// Behind a step: measures where that is due, and ends the run where its time is over.
    pub fn keep_to_the_budget(&mut self) -> Result<()> {
        let (step, checkpoint_every) = (self.state.step, self.config.checkpoint_every);
        if step >= self.config.steps {
            return Ok(());
        }
        let Some(budget) = &mut self.budget else { return Ok(()) };
        if budget.is_over() {
            return self.make_it(step);
        }
        if !budget.is_due(step, step.is_multiple_of(checkpoint_every)) {
            return Ok(());
        }
        // What is in flight belongs to the time until here.
        self.collect(0)?;
        let Some(budget) = &mut self.budget else { return Ok(()) };
        budget.saving = self.saving.took.map_or(0.0, |took| took.as_secs_f64());
        let steps = budget.measure(step);
        self.make_it(steps)
    }

    /// The run has so many steps from here on.
    fn make_it(&mut self, steps: u64) -> Result<()> {
        let Some(budget) = &mut self.budget else { return Ok(()) };
        let (from, opened, (pace, used)) = (self.config.steps, budget.is_open(), budget.measured());
        if steps == from {
            return Ok(());
        }
        let mut settings = self.whole.settings().clone();
        settings.set_value("steps", Value::Whole(steps))?;
        if let Some(note) = budget.close()?.map(|rule| rule.apply(&mut settings)).transpose()?.flatten() {
            note!("{note}");
        }
        self.whole = self.whole.changed(settings)?;
        self.legs = self.whole.legs()?;
        // The end of the last leg moves; where the others begin and end does not. One that had no step yet may be gone.
        self.leg = self.leg.min(self.legs.len().saturating_sub(1));
        self.config = self.legs[self.leg].config.clone();
        self.schedule = self.whole.schedule_from(self.state.began);
        self.progress.set_legs(&self.legs, Some(steps));
        write_atomically(&self.out.join(checkpoint::CONFIG), self.whole.settings().to_toml().as_bytes())?;
        let step = self.state.step;
        let was = if opened { String::new() } else { format!(", it was {from}") };
        note!("budget: {steps} steps{was}; {:.1} ms a step, {used:.0} s used at step {step}", 1e3 * pace);
        if opened {
            note!("{}", self.schedule.describe(self.config.learning_rate, &self.state));
        }
        let mut history = JsonLines::open(&self.out.join(HISTORY), step)?;
        history.append(&json!({
            "step": step,
            "event": "budget",
            "from": (!opened).then_some(from),
            "to": steps,
            "seconds_per_step": pace,
            "used_seconds": used,
        }))?;
        history.finish()
    }
}
