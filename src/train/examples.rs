//! Batches of a run, made from the step's number alone, ahead of time on a thread of their own.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow, bail, ensure};

use crate::batch::PackedBatch;
use crate::batch::masking::{Masker, Masking, Share};
use crate::ranks::Split;
use crate::store::examples::Example;
use crate::store::mixture::Mixture;
use crate::store::{Stores, Words};
use crate::tensor::random::{Stream, derive, root};
use crate::tensor::{Extents, StepValues};
use crate::tokenizer::SpecialIds;

use super::config::TrainConfig;
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
    /// A larger norm of its gradients makes its update change nothing; 0 for any.
    pub norm_limit: f32,
    /// Of the softmax that replacements are drawn from.
    pub temperature: f32,
    /// Of the discriminator's loss.
    pub discriminator_weight: f32,
    /// Of Adam's first moment and its ε ([`crate::train::optimizer`]).
    pub moment_scale: f32,
    pub epsilon_scale: f32,
}

impl StepBatch {
    /// Values of the step for one of its micro-batches, or for ops that concern the whole of it.
    pub fn values(&self, micro: Option<&PackedBatch>, learning_rate: f32) -> StepValues {
        let count = |count: fn(&PackedBatch) -> usize| micro.map_or(0, count) as u32;
        StepValues {
            tokens: count(PackedBatch::tokens),
            sequences: count(PackedBatch::sequence_count),
            labelled: count(PackedBatch::masked),
            first_sequence: count(|batch| batch.first_sequence),
            key: self.key,
            learning_rate,
            loss_scale: 1.0,
            labelled_total: self.totals.masked as f32,
            tokens_total: self.totals.tokens as f32,
            norm_limit: self.norm_limit,
            inverse_temperature: 1.0 / self.temperature,
            discriminator_weight: self.discriminator_weight,
            moment_scale: self.moment_scale,
            epsilon_scale: self.epsilon_scale,
            reserved: 0,
        }
    }
}

/// The capacity as extents, for summaries of the plan.
pub fn full_extents(config: &TrainConfig) -> Extents {
    let capacity = config.capacity();
    Extents { tokens: capacity.tokens, sequences: capacity.sequences, labelled: capacity.labelled }
}

/// Where examples come from.
enum Source {
    Stores(Mixture),
    Random(FullLength),
}

/// Examples of random pieces that are all as long as they may be: to measure with, not to train with.
struct FullLength {
    special: SpecialIds,
    vocab_size: u32,
    length: usize,
    root: [u32; 2],
}

impl FullLength {
    fn example(&self, number: u64) -> Example {
        let mut draws = Stream::new(derive(self.root, number as u32, (number >> 32) as u32));
        let SpecialIds { cls, sep, .. } = self.special;
        let mut ids: Vec<u32> = (0..self.length)
            .map(|_| {
                // Words are not used equally often: the cube makes the commonest hundredth a fifth of the text.
                let u = draws.uniform();
                (u * u * u * f64::from(self.vocab_size)) as u32
            })
            .map(|id| if id <= LAST_SPECIAL { self.vocab_size - 1 - id } else { id })
            .collect();
        let middle = self.length / 2;
        (ids[0], ids[middle], ids[self.length - 1]) = (cls, sep, sep);
        Example { ids, first_segment: middle + 1, words: None }
    }
}

/// Ids of a model trained for this: `<unk>` 0 to `[MASK]` 6.
const LAST_SPECIAL: u32 = 6;

/// Makes the batch of any step.
pub struct Batcher {
    source: Source,
    masker: Masker,
    /// Of the tokens that are masked, by the step.
    share: Share,
    root: [u32; 2],
    /// The step that takes the first examples: of the phase.
    first: u64,
    batch_size: usize,
    /// Whose sequences of a batch are made into micro-batches; the others are only counted.
    split: Split,
    micro_batch: usize,
    max_length: usize,
    /// Of every batch; who trains sets what follows the step.
    temperature: f32,
    discriminator_weight: f32,
    /// The id to pad with, where batches are padded.
    padding: Option<u32>,
}

impl Batcher {
    /// Errors: `masking = word` and a store that does not mark where words begin; those of `Mixture::new`.
    pub fn new(stores: &Stores, config: &TrainConfig) -> Result<Self> {
        let unmarked = stores.iter().find(|(store, _)| store.words() == Words::None);
        if let Some((store, _)) = unmarked.filter(|_| config.masking == Masking::Word) {
            bail!(
                "{}: does not mark where words begin, which masking=word needs; make it again with \
                 `inazuma prepare --words script`, or set masking=token",
                store.path().display()
            );
        }
        let mut mixture = Mixture::new(stores, config.examples_seed(), config.max_length)?;
        if config.masking != Masking::Token {
            mixture.mark_words();
        }
        let batcher = Self::with(Source::Stores(mixture), stores.first().special_ids(), config)?;
        Ok(Batcher { masker: batcher.masker.with_masking(config.masking), ..batcher })
    }

    /// Batches to evaluate on, by `examples`: single tokens are masked, a share of `mask_probability`, however the run
    /// masks; so evaluations of all runs compare.
    pub fn evaluation(stores: &Stores, config: &TrainConfig) -> Result<Self> {
        let mixture = Mixture::new(stores, config.seed, config.max_length)?;
        let batcher = Self::with(Source::Stores(mixture), stores.first().special_ids(), config)?;
        Ok(Batcher { split: Split::default(), ..batcher })
    }

    /// Random sequences of the full length: batches to measure with where there is no store.
    pub fn full_length(config: &TrainConfig) -> Result<Self> {
        let vocab_size = config.model.vocab_size as u32;
        ensure!(
            vocab_size > 4 * LAST_SPECIAL && config.max_length >= 5,
            "a vocabulary of {vocab_size} pieces or sequences of {} tokens are too small to measure with",
            config.max_length
        );
        let special = SpecialIds { pad: 3, cls: 4, sep: 5, mask: LAST_SPECIAL };
        let examples =
            FullLength { special, vocab_size, length: config.max_length, root: root(config.seed ^ 0x5eed) };
        Self::with(Source::Random(examples), special, config)
    }

    fn with(source: Source, special: SpecialIds, config: &TrainConfig) -> Result<Self> {
        Ok(Batcher {
            source,
            masker: Masker::new(special, config.mask_probability, config.max_length)?,
            share: config.mask_share(),
            root: root(config.seed),
            first: config.phase.first,
            batch_size: config.batch_size,
            split: config.split.clone(),
            micro_batch: config.sequences_at_once(),
            max_length: config.max_length,
            temperature: config.temperature,
            discriminator_weight: config.discriminator_weight,
            padding: None,
        })
    }

    /// Pads every sequence from here on to the full length: to measure with, not to train with.
    pub fn pad(&mut self) {
        self.padding = Some(self.masker.special().pad);
    }

    /// The batch of step `step` (updates already made): of the examples of its phase, counted from the phase's first step,
    /// step · batch_size and those that follow.
    ///
    /// Errors: a store that is damaged, or was changed while it is in use.
    pub fn step(&mut self, step: u64) -> Result<StepBatch> {
        let key = derive(self.root, step as u32, (step >> 32) as u32);
        let within = step.saturating_sub(self.first);
        self.masker = self.masker.with_share(self.share.at(step));
        self.examples(step, key, within * self.batch_size as u64, self.batch_size)
    }

    /// As [`Batcher::examples`], all of them this process's, whatever is divided among ranks.
    pub fn undivided(&mut self, step: u64, key: [u32; 2], first: u64, count: usize) -> Result<StepBatch> {
        let split = std::mem::take(&mut self.split);
        let batch = self.examples(step, key, first, count);
        self.split = split;
        batch
    }

    /// A batch of `count` examples from number `first` on, its draws made with `key`.
    pub fn examples(&mut self, step: u64, key: [u32; 2], first: u64, count: usize) -> Result<StepBatch> {
        let masked = (0..count)
            .map(|sequence| {
                let number = first + sequence as u64;
                let example = match &mut self.source {
                    Source::Stores(mixture) => mixture.example(number)?,
                    Source::Random(examples) => examples.example(number),
                };
                Ok(self.masker.mask(&example, key, sequence))
            })
            .collect::<Result<Vec<_>>>()?;
        let own = self.split.own(count);
        let groups = masked[own.clone()].chunks(self.micro_batch).enumerate();
        let micro: Vec<_> = groups
            .map(|(index, group)| (own.start + index * self.micro_batch, group))
            .map(|(first, group)| match self.padding {
                None => PackedBatch::pack(first, group),
                Some(pad) => PackedBatch::padded(first, group, self.max_length, pad),
            })
            .collect();
        let lengths = || masked.iter().map(|example| example.input_ids.len() as u64);
        let totals = BatchTotals {
            tokens: lengths().sum(),
            masked: masked.iter().map(|example| example.masked.len() as u64).sum(),
            positions: (count * self.max_length) as u64,
            squared_lengths: lengths().map(|length| length * length).sum(),
        };
        let (temperature, discriminator_weight) = (self.temperature, self.discriminator_weight);
        Ok(StepBatch {
            step,
            key,
            micro,
            totals,
            norm_limit: 0.0,
            temperature,
            discriminator_weight,
            moment_scale: 1.0,
            epsilon_scale: 1.0,
        })
    }
}

/// A thread that makes batches in order, a few ahead of who takes them.
pub struct Feeder {
    receiver: Option<Receiver<Result<StepBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Begins with the first of these batches.
    pub fn start(mut batcher: Batcher, numbers: impl Iterator<Item = u64> + Send + 'static) -> Result<Self> {
        let (sender, receiver) = sync_channel(AHEAD);
        let make = move || {
            for number in numbers {
                let batch = batcher.step(number);
                let failed = batch.is_err();
                // The taker has gone: the run was stopped.
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("batches".into()).spawn(make)?;
        Ok(Feeder { receiver: Some(receiver), thread: Some(thread) })
    }

    /// The next step's batch; waits for it.
    ///
    /// Errors: that it could not be made.
    pub fn next_step(&mut self) -> Result<StepBatch> {
        let received = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        received.ok_or_else(|| anyhow!("the thread that makes batches has stopped; please report this"))?
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
    use std::sync::Arc;

    use super::*;
    use crate::device::Room;
    use crate::store::tests::{Scratch, marked_store, random_store};
    use crate::train::config::{Sources, Surroundings};

    fn config(micro_batch: usize) -> TrainConfig {
        config_with(micro_batch, &[])
    }

    fn config_with(micro_batch: usize, more: &[&str]) -> TrainConfig {
        let mut set = vec![format!("micro_batch={micro_batch}"), "batch_size=8".into(), "seed=5".into()];
        set.extend(more.iter().map(|text| text.to_string()));
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 60, room: &Room::unlimited() };
        TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap()
    }

    #[test]
    fn measured_batches_are_full() {
        let mut batcher = Batcher::full_length(&config(8)).unwrap();
        let batch = batcher.step(3).unwrap();
        assert_eq!(batch, Batcher::full_length(&config(8)).unwrap().step(3).unwrap());
        assert_ne!(batch.micro, batcher.step(4).unwrap().micro);
        assert_eq!((batch.totals.tokens, batch.totals.masked), (8 * 128, 8 * 19));
        assert!(batch.micro[0].input_ids.iter().all(|&id| id < 60));
    }

    #[test]
    fn a_step_can_be_made_again_and_split() {
        let scratch = Scratch::new();
        let store = Arc::new(random_store(&scratch, 200, 1));
        let mut batcher = Batcher::new(&store.clone().into(), &config(8)).unwrap();
        let steps: Vec<_> = (0..4).map(|step| batcher.step(step).unwrap()).collect();
        let mut feeder =
            Feeder::start(Batcher::new(&store.clone().into(), &config(8)).unwrap(), 2..4).unwrap();
        assert_eq!(feeder.next_step().unwrap(), steps[2]);
        assert_eq!(feeder.next_step().unwrap(), steps[3]);
        assert!(feeder.next_step().is_err());

        let mut split = Batcher::new(&store.into(), &config(3)).unwrap();
        let (whole, parts) = (&steps[1], split.step(1).unwrap());
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

    #[test]
    fn words_are_masked_where_the_store_marks_them() {
        let scratch = Scratch::new();
        let plain: Stores = Arc::new(random_store(&scratch, 200, 1)).into();
        let config_of = |masking: &str| config_with(8, &[&format!("masking={masking}")]);
        let step =
            |stores: &Stores, config: &TrainConfig| Batcher::new(stores, config).unwrap().step(2).unwrap();
        let token = step(&plain, &config_of("token"));
        assert_eq!(token, step(&plain, &config(8)));
        let span = step(&plain, &config_of("span"));
        assert_ne!(span.micro, token.micro);
        let error = Batcher::new(&plain, &config_of("word")).err().unwrap().to_string();
        assert!(error.contains("random.store: does not mark") && error.contains("--words script"), "{error}");
        assert!(!error.contains('\n'));

        let marked: Stores = Arc::new(marked_store(&scratch, 200, 1)).into();
        // The same tokens, and the same draws of single ones.
        assert_eq!(step(&marked, &config_of("token")), token);
        let word = step(&marked, &config_of("word"));
        assert_eq!(word, step(&marked, &config_of("word")));
        assert_eq!(word.totals.tokens, token.totals.tokens);
        assert!(word.micro != token.micro && word.totals.masked <= token.totals.masked);
        assert!(word.totals.masked + 8 >= token.totals.masked, "a word of each sequence at most is missing");
        assert_ne!(step(&marked, &config_of("span")), span);
    }

    #[test]
    fn the_share_follows_the_step_and_evaluations_do_not() {
        let scratch = Scratch::new();
        let stores: Stores = Arc::new(marked_store(&scratch, 200, 1)).into();
        let constant = config(8);
        let set = ["masking=word", "mask_probability_end=0.45", "steps=100"];
        let rising = config_with(8, &set);
        assert_eq!((constant.slots(), rising.slots(), rising.capacity().labelled), (19, 58, 8 * 58));
        assert_eq!(constant.mask_probability_end, 0.15);
        let masked = |batcher: &mut Batcher, step: u64| {
            let totals = batcher.step(step).unwrap().totals;
            totals.masked as f64 / totals.tokens as f64
        };
        let mut batcher = Batcher::new(&stores, &rising).unwrap();
        let shares = [0, 50, 100].map(|step| masked(&mut batcher, step));
        for (share, expected) in shares.into_iter().zip([0.15, 0.3, 0.45]) {
            assert!((share - expected).abs() < 0.01, "{shares:?}");
        }
        // A batch is made again from its step alone, whatever was made before.
        let again = Batcher::new(&stores, &rising).unwrap().step(50).unwrap();
        assert_eq!(again, batcher.step(50).unwrap());
        let evaluated = |config: &TrainConfig| {
            Batcher::evaluation(&stores, config).unwrap().examples(0, [1, 2], 0, 8).unwrap()
        };
        assert_eq!(evaluated(&rising), evaluated(&constant));
    }
}
