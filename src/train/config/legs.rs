//! Phases and legs: a run's steps in ranges, each with a configuration, and so a plan, of its own.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use crate::device::Room;
use crate::model::{ModelConfig, Trained};
use crate::tensor::draws::PHASE;
use crate::tensor::random::{derive, root};

use super::super::key::{ShareOf, Value};
use super::super::keys::in_phase;
use super::super::settings::Settings;
use super::{Sizes, TrainConfig};

/// What a `[[phase]]` of the configuration is in its run; a run without phases is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// From 0.
    pub number: usize,
    /// Its first step: examples are counted from there.
    pub first: u64,
}

/// Steps that one executor makes: they have one plan. A phase is one leg or several.
#[derive(Clone, Debug)]
pub struct Leg {
    pub steps: Range<u64>,
    /// The run's, as it holds in these steps; `steps` in it are those of the whole run.
    pub config: TrainConfig,
}

impl Leg {
    /// Positions of its steps: sequences times their length.
    pub fn positions(&self) -> f64 {
        (self.steps.end - self.steps.start) as f64 * self.config.positions_per_step()
    }
}

/// Ends a leg at step `at`, where none ends there yet, and lets what `change` says hold in all legs from there on.
pub fn change_from(legs: &mut Vec<Leg>, at: u64, change: impl Fn(&mut TrainConfig)) {
    if let Some(cut) = legs.iter().position(|leg| leg.steps.start < at && at < leg.steps.end) {
        let mut rest = legs[cut].clone();
        (legs[cut].steps.end, rest.steps.start) = (at, at);
        legs.insert(cut + 1, rest);
    }
    legs.iter_mut().filter(|leg| leg.steps.start >= at).for_each(|leg| change(&mut leg.config));
}

/// Which leg makes the step behind so many: the last where none is left.
pub fn leg_of(legs: &[Leg], step: u64) -> usize {
    let before = legs.iter().take_while(|leg| leg.steps.end <= step).count();
    before.min(legs.len().saturating_sub(1))
}

/// One line a phase: its steps, lengths, and what it computes.
pub fn describe_phases(legs: &[Leg]) -> Vec<String> {
    let phases = legs.last().map_or(0, |leg| leg.config.phase.number + 1);
    let all: f64 = legs.iter().map(Leg::positions).sum();
    let line = |phase: usize| {
        let own = || legs.iter().filter(move |leg| leg.config.phase.number == phase);
        let (first, last) = (own().next()?, own().next_back()?);
        let positions: f64 = own().map(Leg::positions).sum();
        let config = &first.config;
        Some(format!(
            "phase {} of {phases}: steps {} to {}, {} sequences of {} tokens each, learning rate {:e}: {:.3} million \
             tokens, {:.1} % of all",
            phase + 1,
            first.steps.start + 1,
            last.steps.end,
            config.batch_size,
            config.max_length,
            config.learning_rate,
            positions / 1e6,
            100.0 * positions / all
        ))
    };
    (0..phases).filter_map(line).collect()
}

impl TrainConfig {
    /// The legs of the run, in order: together all its steps; none is empty.
    ///
    /// # Errors
    /// Shares of phases that are none.
    pub fn legs(&self) -> Result<Vec<Leg>> {
        let mut first = 0;
        let mut legs = Vec::new();
        for (number, end) in self.ends()?.into_iter().enumerate() {
            let config = self.in_phase(Phase { number, first })?;
            legs.push(Leg { steps: first..end, config });
            first = end;
        }
        if self.generator_freeze_at > 0 {
            change_from(&mut legs, self.generator_freeze_at, |config| {
                config.trained = Trained::Discriminator
            });
        }
        Ok(legs)
    }

    /// Whether there are `[[phase]]` tables.
    pub fn has_phases(&self) -> bool {
        self.settings.phases() > 0
    }

    /// What evaluations are made with: the sizes of the last phase, and text that is cut and ordered as in a run without
    /// phases. They stay the same over the whole run.
    pub fn evaluated(&self) -> Result<TrainConfig> {
        let number = self.settings.phases().saturating_sub(1);
        let config = self.in_phase(Phase { number, first: 0 })?;
        Ok(TrainConfig { phase: Phase::default(), ..config })
    }

    /// Sequences of a step times their length: what a padded implementation would compute.
    pub fn positions_per_step(&self) -> f64 {
        (self.batch_size * self.max_length) as f64
    }

    /// Decides how examples are cut and in what order they come: in each phase otherwise. The first has the run's own.
    pub fn examples_seed(&self) -> u64 {
        match self.phase.number {
            0 => self.seed,
            number => {
                let [low, high] = derive(root(self.seed), PHASE, number as u32);
                u64::from(high) << 32 | u64::from(low)
            }
        }
    }

    /// The settings of this run with phases that end at these steps, the last of them with the run.
    pub fn ending_at(&self, ends: &[u64]) -> Result<Settings> {
        let mut settings = self.settings.clone();
        let steps = *ends.last().context("a run of no phases; please report this")?;
        settings.set_value("steps", Value::Whole(steps))?;
        if self.has_phases() {
            settings.set_value("share_of", Value::Word("steps".to_owned()))?;
            let (mut before, mut rest) = (0, 1.0);
            for (phase, &end) in ends.iter().enumerate() {
                let share = if end == steps { rest } else { (end - before) as f64 / steps as f64 };
                settings.set_in(phase, "share", Value::Number(share))?;
                (before, rest) = (end, rest - share);
            }
        }
        Ok(settings)
    }

    /// FLOPs of a step of full sequences: how much longer one takes than that of another phase.
    pub fn flops_per_step(&self) -> f64 {
        let tokens = self.positions_per_step();
        let masked = tokens * self.mask_probability;
        self.model.training_flops(tokens, masked, tokens * self.max_length as f64, self.trained)
    }

    /// The run's configuration with what holds in a phase.
    fn in_phase(&self, phase: Phase) -> Result<TrainConfig> {
        if !self.has_phases() {
            return Ok(self.clone());
        }
        let own = self.settings.of_phase(phase.number);
        let sizes = ["micro_batch", "vocabulary_chunk"].map(|name| own.size(name));
        let [micro_batch, vocabulary_chunk] = sizes;
        let sizes = Sizes { micro_batch: micro_batch?, vocabulary_chunk: vocabulary_chunk? };
        let Self { values, settings, .. } = Self::with(&own, &self.model, sizes)?;
        Ok(TrainConfig { phase, values, settings, ..self.clone() })
    }

    /// Finds the sizes of the micro-batches of every phase.
    pub(super) fn resolve_phases(mut settings: Settings, model: ModelConfig, room: &Room) -> Result<Self> {
        let mut first = None;
        for phase in 0..settings.phases() {
            let config = Self::sized(settings.of_phase(phase), &model, room)
                .with_context(|| format!("phase {}", phase + 1))?;
            let Sizes { micro_batch, vocabulary_chunk } = config.sizes();
            for (name, size) in [("micro_batch", micro_batch), ("vocabulary_chunk", vocabulary_chunk)] {
                settings.set_in(phase, name, Value::Whole(size as u64))?;
            }
            first.get_or_insert(config.sizes());
        }
        let sizes = first.context("a run of no phases; please report this")?;
        let config = Self::with(&settings, &model, sizes)?;
        config.ends()?;
        Ok(config)
    }

    /// The step at which each phase ends.
    fn ends(&self) -> Result<Vec<u64>> {
        if !self.has_phases() {
            return Ok(vec![self.steps]);
        }
        let mut shares = shares_of_phases(&self.settings)?;
        ensure!(
            self.share_of != ShareOf::Time,
            "share_of is time: how many steps that is is known only with --budget"
        );
        if self.share_of == ShareOf::Tokens {
            for (number, share) in shares.iter_mut().enumerate() {
                *share /= self.in_phase(Phase { number, first: 0 })?.positions_per_step();
            }
        }
        let all: f64 = shares.iter().sum();
        let (mut before, mut sum) = (0, 0.0);
        let mut ends = Vec::new();
        for (number, share) in shares.iter().enumerate() {
            sum += share;
            let last = number + 1 == shares.len();
            let end = if last { self.steps } else { (self.steps as f64 * (sum / all)).round() as u64 };
            ensure!(
                end > before,
                "{}: of {} steps phase {} would have none",
                in_phase(number, "share"),
                self.steps,
                number + 1
            );
            ends.push(end);
            before = end;
        }
        Ok(ends)
    }
}

/// The phases' shares of what `share_of` says; the last takes the rest.
///
/// # Errors
/// They are not all of it.
pub fn shares_of_phases(settings: &Settings) -> Result<Vec<f64>> {
    let phases = settings.phases();
    let mut shares = Vec::new();
    for phase in 0..phases {
        let last = phase + 1 == phases;
        let name = in_phase(phase, "share");
        let rest = 1.0 - shares.iter().sum::<f64>();
        let share = match settings.get_in(phase, "share") {
            Some(Value::Number(share)) => *share,
            _ if last => rest,
            _ => bail!("{name} is missing: only the last phase takes the rest"),
        };
        ensure!(
            rest > 1e-9 && share < rest + 1e-9,
            "{name} is {share:.4}: the phases before it leave {:.4}",
            rest.max(0.0)
        );
        ensure!(
            !last || share > rest - 1e-6,
            "{name} is {share:.4}: the phases before it leave {rest:.4}, and the last takes all of it"
        );
        shares.push(share);
    }
    Ok(shares)
}
