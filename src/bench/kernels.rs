//! The ops of a step one by one: results against the CPU executor, then time, rate and share of the peak.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cpu::CpuExecutor;
use crate::device::{Device, Peaks};
use crate::model::{PretrainPlan, parameters};
use crate::plan::{Executor, Phase};
use crate::train::examples::{StepBatch, capacity};
use crate::train::profile::{Profile, Profiler, median, shape};
use crate::train::run::Feeding;

use super::compare::{self, Deviation};
use super::data;
use super::selftest::FLOAT_TOLERANCE;
use super::step::Options;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    pub micro_batch: usize,
    pub max_length: usize,
    /// Ops that were checked against the CPU executor, outputs poisoned before.
    pub checked: usize,
    /// The largest error of a float, relative to the largest element of its tensor.
    pub worst_error: f64,
    pub worst_op: String,
    pub profile: Profile,
}

/// Checks and measures; `options.steps` steps with different batches, of which the median counts.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.steps > 0, "--steps must be at least 1");
    let device = Device::new(&options.device, options.threads)?;
    let (mut batcher, config, notes) = data::open(options.store.as_ref(), &options.sources, device.is_gpu())?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let peaks = Peaks::measure(&device)?;
    let new_plan = || PretrainPlan::new(&config.model, capacity(&config), &config.options);
    let (mut executor, feeding) = Feeding::open(&device, new_plan()?)?;
    parameters::initialise(executor.as_mut(), config.seed)?;
    let batches: Vec<StepBatch> = (0..=options.steps as u64).map(|step| batcher.step(step)).collect();

    let (checked, worst) = if device.is_gpu() {
        let mut reference = CpuExecutor::<f32>::new(new_plan()?.plan, options.threads)?;
        parameters::initialise(&mut reference, config.seed)?;
        check(&mut reference, executor.as_mut(), &feeding, &batches[0])?
    } else {
        let mut reference = CpuExecutor::<f64>::new(new_plan()?.plan, options.threads)?;
        parameters::initialise(&mut reference, config.seed)?;
        check(&mut reference, executor.as_mut(), &feeding, &batches[0])?
    };

    let mut seconds = Vec::new();
    for batch in &batches {
        let since = std::time::Instant::now();
        feeding.step(executor.as_mut(), batch, 0.0)?;
        executor.finish()?;
        seconds.push(since.elapsed().as_secs_f64());
    }
    let step_seconds = median(seconds.split_off(1));
    let mut profiler = Profiler::default();
    for batch in &batches[1..] {
        profiler.step(executor.as_mut(), &feeding, batch, 0.0)?;
    }
    let profile = profiler.finish(executor.as_ref(), step_seconds, peaks);
    Ok(Report {
        device: executor.describe(),
        micro_batch: config.micro_batch,
        max_length: config.max_length,
        checked,
        worst_error: worst.1,
        worst_op: worst.0,
        profile,
    })
}

/// Compares every kind and shape of op once, in the order of the plan; fails where one is wrong.
fn check(
    reference: &mut dyn Executor,
    subject: &mut dyn Executor,
    feeding: &Feeding,
    batch: &StepBatch,
) -> Result<(usize, (String, f64))> {
    let mut seen = HashSet::new();
    let mut worst = (String::new(), 0.0);
    for phase in [Phase::Clear, Phase::Micro, Phase::Update] {
        let mut first = true;
        feeding.each(phase, batch, 1e-4, |values, uploads| {
            if !std::mem::take(&mut first) {
                return Ok(());
            }
            compare::upload(reference, subject, values, uploads)?;
            for op in reference.plan().phase(phase) {
                let planned = &reference.plan().ops[op];
                let (kind, label) = (planned.op.name(), planned.label.clone());
                if !seen.insert((kind, shape(reference.plan(), op))) {
                    reference.run(op..op + 1, values, &[])?;
                    continue;
                }
                for Deviation { tensor, error, integers } in compare::op(reference, subject, op, values)? {
                    if !integers && error > worst.1 {
                        worst = (format!("{kind} {label}"), error);
                    }
                    ensure!(
                        integers || error <= FLOAT_TOLERANCE,
                        "{kind} {label}: {tensor} is off by {error:.1e} of its largest element on {}",
                        subject.describe()
                    );
                }
            }
            Ok(())
        })?;
    }
    Ok((seen.len(), worst))
}
