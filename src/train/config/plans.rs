//! The plans that a configuration asks for.

use anyhow::Result;

use crate::model::{BatchCapacity, Mode, OptimizerOptions, PretrainPlan, StepOptions};
use crate::plan::Shard;
use crate::tensor::Precision;

use super::TrainConfig;

impl TrainConfig {
    /// What one micro-batch can hold.
    pub fn capacity(&self) -> BatchCapacity {
        self.capacity_of(self.sequences_at_once())
    }

    /// Sequences of a micro-batch: what `micro_batch` says, or all that are this rank's of a batch where that is less.
    pub fn sequences_at_once(&self) -> usize {
        match self.split.ranks() {
            1 => self.micro_batch,
            _ => self.micro_batch.min(self.split.own(self.batch_size).len()).max(1),
        }
    }

    /// The same for other micro-batches.
    pub fn capacity_of(&self, sequences: usize) -> BatchCapacity {
        BatchCapacity {
            tokens: sequences * self.max_length,
            sequences,
            labelled: sequences * self.slots(),
            max_length: self.max_length,
        }
    }

    /// The plan of a step.
    pub fn plan(&self) -> Result<PretrainPlan> {
        PretrainPlan::new(&self.model, self.capacity(), &self.step_options())
    }

    /// The plan of an evaluation.
    pub fn evaluation_plan(&self) -> Result<PretrainPlan> {
        let options = StepOptions { mode: Mode::Evaluate, precision: Precision::F32, ..self.step_options() };
        PretrainPlan::new(&self.model, self.capacity(), &options)
    }

    /// What is fixed when the plan of a step is built.
    pub fn step_options(&self) -> StepOptions {
        StepOptions {
            mode: Mode::Train,
            dropout: self.dropout,
            attention_dropout: self.attention_dropout,
            generator_weight: self.generator_weight,
            vocabulary_chunk: Some(self.vocabulary_chunk),
            precision: self.precision,
            optimizer: OptimizerOptions {
                clip_norm: self.clip_norm,
                adam_beta1: self.adam_beta1,
                adam_beta2: self.adam_beta2,
                adam_epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            trained: self.trained,
            shard: Shard { rank: self.split.rank(), ranks: self.split.ranks() },
        }
    }
}
