//! `--budget`: as many steps as a time allows. The first steps measure how fast they are; steps and schedule follow, and are
//! adjusted as the run goes, so that the learning rate is down when the time is over.
//!
//! All of it is the time in which a process works on the run, from its start: kernels that are compiled, evaluations and
//! checkpoints count; what was lost with a process that was killed does not, as far as nobody knows of it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::interop::checkpoint::{BudgetState, State};
use crate::note::duration;

use super::super::config::{Size, Sources, TrainConfig, WrongUsage, shares_of_phases};
use super::super::following::Rule;
use super::super::key::Value;
use super::super::settings::{Change, Settings};
use super::apportion::{Ahead, Part, apportion};
use super::clock::Clock;

/// The window: behind a process's first steps (pages, caches, clocks of the card), at least so many, and for so much of the
/// budget, which need not be more than so many seconds.
const WARM: u64 = 3;
const WINDOW: u64 = 10;
const WINDOW_SHARE: f64 = 0.01;
const WINDOW_SECONDS: f64 = 60.0;
/// Where steps are so slow that the window is never full, it ends with this share of the budget.
const WINDOW_MOST: f64 = 0.1;
/// Where checkpoints are far apart, steps are adjusted after this share of the budget too: the end is off by no more than
/// this times what the speed is off.
const BETWEEN: f64 = 0.02;
/// What is left over on purpose: rather early than late.
const SLACK: f64 = 0.0025;
/// Of the time that as many sequences take in training, what an evaluation takes before one was measured.
const EVALUATION: f64 = 0.5;

/// Steps of a run that has not measured yet: so many that its rate only rises. No budget has more.
const UNKNOWN_STEPS: u64 = 1_000_000_000;

/// Seconds that a budget given as this text has.
///
/// # Errors
/// It is no duration, or none at all.
pub fn parse(text: &str) -> Result<Duration> {
    let budget = humantime::parse_duration(text.trim())
        .map_err(|error| anyhow!("{error}; it must be a duration, as 24h, 90m or 1h30m"))?;
    ensure!(!budget.is_zero(), "it must be more than no time");
    Ok(budget)
}

/// The settings of a run that begins with a budget, notes on them, and what its first state says of it.
pub fn begin(
    budget: Duration,
    sources: &Sources,
    sizes: &[Size],
) -> Result<(Settings, Vec<String>, BudgetState)> {
    let mut given = Settings::default();
    sources.assign(&mut given)?;
    if given.get("steps").is_some() {
        return Err(anyhow!("steps follow from --budget; leave them out")).context(WrongUsage("--set"));
    }
    let (mut settings, notes) = sources.settings_with(sizes)?;
    settings.set_value("steps", Value::Whole(UNKNOWN_STEPS))?;
    let rule = sources.rule(sizes)?;
    if let Some(rule) = &rule {
        rule.apply(&mut settings)?;
    }
    let rule = rule.map(serde_json::to_value).transpose()?;
    let mut shares = Vec::new();
    if settings.phases() > 0 && settings.get("share_of") == Some(&Value::Word("time".to_owned())) {
        shares = shares_of_phases(&settings)?;
        // Until the speed is known: equal tokens take about equal time.
        settings.set_value("share_of", Value::Word("tokens".to_owned()))?;
    }
    Ok((settings, notes, BudgetState { seconds: budget.as_secs_f64(), used: 0.0, open: true, rule, shares }))
}

/// Compares the budget of a run that goes on with what is asked for.
pub fn resumed(asked: Option<Duration>, state: &State, changes: &[Change]) -> Result<()> {
    let Some(own) = &state.budget else {
        ensure!(asked.is_none(), "--budget: the run began without one");
        return Ok(());
    };
    if let Some(asked) = asked.map(|asked| asked.as_secs_f64()) {
        let (asked_in_words, own_in_words) = (duration(asked), duration(own.seconds));
        ensure!(own.seconds == asked, "--budget is {asked_in_words}, in the run {own_in_words}");
    }
    let steps = changes.iter().find(|change| change.key.name == "steps");
    ensure!(steps.is_none(), "steps follow from the budget of the run; leave them out");
    Ok(())
}

/// Refuses what follows from steps before they are known.
pub fn suits(config: &TrainConfig) -> Result<()> {
    ensure!(
        config.mask_probability == config.mask_probability_end,
        "--budget: mask_probability_end is reached at the last step, which is not known; give steps instead"
    );
    Ok(())
}

/// Refuses a run that had a budget and was stopped before that was written.
pub fn unknown(config: &TrainConfig) -> Result<()> {
    ensure!(
        config.steps != UNKNOWN_STEPS,
        "--resume: the run has a budget of time, and was stopped before it had begun; begin again in another directory"
    );
    Ok(())
}

/// A moment of the run.
#[derive(Clone, Copy)]
struct Mark {
    used: f64,
    step: u64,
}

/// The budget of a run that is being made.
pub struct Budget<'a> {
    clock: &'a Clock,
    state: BudgetState,
    /// Steps of this process.
    made: u64,
    /// Since when the speed is being measured, and what of the time since was evaluations.
    mark: Option<Mark>,
    apart: f64,
    /// Seconds of a step of this phase, checkpoints included.
    pace: Option<f64>,
    /// Seconds of an evaluation, or how many steps it is guessed to take; nothing where there is none.
    evaluation: Option<Evaluation>,
    eval_every: u64,
    /// Seconds that a checkpoint takes to be written.
    pub saving: f64,
}

enum Evaluation {
    Seconds(f64),
    Steps(f64),
}

impl<'a> Budget<'a> {
    /// Of a run that begins or goes on in this state; nothing where it has none.
    pub fn of(state: &State, clock: &'a Clock, config: &TrainConfig, evaluates: bool) -> Option<Self> {
        let budget = state.budget.clone()?;
        clock.came_to(budget.used);
        let guess = EVALUATION * config.eval_sequences as f64 / config.batch_size as f64;
        Some(Budget {
            clock,
            state: budget,
            made: 0,
            mark: None,
            apart: 0.0,
            pace: None,
            evaluation: evaluates.then_some(Evaluation::Steps(guess)),
            eval_every: if evaluates { config.eval_every } else { 0 },
            saving: 0.0,
        })
    }

    /// In a line.
    pub fn describe(&self) -> String {
        let BudgetState { seconds, open, .. } = self.state;
        let left = duration(seconds - self.clock.used());
        match open {
            true => format!(
                "budget: {left}; the first steps measure how many there are, and the learning rate rises"
            ),
            false => format!("budget: {left} are left of {}", duration(seconds)),
        }
    }

    /// As it stands in a checkpoint that is made now.
    pub fn state(&self) -> BudgetState {
        BudgetState { used: self.clock.used(), ..self.state.clone() }
    }

    /// Whether it is not known yet how many steps there are.
    pub fn is_open(&self) -> bool {
        self.state.open
    }

    /// What follows from the steps when they are known first; nothing from then on.
    pub fn close(&mut self) -> Result<Option<Rule>> {
        self.state.open = false;
        self.state.rule.take().map(serde_json::from_value).transpose().context("the budget in state.json")
    }

    /// An evaluation took so long.
    pub fn evaluated(&mut self, seconds: f64) {
        self.evaluation = Some(Evaluation::Seconds(seconds));
        self.apart += seconds;
    }

    /// The time, to measure evaluations by.
    pub fn now(&self) -> f64 {
        self.clock.used()
    }

    /// Another step was submitted, `step` are made: whether it is time to measure, at a checkpoint or elsewhere.
    pub fn is_due(&mut self, step: u64, checkpoint: bool) -> bool {
        self.made += 1;
        let used = self.clock.used();
        let Some(mark) = self.mark else {
            if self.made >= WARM || used > WINDOW_MOST * self.state.seconds {
                self.mark = Some(Mark { used, step });
            }
            return false;
        };
        let (steps, seconds) = (step - mark.step, used - mark.used);
        let budget = self.state.seconds;
        match self.pace {
            None => {
                let full = steps >= WINDOW && seconds >= (WINDOW_SHARE * budget).min(WINDOW_SECONDS);
                full || seconds >= WINDOW_MOST * budget
            }
            Some(_) => steps >= WINDOW && (checkpoint || seconds >= BETWEEN * budget),
        }
    }

    /// Steps of another phase are made from here on: their speed is measured anew.
    pub fn turned(&mut self) {
        (self.made, self.mark, self.apart, self.pace) = (0, None, 0.0, None);
    }

    /// Measures, and says at which step each of the phases ends that are not over, the last with the run; `step` are made and
    /// none is in flight.
    pub fn measure(&mut self, step: u64, ahead: &Ahead) -> Vec<u64> {
        let used = self.clock.used();
        if let Some(mark) = self.mark.filter(|mark| mark.step < step) {
            let now = ((used - mark.used - self.apart) / (step - mark.step) as f64).max(1e-9);
            // Half of what was known: one interval may have been beside other work.
            self.pace = Some(self.pace.map_or(now, |before| 0.5 * (before + now)));
        }
        (self.mark, self.apart) = (Some(Mark { used, step }), 0.0);
        let Some(pace) = self.pace else { return ahead.at_once(step + 1) };
        let left = (1.0 - SLACK) * self.state.seconds - used - self.end(pace);
        if ahead.is_last() {
            return vec![step.saturating_add(self.fitting(step, left, pace))];
        }
        // Evaluations among the steps take their part of each.
        let apart = if self.eval_every == 0 { 0.0 } else { self.evaluation(pace) / self.eval_every as f64 };
        let own = ahead.phases[0][1];
        let part = |(number, &[steps, weight]): (usize, &[f64; 2])| {
            let pace = pace * weight / own;
            let of_time = self.state.shares.get(ahead.phase + number);
            let share = of_time.map_or(steps, |share| share / pace);
            let made = if number == 0 { step - ahead.first } else { 0 };
            Part { share, pace: pace + apart, made }
        };
        let parts: Vec<Part> = ahead.phases.iter().enumerate().map(part).collect();
        let mut end = ahead.first;
        let ends = apportion(&parts, left.max(0.0)).into_iter().map(|steps| {
            end = end.saturating_add(steps).min(UNKNOWN_STEPS);
            end
        });
        ends.collect()
    }

    /// Steps from `step` on that fit, with the evaluations among them, into so many seconds.
    fn fitting(&self, step: u64, left: f64, pace: f64) -> u64 {
        let each = self.evaluation(pace);
        let evaluations = |steps: u64| match self.eval_every {
            0 => 0,
            every => step.saturating_add(steps).saturating_sub(1) / every - step / every,
        };
        // No fewer than fit: of the evaluations all but one.
        let most = match self.eval_every {
            0 => left / pace,
            every => (left / pace).min((left + each) / (pace + each / every as f64)),
        };
        let mut steps = (most.max(0.0).ceil() as u64).min(UNKNOWN_STEPS);
        while steps > 0 {
            let over = steps as f64 * pace + evaluations(steps) as f64 * each - left;
            if over <= 1e-9 * left.abs() {
                break;
            }
            steps = steps.saturating_sub((over / (pace + each)).ceil() as u64);
        }
        steps
    }

    /// How many more steps there is time for where so many are still being computed; nothing where nothing is known.
    pub fn room(&self, in_flight: usize) -> Option<u64> {
        let pace = self.pace?;
        let left = self.state.seconds - self.clock.used() - self.end(pace);
        Some((left / pace - in_flight as f64).max(0.0) as u64)
    }

    /// Whether all of it is used.
    pub fn is_over(&self) -> bool {
        self.clock.used() >= self.state.seconds
    }

    /// Seconds that follow the last step.
    fn end(&self, pace: f64) -> f64 {
        self.evaluation(pace) + self.saving
    }

    fn evaluation(&self, pace: f64) -> f64 {
        match self.evaluation {
            None => 0.0,
            Some(Evaluation::Seconds(seconds)) => seconds,
            Some(Evaluation::Steps(steps)) => steps * pace,
        }
    }

    /// For an adjustment: what was measured.
    pub fn measured(&self) -> (f64, f64) {
        (self.pace.unwrap_or(0.0), self.clock.used())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::clock::Time;
    use super::*;

    fn clock() -> (Clock, Arc<AtomicU64>) {
        let milliseconds = Arc::new(AtomicU64::new(0));
        let time = milliseconds.clone();
        let tell = move || time.load(Ordering::Relaxed) as f64 / 1e3;
        (Clock::start(Time(Arc::new(tell))), milliseconds)
    }

    fn budget(clock: &Clock, seconds: f64) -> Budget<'_> {
        clock.came_to(0.0);
        Budget {
            clock,
            state: BudgetState { seconds, used: 0.0, open: true, rule: None, shares: Vec::new() },
            made: 0,
            mark: None,
            apart: 0.0,
            pace: None,
            evaluation: None,
            eval_every: 0,
            saving: 0.0,
        }
    }

    const ONE: fn() -> Ahead = || Ahead { phase: 0, first: 0, phases: vec![[1.0, 1.0]] };

    /// Steps of 100 ms: the window is 3 + 10 of them, or a hundredth of the budget, or 60 s.
    #[test]
    fn the_window_is_measured() {
        for (seconds, expected) in [(50.0, 13), (500.0, 53), (1e6, 603)] {
            let (clock, time) = clock();
            let mut budget = budget(&clock, seconds);
            let step = (1..10_000).find(|&step| {
                // Kernels are compiled in the first step: no matter.
                time.fetch_add(if step == 1 { 700 } else { 100 }, Ordering::Relaxed);
                budget.is_due(step, step % 5 == 0)
            });
            assert_eq!(step, Some(expected), "{seconds}");
            let used = 0.6 + 0.1 * expected as f64;
            let steps = budget.measure(expected, &ONE())[0];
            let all = expected + (((1.0 - SLACK) * seconds - used) / 0.1) as u64;
            assert!(steps.abs_diff(all) <= 1, "{seconds}: {steps} of {all}");
        }
        // So slow that there is no window.
        let (clock, time) = clock();
        let mut budget = budget(&clock, 50.0);
        let due = (1..20).find(|&step| {
            time.fetch_add(4000, Ordering::Relaxed);
            budget.is_due(step, false)
        });
        assert_eq!((due, budget.measure(4, &ONE())), (Some(4), vec![4 + 8]));
    }

    #[test]
    fn evaluations_and_the_end_are_left_room_for() {
        let (clock, _) = clock();
        let mut budget = budget(&clock, 100.0);
        (budget.evaluation, budget.eval_every) = (Some(Evaluation::Seconds(5.0)), 100);
        // 95 s for steps and evaluations in between, of 0.1 s and 5 s: at 100, 200, … .
        let left = 100.0 - budget.end(0.1);
        for (step, expected) in [(0, 650), (50, 650), (99, 651 - 1)] {
            let steps = budget.fitting(step, left, 0.1);
            let evaluations = (step + steps - 1) / 100 - step / 100;
            let taken = |steps: u64, evaluations: u64| steps as f64 * 0.1 + evaluations as f64 * 5.0;
            assert!(taken(steps, evaluations) <= left + 1e-6, "{step}: {steps}");
            assert!(steps.abs_diff(expected) <= 50, "{step}: {steps}");
        }
        assert_eq!(budget.fitting(7, 0.05, 0.1), 0);
        assert_eq!(budget.fitting(7, -3.0, 0.1), 0);
        budget.evaluation = Some(Evaluation::Steps(20.0));
        assert_eq!(budget.end(0.1), 2.0);
        assert_eq!(budget.room(0), None);
        budget.pace = Some(0.1);
        assert_eq!((budget.room(0), budget.room(2)), (Some(980), Some(978)));
    }

    /// A phase of steps that compute four times as much follows one of 100 ms.
    #[test]
    fn phases_share_what_is_left() {
        let (clock, time) = clock();
        let mut budget = budget(&clock, 1000.0);
        time.fetch_add(100_000, Ordering::Relaxed);
        budget.pace = Some(0.1);
        let left = (1.0 - SLACK) * 1000.0 - 100.0;
        let ahead = || Ahead { phase: 0, first: 0, phases: vec![[900.0, 1.0], [100.0, 4.0]] };
        let ends = budget.measure(1000, &ahead());
        let all = (left + 100.0) / (0.9 * 0.1 + 0.1 * 0.4);
        assert!(ends[0].abs_diff((0.9 * all) as u64) <= 1 && ends[1].abs_diff(all as u64) <= 2, "{ends:?}");
        // Of the time: of 997.5 s two fifths.
        budget.state.shares = vec![0.4, 0.6];
        let ends = budget.measure(1000, &ahead());
        assert!(ends[0].abs_diff(3990) <= 1 && (ends[1] - ends[0]).abs_diff(1496) <= 1, "{ends:?}");
        // It is over, or as good as.
        time.fetch_add(950_000, Ordering::Relaxed);
        assert_eq!(budget.measure(1000, &ahead()), [1000, 1001]);
        budget.turned();
        assert_eq!(budget.measure(1000, &ahead()), [1001, 1002]);
    }

    #[test]
    fn a_slower_machine_means_fewer_steps() {
        let (clock, time) = clock();
        let mut budget = budget(&clock, 100.0);
        let (mut steps, mut step, mut adjusted) = (u64::MAX, 0, 0);
        while step < steps {
            time.fetch_add(if step < 300 { 100 } else { 170 }, Ordering::Relaxed);
            step += 1;
            if budget.is_due(step, false) {
                (steps, adjusted) = (budget.measure(step, &ONE())[0], adjusted + 1);
            }
        }
        let used = time.load(Ordering::Relaxed);
        assert!((99_000..=100_000).contains(&used), "{used} ms, {step} steps");
        assert!(adjusted > 20, "{adjusted}");
    }
}
