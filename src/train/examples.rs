//! Batches of a run, made from the step's number alone, ahead of time on a thread of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};

use crate::model::BatchCapacity;
use crate::store::Store;
use crate::store::examples::ExampleStream;
use crate::tensor::random::{derive, root};
use crate::tensor::{Extents, StepValues};

use super::batch::PackedBatch;
use super::config::TrainConfig;
use super::masking::Masker;
use super::metrics::BatchTotals;

/// Steps that are made ahead.
const AHEAD: usize = 3;

/// All micro-batches of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepBatch {
    pub step: u64,
    /// Key of all draws of the step.
    pub key: [u32; 2],
    pub micro: Vec<PackedBatch>,
    pub totals: BatchTotals,
}

impl StepBatch {
    /// Values of the step for one of its micro-batches, or for ops that concern the whole of it.
    pub fn values(&self, micro: Option<&PackedBatch>, learning_rate: f32) -> StepValues {
        let count = |count: fn(&PackedBatch) -> usize| micro.map_or(0, count) as u32;
        StepValues {
            tokens: count(PackedBatch::tokens),
            sequences: count(PackedBatch::sequence_count),
            masked: count(PackedBatch::masked),
            first_sequence: count(|batch| batch.first_sequence),
            key: self.key,
            learning_rate,
            loss_scale: 1.0,
            masked_total: self.totals.masked as f32,
            tokens_total: self.totals.tokens as f32,
            reserved: [0; 2],
        }
    }
}

/// What one micro-batch can hold.
pub fn capacity(config: &TrainConfig) -> BatchCapacity {
    BatchCapacity {
        tokens: config.micro_batch * config.max_length,
        sequences: config.micro_batch,
        masked: config.micro_batch * config.slots(),
        max_length: config.max_length,
    }
}

/// The capacity as extents, for summaries of the plan.
pub fn full_extents(config: &TrainConfig) -> Extents {
    let capacity = capacity(config);
    Extents { tokens: capacity.tokens, sequences: capacity.sequences, masked: capacity.masked }
}

/// Makes the batch of any step.
pub struct Batcher {
    stream: ExampleStream,
    masker: Masker,
    root: [u32; 2],
    batch_size: usize,
    micro_batch: usize,
    max_length: usize,
}

impl Batcher {
    pub fn new(store: Arc<Store>, config: &TrainConfig) -> Result<Self> {
        let masker = Masker::new(store.special_ids(), config.mask_probability, config.max_length)?;
        Ok(Batcher {
            stream: ExampleStream::new(store, config.seed, config.max_length)?,
            masker,
            root: root(config.seed),
            batch_size: config.batch_size,
            micro_batch: config.micro_batch,
            max_length: config.max_length,
        })
    }

    /// The batch of step `step` (updates already made): examples step · batch_size and those that follow.
    pub fn step(&mut self, step: u64) -> StepBatch {
        let key = derive(self.root, step as u32, (step >> 32) as u32);
        self.examples(step, key, step * self.batch_size as u64, self.batch_size)
    }

    /// A batch of `count` examples from number `first` on, its draws made with `key`.
    pub fn examples(&mut self, step: u64, key: [u32; 2], first: u64, count: usize) -> StepBatch {
        let masked: Vec<_> = (0..count)
            .map(|sequence| {
                let example = self.stream.example(first + sequence as u64);
                self.masker.mask(&example, key, sequence)
            })
            .collect();
        let groups = masked.chunks(self.micro_batch).enumerate();
        let micro: Vec<_> =
            groups.map(|(index, group)| PackedBatch::pack(index * self.micro_batch, group)).collect();
        let totals = BatchTotals {
            tokens: micro.iter().map(|batch| batch.tokens() as u64).sum(),
            masked: micro.iter().map(|batch| batch.masked() as u64).sum(),
            positions: (count * self.max_length) as u64,
            squared_lengths: micro.iter().map(PackedBatch::squared_lengths).sum(),
        };
        StepBatch { step, key, micro, totals }
    }
}

/// A thread that makes the batches of `steps` in order, a few ahead of who takes them.
pub struct Feeder {
    receiver: Option<Receiver<StepBatch>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub fn start(mut batcher: Batcher, steps: std::ops::Range<u64>) -> Result<Self> {
        let (sender, receiver) = sync_channel(AHEAD);
        let make = move || {
            for step in steps {
                // The taker has gone: the run was stopped.
                if sender.send(batcher.step(step)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("batches".into()).spawn(make)?;
        Ok(Feeder { receiver: Some(receiver), thread: Some(thread) })
    }

    /// The next step's batch; waits for it.
    pub fn next_step(&mut self) -> Result<StepBatch> {
        let received = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        received.ok_or_else(|| anyhow!("the thread that makes batches has stopped; please report this"))
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Closing the channel ends the thread at its next step.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Scratch, random_store};
    use crate::train::config::{Sources, Surroundings};

    fn config(micro_batch: usize) -> TrainConfig {
        let set = vec![format!("micro_batch={micro_batch}"), "batch_size=8".into(), "seed=5".into()];
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 60, gpu: false };
        TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap()
    }

    #[test]
    fn a_step_can_be_made_again_and_split() {
        let scratch = Scratch::new();
        let store = Arc::new(random_store(&scratch, 200, 1));
        let mut batcher = Batcher::new(store.clone(), &config(8)).unwrap();
        let steps: Vec<_> = (0..4).map(|step| batcher.step(step)).collect();
        let mut feeder = Feeder::start(Batcher::new(store.clone(), &config(8)).unwrap(), 2..4).unwrap();
        assert_eq!(feeder.next_step().unwrap(), steps[2]);
        assert_eq!(feeder.next_step().unwrap(), steps[3]);
        assert!(feeder.next_step().is_err());

        let mut split = Batcher::new(store, &config(3)).unwrap();
        let (whole, parts) = (&steps[1], split.step(1));
        assert_eq!((parts.totals, parts.key, parts.micro.len()), (whole.totals, whole.key, 3));
        let ids: Vec<u32> = parts.micro.iter().flat_map(|batch| batch.input_ids.clone()).collect();
        assert_eq!(ids, whole.micro[0].input_ids);
        let first: Vec<usize> = parts.micro.iter().map(|batch| batch.first_sequence).collect();
        assert_eq!(first, [0, 3, 6]);
        let totals = whole.totals;
        assert_eq!(totals.tokens, ids.len() as u64);
        assert_eq!(totals.positions, 8 * 128);
        let values = parts.values(Some(&parts.micro[1]), 0.5);
        assert_eq!((values.first_sequence, values.tokens_total), (3, totals.tokens as f32));
    }
}
