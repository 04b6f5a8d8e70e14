//! What the two networks of a run say of ids: to compare them with what other programs make of their export.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::batch::{MaskedExample, PackedBatch};
use crate::device::Device;
use crate::interop::checkpoint;
use crate::interop::fitting::{Needed, ensure_fits};
use crate::model::electra::StepTensors;
use crate::model::{BatchCapacity, Mode, PretrainPlan, StepOptions};
use crate::plan::{Data, Executor, Phase, Upload};
use crate::tensor::StepValues;

/// Generator and discriminator of a checkpoint, forward alone.
pub struct Networks {
    executor: Box<dyn Executor>,
    tensors: StepTensors,
    pub vocab_size: usize,
    /// Tokens of a sequence at most.
    pub max_length: usize,
}

/// Logits of one sequence.
pub struct Said {
    /// Of each token: above 0 where the discriminator takes it for a replaced one.
    pub discriminator: Vec<f32>,
    /// Over the vocabulary, at each of the positions that were asked for.
    pub generator: Vec<Vec<f32>>,
}

impl Networks {
    /// Errors: a checkpoint that lacks one of the networks.
    pub fn open(run: &Path, checkpoint: &Path, device: &Device) -> Result<Self> {
        let model = checkpoint::model(run)?;
        let weights = checkpoint::weights(checkpoint)?;
        ensure_fits(&weights, &model, Needed::Everything, str::to_owned)?;
        let max_length = model.max_positions;
        let capacity = BatchCapacity { tokens: max_length, sequences: 1, labelled: max_length, max_length };
        let options = StepOptions {
            mode: Mode::Inspect,
            dropout: 0.0,
            attention_dropout: 0.0,
            ..StepOptions::default()
        };
        let PretrainPlan { plan, tensors, .. } = PretrainPlan::new(&model, capacity, &options)?;
        let mut executor = device.open(plan)?;
        weights.load(executor.as_mut(), |parameter| parameter.value, |part| Some(part.to_owned()))?;
        Ok(Networks { executor, tensors, vocab_size: model.vocab_size, max_length })
    }

    /// Both networks read the same ids; the generator is asked at `positions`.
    pub fn say(&mut self, ids: &[u32], first_segment: usize, positions: &[u32]) -> Result<Said> {
        for &position in positions {
            ensure!(
                (position as usize) < ids.len(),
                "position {position} lies outside of the {} ids",
                ids.len()
            );
        }
        // What the generator proposed is what stands there: so the discriminator reads the same.
        let samples: Vec<u32> = positions.iter().map(|&position| ids[position as usize]).collect();
        let masked = positions.iter().copied().zip(samples.iter().copied()).collect();
        let example = MaskedExample::new(ids.to_vec(), first_segment, masked);
        let batch = PackedBatch::pack(0, &[example]);
        let values = StepValues {
            tokens: ids.len() as u32,
            sequences: 1,
            labelled: positions.len() as u32,
            labelled_total: positions.len().max(1) as f32,
            tokens_total: ids.len() as f32,
            loss_scale: 1.0,
            inverse_temperature: 1.0,
            discriminator_weight: 1.0,
            moment_scale: 1.0,
            epsilon_scale: 1.0,
            ..StepValues::default()
        };
        let clear = self.executor.plan().phase(Phase::Clear);
        self.executor.run(clear, &values, &[])?;
        let generator = self.run(&values, &batch, &samples)?;
        let mut discriminator = self.executor.read(self.tensors.discriminator_logits)?;
        discriminator.truncate(ids.len());
        Ok(Said { discriminator, generator })
    }

    /// Stops before each op that uses a chunk of the vocabulary's logits, to read them.
    fn run(&mut self, values: &StepValues, batch: &PackedBatch, samples: &[u32]) -> Result<Vec<Vec<f32>>> {
        let mut uploads = self.tensors.uploads(batch);
        uploads.push(Upload { tensor: self.tensors.sampled, data: Data::Uint(samples) });
        let micro = self.executor.plan().phase(Phase::Micro);
        let mut start = micro.start;
        let mut rows = Vec::new();
        for chunk in &self.tensors.logits {
            self.executor.run(start..chunk.consumer, values, &uploads)?;
            uploads.clear();
            start = chunk.consumer;
            let used = samples.len().saturating_sub(chunk.first_row).min(chunk.rows);
            let logits = self.executor.read(chunk.tensor)?;
            rows.extend(logits[..used * self.vocab_size].chunks(self.vocab_size).map(<[f32]>::to_vec));
        }
        self.executor.run(start..micro.end, values, &uploads)?;
        Ok(rows)
    }
}
