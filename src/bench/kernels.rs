//! The ops of a step one by one: results against the CPU executor, then time, rate and share of the peak.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cpu::CpuExecutor;
use crate::device::{Device, Peaks};
use crate::model::parameters;
use crate::plan::Executor;
use crate::train::examples::StepBatch;
use crate::train::feeding::Feeding;
use crate::train::profile::{Profile, Profiler, median};

use super::compare::{Pair, Run};
use super::data;
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
    let (mut batcher, config, notes) = data::open(&options.stores, &options.sources, device.room())?;
    notes.iter().for_each(|note| note!("{note}"));
    let peaks = Peaks::measure(&device)?;
    let (mut executor, feeding) = Feeding::open(&device, config.plan()?)?;
    parameters::initialise(executor.as_mut(), config.seed)?;
    let batches = (0..=options.steps as u64)
        .map(|step| batcher.step(config.phase.first + step))
        .collect::<Result<Vec<StepBatch>>>()?;

    let plan = config.plan()?.plan;
    let mut reference: Box<dyn Executor> = match device.is_gpu() {
        true => Box::new(CpuExecutor::<f32>::new(plan, options.threads)?),
        false => Box::new(CpuExecutor::<f64>::new(plan, options.threads)?),
    };
    parameters::initialise(reference.as_mut(), config.seed)?;
    let pair = Pair { reference: reference.as_mut(), subject: executor.as_mut() };
    let (checked, worst) = check(pair, &feeding, &batches[0])?;
    drop(reference);

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
        device: executor.identity().to_string(),
        micro_batch: config.micro_batch,
        max_length: config.max_length,
        checked,
        worst_error: worst.1,
        worst_op: worst.0,
        profile,
    })
}

/// Compares every kind and shape of op once, in the order of the plan; fails where one is wrong.
fn check(mut pair: Pair<'_>, feeding: &Feeding, batch: &StepBatch) -> Result<(usize, (String, f64))> {
    let mut seen = HashSet::new();
    let mut worst = (String::new(), 0.0);
    pair.walk(&Run::pretraining(feeding, batch, 1e-4), |pair, op, values| {
        let plan = pair.reference.plan();
        let (kind, label) = (plan.ops[op].op.name(), plan.ops[op].label.clone());
        if !seen.insert((kind, plan.shapes(op))) {
            return pair.skip(op, values);
        }
        for deviation in pair.compare(op, values)? {
            if !deviation.integers() && deviation.error > worst.1 {
                worst = (format!("{kind} {label}"), deviation.error);
            }
            ensure!(
                deviation.floats_agree(),
                "{kind} {label}: {} is off by {:.1e} of its largest element on {}",
                deviation.tensor,
                deviation.error,
                pair.subject.identity()
            );
        }
        Ok(())
    })?;
    Ok((seen.len(), worst))
}
