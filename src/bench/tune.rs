//! Measures all candidates of every op of a step, and keeps the fastest ones for later runs on this device.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::cpu::CpuExecutor;
use crate::device::Device;
use crate::gpu::tuning::device_of;
use crate::gpu::{GpuExecutor, Options, Selection, Tuning};
use crate::model::{PretrainPlan, parameters};
use crate::train::config::TrainConfig;
use crate::train::examples::Batcher;
use crate::train::feeding::Feeding;
use crate::train::profile::median;

use super::compare::{Deviation, Pair, Run};

/// A candidate that has taken longer once is not measured again.
const TOO_SLOW: f64 = 0.25;
const REPETITIONS: usize = 5;

/// One candidate of one op.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub strategy: String,
    /// Median.
    pub seconds: f64,
    /// The results agree with the CPU executor's; else it is never chosen.
    pub right: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    /// By signature; only ops with more than one candidate.
    pub ops: BTreeMap<String, Vec<Measured>>,
    pub kept_in: PathBuf,
    /// Ops that were left at the selector's choice because the time was up.
    pub unmeasured: usize,
}

/// Tunes the ops of this configuration's step within `limit`; memory is that of one executor at a time.
pub fn run(device: &Device, config: &TrainConfig, limit: Duration) -> Result<Report> {
    let Some(gpu) = device.gpu() else {
        bail!("--tune chooses among kernels, and the CPU executor has one way to compute each op");
    };
    let since = Instant::now();
    let batch = Batcher::full_length(config)?.step(1)?;
    let mut ops: BTreeMap<String, Vec<Measured>> = BTreeMap::new();
    let mut unmeasured = 0;
    let mut before: Option<Vec<&'static str>> = None;
    for candidate in 0.. {
        let PretrainPlan { plan, tensors, .. } = config.plan()?;
        let feeding = Feeding::of(tensors);
        let options = Options { selection: Selection::Nth(candidate), checked: false };
        let mut subject = GpuExecutor::new(gpu.clone(), plan, options)?;
        let strategies = subject.strategies();
        if before.as_ref() == Some(&strategies) {
            break;
        }
        let mut reference = CpuExecutor::<f32>::new(config.plan()?.plan, 0)?;
        parameters::initialise(&mut reference, config.seed)?;
        parameters::initialise(&mut subject, config.seed)?;
        let mut pair = Pair { reference: &mut reference, subject: &mut subject };
        pair.walk(&Run::pretraining(&feeding, &batch, 1e-4), |pair, op, values| {
            let strategy = strategies[op];
            let known = ops.entry(pair.reference.plan().signature(op)).or_default();
            if known.iter().any(|measured| measured.strategy == strategy) {
                return pair.skip(op, values);
            }
            if since.elapsed() > limit {
                unmeasured += 1;
                return Ok(());
            }
            let deviations = pair.compare(op, values)?;
            let right = deviations.iter().all(Deviation::floats_agree);
            let mut seconds = Vec::new();
            for _ in 0..REPETITIONS {
                seconds.push(pair.subject.profile(op..op + 1, values, &[])?[0]);
                if seconds.iter().sum::<f64>() > TOO_SLOW {
                    break;
                }
            }
            known.push(Measured { strategy: strategy.to_owned(), seconds: median(seconds), right });
            Ok(())
        })?;
        before = Some(strategies);
    }
    ops.retain(|_, measured| measured.len() > 1);
    let device = device_of(&gpu.capabilities);
    // What was measured for other shapes stays.
    let earlier = gpu.preferred();
    let mut strategies = earlier.strategies.clone();
    for (signature, measured) in &ops {
        let right = measured.iter().filter(|m| m.right);
        if let Some(best) = right.min_by(|a, b| a.seconds.total_cmp(&b.seconds)) {
            strategies.insert(signature.clone(), best.strategy.clone());
        }
    }
    let kept_in = Tuning { device: device.clone(), strategies }.keep(&gpu.capabilities)?;
    Ok(Report { device, ops, kept_in, unmeasured })
}
