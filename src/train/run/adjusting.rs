//! A run with a budget of time: its steps follow from how fast they are.

use anyhow::Result;
use serde_json::json;

use crate::files::{JsonLines, write_atomically};
use crate::interop::checkpoint;

use super::super::config::Leg;
use super::HISTORY;
use super::apportion::Ahead;
use super::budget::Budget;
use super::training::Run;

impl Run<'_> {
    /// Before the first step of a process: nothing may be left.
    pub fn end_if_the_time_is_over(&mut self) -> Result<()> {
        self.end_as_first_says(|run| {
            let step = run.state.step;
            let over = run.budget.as_ref().is_some_and(Budget::is_over);
            let ends = over && step > run.state.began && step < run.config.steps;
            Ok(ends.then(|| run.ahead().at_once(step)))
        })
    }

    /// Before a step: where the time has room for it and no other, it is the last, and its rate that of a last one.
    pub fn foresee_the_last(&mut self) -> Result<()> {
        self.end_as_first_says(|run| {
            let room = run.budget.as_ref().and_then(|budget| budget.room(run.in_flight.count()));
            let (step, steps) = (run.state.step, run.config.steps);
            let last = step + 1 < steps && room.is_some_and(|room| room < 2) && run.ahead().is_last();
            Ok(last.then(|| vec![step + 1]))
        })
    }

    /// Behind a step: measures where that is due, and ends the run where its time is over.
    pub fn keep_to_the_budget(&mut self) -> Result<()> {
        self.end_as_first_says(|run| {
            let (step, checkpoint_every) = (run.state.step, run.config.checkpoint_every);
            if step >= run.config.steps {
                return Ok(None);
            }
            let Some(budget) = &mut run.budget else { return Ok(None) };
            if budget.is_over() {
                return Ok(Some(run.ahead().at_once(step)));
            }
            if !budget.is_due(step, step.is_multiple_of(checkpoint_every)) {
                return Ok(None);
            }
            // What is in flight belongs to the time until here.
            run.collect(0)?;
            let ahead = run.ahead();
            let Some(budget) = &mut run.budget else { return Ok(None) };
            budget.saving = run.saving.took.map_or(0.0, |took| took.as_secs_f64());
            Ok(Some(budget.measure(step, &ahead)))
        })
    }

    /// Of several ranks the first has the clock.
    fn end_as_first_says(&mut self, ends: impl FnOnce(&mut Self) -> Result<Option<Vec<u64>>>) -> Result<()> {
        if self.budget.is_none() {
            return Ok(());
        }
        let ranks = self.ranks().clone();
        match ranks.first_says(|| ends(self))? {
            Some(ends) => self.make_it(ends),
            None => Ok(()),
        }
    }

    fn ahead(&self) -> Ahead {
        Ahead::of(&self.legs, self.leg)
    }

    /// The phases that are not over end at these steps from here on, the last of them with the run.
    fn make_it(&mut self, ends: Vec<u64>) -> Result<()> {
        let Some(budget) = &mut self.budget else { return Ok(()) };
        let (from, opened, (pace, used)) = (self.config.steps, budget.is_open(), budget.measured());
        let (phase, now) = (self.config.phase.number, phase_ends(&self.legs));
        let ends = [&now[..phase], &ends[..]].concat();
        if ends == now {
            return Ok(());
        }
        let steps = ends.last().copied().unwrap_or(from);
        let mut settings = self.whole.ending_at(&ends)?;
        if let Some(note) = budget.close()?.map(|rule| rule.apply(&mut settings)).transpose()?.flatten() {
            note!("{note}");
        }
        self.whole = self.whole.changed(settings)?;
        self.legs = self.whole.legs()?;
        // What is over does not move. A leg that had no step yet may be gone.
        self.leg = self.leg.min(self.legs.len().saturating_sub(1));
        self.config = self.legs[self.leg].config.clone();
        self.schedule = self.whole.schedule_from(self.state.began);
        self.progress.set_legs(&self.legs, Some(steps));
        if !self.ranks().is_first() {
            return Ok(());
        }
        write_atomically(&self.out.join(checkpoint::CONFIG), self.whole.settings().to_toml().as_bytes())?;
        let step = self.state.step;
        let was = if opened { String::new() } else { format!(", it was {from}") };
        note!("budget: {steps} steps{was}; {:.1} ms a step, {used:.0} s used at step {step}", 1e3 * pace);
        if opened {
            note!("{}", self.schedule.describe(self.config.learning_rate, &self.state));
        }
        let mut history = JsonLines::open(&self.out.join(HISTORY), step)?;
        let mut event = json!({
            "step": step,
            "event": "budget",
            "from": (!opened).then_some(from),
            "to": steps,
            "seconds_per_step": pace,
            "used_seconds": used,
        });
        if ends.len() > 1 {
            event["phases_end"] = json!(ends);
        }
        history.append(&event)?;
        history.finish()
    }
}

/// The step at which each phase ends.
fn phase_ends(legs: &[Leg]) -> Vec<u64> {
    let mut ends = Vec::new();
    for leg in legs {
        ends.truncate(leg.config.phase.number);
        ends.push(leg.steps.end);
    }
    ends
}
