//! A micro-batch of a step computed on the processor too: kernels that compute wrongly, and do so quietly, are caught.

use anyhow::{Context, Result, bail, ensure};

use crate::cpu::CpuExecutor;
use crate::interop::checkpoint::LossScalingState;
use crate::model::{Mode, PretrainPlan, StepOptions};
use crate::plan::{Data, Executor, Phase, Shard, Upload, copy_parameters};
use crate::tensor::Precision;
use crate::tolerances::{CROSS_CHECK, HALF_CROSS_CHECK};

use super::super::config::TrainConfig;
use super::super::examples::StepBatch;
use super::super::feeding::Feeding;

/// The step of a run on the processor.
pub struct CrossCheck {
    every: u64,
    reference: CpuExecutor<f32>,
    feeding: Feeding,
    vocabulary: usize,
    /// How far a gradient may be off, relative to the largest of its parameter.
    tolerance: f64,
}

impl CrossCheck {
    /// Of every `every`-th step, for micro-batches of so many sequences. The processor's samples are the device's, so that
    /// near-ties are no difference.
    pub fn new(every: u64, config: &TrainConfig, threads: usize, sequences: usize) -> Result<Self> {
        let options = StepOptions {
            mode: Mode::Parity,
            precision: Precision::F32,
            shard: Shard::default(),
            ..config.step_options()
        };
        let PretrainPlan { plan, tensors, .. } =
            PretrainPlan::new(&config.model, config.capacity_of(sequences), &options)?;
        let tolerance = match config.precision {
            Precision::F32 => CROSS_CHECK,
            Precision::F16 => HALF_CROSS_CHECK,
        };
        let reference = CpuExecutor::new(plan, threads)?;
        let (feeding, vocabulary) = (Feeding::of(tensors), config.model.vocab_size);
        Ok(CrossCheck { every, reference, feeding, vocabulary, tolerance })
    }

    pub fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// Computes the gradients of the first micro-batch on both, before the step itself, which begins by clearing them:
    /// nothing that is trained changes. Returns the largest difference, as the tolerance measures it.
    ///
    /// # Errors
    /// They differ: where, and by how much.
    pub fn check(
        &mut self,
        executor: &mut dyn Executor,
        feeding: &Feeding,
        batch: &StepBatch,
    ) -> Result<f64> {
        let micro = batch.micro.first().context("a step without a micro-batch")?;
        let (whole, values) = (batch.values(None, 0.0), batch.values(Some(micro), 0.0));
        let plan = executor.plan();
        let (clear, ops, sampled) = (plan.phase(Phase::Clear), plan.phase(Phase::Micro), feeding.sampled());
        let writes = |&op: &usize| plan.ops[op].writes().any(|tensor| tensor == sampled);
        let sampler = ops.clone().find(writes).context("no op of the plan samples")? + 1;
        executor.run(clear, &whole, &[])?;
        executor.run(ops.start..sampler, &values, &feeding.uploads(micro))?;
        let samples = executor.read_uint(sampled)?;
        executor.run(sampler..ops.end, &values, &[])?;
        let scale = match executor.plan().loss_scale {
            Some(tensor) => LossScalingState::read(executor, tensor)?.scale as f32,
            None => 1.0,
        };

        let samples = samples.get(..micro.masked()).context("fewer samples than masked tokens")?;
        ensure!(
            samples.iter().all(|&id| (id as usize) < self.vocabulary),
            "the device sampled an id that there is not"
        );
        copy_parameters(executor, &mut self.reference)?;
        let [clear, ops] = [Phase::Clear, Phase::Micro].map(|phase| self.reference.plan().phase(phase));
        self.reference.run(clear, &whole, &[])?;
        let mut uploads = self.feeding.uploads(micro);
        uploads.push(Upload { tensor: self.feeding.sampled(), data: Data::Uint(samples) });
        self.reference.run(ops, &values, &uploads)?;

        let ours = executor.plan().parameters.clone();
        let theirs = self.reference.plan().parameters.clone();
        let mut largest = 0.0;
        for (parameter, reference) in ours.iter().zip(&theirs) {
            let computed = executor.read(parameter.gradient)?;
            let expected = self.reference.read(reference.gradient)?;
            let error = difference(&computed, &expected, scale);
            if error > self.tolerance || error.is_nan() {
                let name = parameter.parts.first().map_or("a parameter", |part| &part.name);
                bail!(
                    "the gradient of {name} is off by {error:.1e} of its largest element from what the processor computes \
                     ({:.0e} is allowed): this device does not compute rightly with these kernels (`inazuma selftest` says \
                     more); what it has trained is not to be trusted",
                    self.tolerance
                )
            }
            largest = f64::max(largest, error);
        }
        Ok(largest)
    }
}

/// The largest difference, relative to the largest expected element; not a number where one is.
fn difference(computed: &[f32], expected: &[f32], scale: f32) -> f64 {
    let (mut off, mut size) = (0.0f64, f64::from(f32::MIN_POSITIVE));
    for (&x, &y) in computed.iter().zip(expected) {
        let error = f64::from((x / scale - y).abs());
        off = if error.is_nan() || error > off { error } else { off };
        size = size.max(f64::from(y.abs()));
        if off.is_nan() {
            return off;
        }
    }
    off / size
}
