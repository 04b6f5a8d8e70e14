//! Whole training steps, measured: data, sampling and optimiser included.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::device::{Device, DeviceChoice, Peaks};
use crate::model::{PretrainPlan, parameters};
use crate::plan::{Executor, IN_FLIGHT, InFlight, Submitted};
use crate::store::WeightedPath;
use crate::train::config::Sources;
use crate::train::examples::{Batcher, Feeder, StepBatch};
use crate::train::feeding::Feeding;
use crate::train::profile::{Profile, Profiler, median};

use super::data;

/// What is measured.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Real text; without it random sequences of full length.
    pub stores: Vec<WeightedPath>,
    pub sources: Sources,
    pub device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core.
    pub threads: usize,
    /// Steps that count, after one that warms up.
    pub steps: usize,
    /// Profile as many steps by op, after those measured.
    pub profiled: usize,
    /// Fill every sequence up to the full length with padding that is computed like the rest: what packing saves.
    pub padded: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    pub batch_size: usize,
    pub max_length: usize,
    pub micro_batch: usize,
    pub steps: usize,
    /// Real tokens and positions (sequences × max length) a second, by the median step.
    pub tokens_per_second: f64,
    pub positions_per_second: f64,
    pub step_ms: f64,
    pub step_ms_best: f64,
    /// Model FLOPs of real tokens a second (docs/spec.md §7), and their share of the measured peak.
    pub model_flops_per_second: f64,
    pub mfu: f64,
    pub peak_flops_per_second: f64,
    /// CPU: the most memory the process has had; GPU: the buffers of the plan.
    pub peak_memory_bytes: u64,
    pub plan_bytes: u64,
    /// Real tokens of all positions.
    pub fill: f64,
    /// Milliseconds in which the host records and submits a step, the median; on the CPU executor, those of the step.
    pub host_ms: f64,
    /// Kernels a step launches and how often it submits them; 0 on the CPU executor.
    pub dispatches: f64,
    pub submissions: f64,
    /// Seconds from an open device to the end of the first step: plan, kernels, memory.
    pub startup_seconds: f64,
    pub profile: Option<Profile>,
}

/// Measures steps; the model's parameters are random, its learning rate is as at the start of a run.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.steps > 0, "--steps must be at least 1");
    let device = Device::new(&options.device, options.threads)?;
    let (mut batcher, config, notes) = data::open(&options.stores, &options.sources, device.room())?;
    notes.iter().for_each(|note| note!("{note}"));
    let peaks = Peaks::measure(&device)?;
    let since = Instant::now();
    let mut capacity = config.capacity();
    if options.padded {
        batcher.pad();
        // The padding of each sequence is a sequence of its own.
        capacity.sequences *= 2;
    }
    let plan = PretrainPlan::new(&config.model, capacity, &config.step_options())?;
    let plan_bytes = plan.plan.bytes();
    let (mut executor, feeding) = Feeding::open(&device, plan)?;
    parameters::initialise(executor.as_mut(), config.seed)?;
    let mut measured = Measured {
        executor: executor.as_mut(),
        feeding: &feeding,
        host_seconds: Vec::new(),
        counted: Submitted::default(),
    };
    let (batches, seconds, startup) = measured.steps(batcher, config.phase.first, options.steps, since)?;
    let Measured { host_seconds, counted, .. } = measured;
    let step_seconds = median(seconds.clone());
    let profile = match options.profiled {
        0 => None,
        n => {
            let mut profiler = Profiler::default();
            for batch in &batches[batches.len() - n.min(batches.len())..] {
                profiler.step(executor.as_mut(), &feeding, batch, 1e-6)?;
            }
            Some(profiler.finish(executor.as_ref(), step_seconds, peaks))
        }
    };
    let mean = |count: fn(&StepBatch) -> u64| {
        batches.iter().map(|batch| count(batch) as f64).sum::<f64>() / batches.len() as f64
    };
    let tokens = mean(|batch| batch.totals.tokens);
    let positions = mean(|batch| batch.totals.positions);
    let flops = config.model.training_flops(
        tokens,
        mean(|batch| batch.totals.masked),
        mean(|batch| batch.totals.squared_lengths),
        config.trained,
    );
    Ok(Report {
        device: executor.identity().to_string(),
        batch_size: config.batch_size,
        max_length: config.max_length,
        micro_batch: config.micro_batch,
        steps: options.steps,
        tokens_per_second: tokens / step_seconds,
        positions_per_second: positions / step_seconds,
        step_ms: 1e3 * step_seconds,
        step_ms_best: 1e3 * seconds.iter().copied().fold(f64::INFINITY, f64::min),
        model_flops_per_second: flops / step_seconds,
        mfu: flops / step_seconds / peaks.flops_per_second,
        peak_flops_per_second: peaks.flops_per_second,
        peak_memory_bytes: if device.is_gpu() { plan_bytes } else { peak_memory().unwrap_or(plan_bytes) },
        plan_bytes,
        fill: tokens / positions,
        host_ms: 1e3 * median(host_seconds),
        dispatches: counted.dispatches as f64 / options.steps as f64,
        submissions: counted.submissions as f64 / options.steps as f64,
        startup_seconds: startup,
        profile,
    })
}

struct Measured<'a> {
    executor: &'a mut dyn Executor,
    feeding: &'a Feeding,
    /// Of each step that counts: recording and submitting it.
    host_seconds: Vec<f64>,
    /// By all steps that count.
    counted: Submitted,
}

impl Measured<'_> {
    /// Runs the steps as training does, a few in flight. The batches, the seconds from the results of one step
    /// to those of the next, and those until the first.
    fn steps(
        &mut self,
        batcher: Batcher,
        first: u64,
        counted: usize,
        since: Instant,
    ) -> Result<(Vec<StepBatch>, Vec<f64>, f64)> {
        let steps = counted + 1;
        let mut feeder = Feeder::start(batcher, first..first + steps as u64)?;
        let (mut batches, mut arrivals) = (Vec::new(), Vec::new());
        let mut in_flight = InFlight::default();
        for step in 0..steps as u64 {
            let batch = feeder.next_step()?;
            let (before, recorded) = (self.executor.submitted(), Instant::now());
            self.feeding.step(self.executor, &batch, 1e-6)?;
            in_flight.submitted(self.executor, &self.feeding.reported(), ())?;
            if step > 0 {
                self.host_seconds.push(recorded.elapsed().as_secs_f64());
                self.counted += self.executor.submitted() - before;
            }
            batches.push(batch);
            // The first step is waited for: it is no part of the rhythm.
            let waiting = if step == 0 || step + 1 == steps as u64 { 0 } else { IN_FLIGHT };
            while in_flight.next(self.executor, waiting)?.is_some() {
                arrivals.push(Instant::now());
            }
        }
        let between = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let seconds = shared_out(between);
        let startup = (arrivals[0] - since).as_secs_f64();
        batches.remove(0);
        Ok((batches, seconds, startup))
    }
}

/// Seconds of each step, by those between the arrivals of results. Results that the host finds together (it was busy, or
/// submitting made it wait) share the time since the arrival before them: none of these steps took no time.
fn shared_out(mut between: Vec<f64>) -> Vec<f64> {
    let together = 0.1 * between.iter().sum::<f64>() / between.len().max(1) as f64;
    let mut first = 0;
    while first < between.len() {
        let following = between[first + 1..].iter().take_while(|&&seconds| seconds < together).count();
        let group = &mut between[first..=first + following];
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        group.fill(mean);
        first += following + 1;
    }
    between
}

/// The most memory this process has had in use, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::shared_out;

    #[test]
    fn results_that_arrive_together_share_the_time() {
        assert_eq!(shared_out(vec![4.0, 6.0, 5.0]), [4.0, 6.0, 5.0]);
        assert_eq!(shared_out(vec![4.0, 9.0, 0.0, 0.0, 5.0]), [4.0, 3.0, 3.0, 3.0, 5.0]);
        assert_eq!(shared_out(vec![0.0, 8.0]), [0.0, 8.0]);
        assert_eq!(shared_out(vec![]), [0.0; 0]);
    }
}
