//! What makes the steps of a leg: opened for each anew, and given what the leg before has trained.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::device::Device;
use crate::files::write_atomically;
use crate::gpu::Tuning;
use crate::interop::checkpoint::State;
use crate::interop::positions::{IN_NAMES, extend};
use crate::model::parameters;
use crate::plan::Executor;
use crate::store::Stores;

use super::super::config::{Leg, TrainConfig};
use super::super::examples::Batcher;
use super::super::feeding::Feeding;
use super::Options;
use super::cross_check::CrossCheck;
use super::selftest::selftest;

/// What every leg is made with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    pub options: &'a Options,
    pub device: &'a Device,
    pub stores: &'a Stores,
}

/// What makes the steps of one leg.
pub struct Machine {
    pub executor: Box<dyn Executor>,
    pub feeding: Feeding,
    pub batcher: Batcher,
    pub cross_check: Option<CrossCheck>,
}

impl Workshop<'_> {
    /// Allocates and compiles what the leg of this configuration needs; its parameters are not there yet.
    pub fn open(&self, config: &TrainConfig) -> Result<Machine> {
        let Workshop { options, device, stores } = *self;
        let batcher = Batcher::new(stores, config)?;
        let plan = config.plan()?;
        note!("{}", config.room_taken(&plan.plan, device.room()));
        let (executor, feeding) = Feeding::open(device, plan)?;
        let cross_check = match options.cross_check {
            0 => None,
            _ if !device.is_gpu() => {
                bail!("--cross-check compares a GPU with the processor, and this run is on the processor")
            }
            every => Some(CrossCheck::new(every, config, options.threads, config.sequences_at_once())?),
        };
        Ok(Machine { executor, feeding, batcher, cross_check })
    }

    /// The state of loss scaling that the run goes on with, then the comparison with the processor where it is due: what
    /// comes between loaded parameters and the first step.
    pub fn begin(&self, machine: &mut Machine, config: &TrainConfig, state: &State) -> Result<()> {
        let Machine { executor, feeding, batcher, .. } = machine;
        let executor = executor.as_mut();
        if let (Some(tensor), Some(scaling)) = (executor.plan().loss_scale, state.loss_scaling) {
            scaling.write(executor, tensor)?;
        }
        let Options { selftest: wanted, threads, .. } = *self.options;
        selftest(wanted, self.device, executor, feeding, batcher, config, threads)
    }

    /// Writes down the kernels of all legs, so that whoever resumes has them in those that have not begun, too. `open` has
    /// made the leg that begins.
    pub fn record_kernels(&self, path: &Path, legs: &[Leg], begun: usize, open: &dyn Executor) -> Result<()> {
        let Some(mut used) = self.device.kernels_of(open) else { return Ok(()) };
        for (_, leg) in legs.iter().enumerate().filter(|(number, _)| *number != begun) {
            let Tuning { strategies, .. } =
                self.device.kernels_for(&leg.config.plan()?.plan)?.unwrap_or_default();
            strategies.into_iter().for_each(|(signature, strategy)| {
                used.strategies.entry(signature).or_insert(strategy);
            });
        }
        write_atomically(path, &serde_json::to_vec_pretty(&used)?)
    }
}

/// Gives rows of the table of positions a start that no step before has read, where the leg reads them: values and
/// moments. From then on they are the run's as all others are.
pub fn extend_positions(executor: &mut dyn Executor, config: &TrainConfig, state: &mut State) -> Result<()> {
    let (length, how) = (config.max_length, config.extend_positions);
    let Some(known) = state.positions.filter(|&known| known < length) else { return Ok(()) };
    let all = executor.plan().parameters.clone();
    for table in
        all.iter().filter(|parameter| parameter.parts.iter().any(|part| part.name.contains(IN_NAMES)))
    {
        let [old, new] = [known, length].map(|rows| rows * table.columns);
        let drawn = parameters::drawn(table, config.seed);
        let drawn = drawn.get(..new).context("fewer positions than the sequences of a phase need")?;
        let zeros = vec![0.0; new];
        let fresh =
            [(table.value, drawn), (table.first_moment, &zeros[..]), (table.second_moment, &zeros[..])];
        for (tensor, fresh) in fresh {
            let values = executor.read(tensor)?;
            executor.write(tensor, &extend(&values[..old], table.columns, length, how, fresh)?)?;
        }
    }
    note!("{}", how.describe(known, length));
    state.positions = Some(length);
    Ok(())
}
