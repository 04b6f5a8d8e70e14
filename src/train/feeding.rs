//! Feeds a pre-training plan: what is uploaded before each run of its phases.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::batch::PackedBatch;
use crate::device::Device;
use crate::model::PretrainPlan;
use crate::model::electra::StepTensors;
use crate::plan::{Executor, Phase, Upload};
use crate::tensor::{StepValues, TensorId};

use super::examples::StepBatch;

/// The phases of a step, in order.
pub const PHASES: [Phase; 3] = [Phase::Clear, Phase::Micro, Phase::Update];

/// Runs the phases of a step of a pre-training plan.
pub struct Feeding {
    tensors: StepTensors,
}

impl Feeding {
    /// An executor for the plan, and what feeds it.
    pub fn open(device: &Device, plan: PretrainPlan) -> Result<(Box<dyn Executor>, Feeding)> {
        let PretrainPlan { plan, tensors, .. } = plan;
        Ok((device.open(plan)?, Feeding::of(tensors)))
    }

    /// What feeds a plan of these tensors, whoever runs it.
    pub fn of(tensors: StepTensors) -> Self {
        Feeding { tensors }
    }

    /// Runs a phase: `Micro` once for each micro-batch, the others once.
    pub fn run(
        &self,
        executor: &mut dyn Executor,
        phase: Phase,
        batch: &StepBatch,
        learning_rate: f32,
    ) -> Result<()> {
        let ops = executor.plan().phase(phase);
        let mut left = batch.micro.len();
        self.each(phase, batch, learning_rate, |values, uploads| {
            count_down(executor, phase, &mut left);
            executor.run(ops.clone(), values, uploads)
        })
    }

    /// Runs a whole step: all phases.
    pub fn step(&self, executor: &mut dyn Executor, batch: &StepBatch, learning_rate: f32) -> Result<()> {
        for phase in PHASES {
            self.run(executor, phase, batch, learning_rate)?;
        }
        Ok(())
    }

    /// As [`Feeding::step`], given up where `stop` is set before the update: then it returns false, and parameters and
    /// moments are as they were.
    pub fn step_until(
        &self,
        executor: &mut dyn Executor,
        batch: &StepBatch,
        learning_rate: f32,
        stop: &AtomicBool,
    ) -> Result<bool> {
        for phase in PHASES {
            let ops = executor.plan().phase(phase);
            let most = executor.ops_at_once();
            let stopped = || phase != Phase::Update && stop.load(Ordering::Relaxed);
            let mut left = batch.micro.len();
            self.each(phase, batch, learning_rate, |values, uploads| {
                count_down(executor, phase, &mut left);
                let (mut next, mut uploads) = (ops.start, uploads);
                while next < ops.end && !stopped() {
                    let end = next.saturating_add(most).min(ops.end);
                    executor.run(next..end, values, std::mem::take(&mut uploads))?;
                    next = end;
                }
                Ok(())
            })?;
            if stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Values and uploads of every run of a phase.
    pub fn each(
        &self,
        phase: Phase,
        batch: &StepBatch,
        learning_rate: f32,
        mut f: impl FnMut(&StepValues, &[Upload<'_>]) -> Result<()>,
    ) -> Result<()> {
        if phase != Phase::Micro {
            return f(&batch.values(None, learning_rate), &[]);
        }
        for micro in &batch.micro {
            f(&batch.values(Some(micro), learning_rate), &self.uploads(micro))?;
        }
        Ok(())
    }

    /// What a micro-batch brings.
    pub fn uploads<'a>(&self, micro: &'a PackedBatch) -> Vec<Upload<'a>> {
        self.tensors.uploads(micro)
    }

    /// `[M]`: what was sampled for the masked tokens.
    pub fn sampled(&self) -> TensorId {
        self.tensors.sampled
    }

    /// The tensors that `Totals::add` wants.
    pub fn reported(&self) -> [TensorId; 2] {
        [self.tensors.metrics, self.tensors.histogram]
    }
}

/// Tells the executor of the last micro-batch.
fn count_down(executor: &mut dyn Executor, phase: Phase, left: &mut usize) {
    if phase == Phase::Micro {
        *left -= 1;
        if *left == 0 {
            executor.before_last_micro_batch();
        }
    }
}
