//! Both losses on text that was held out, without dropout.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::device::Device;
use crate::plan::{Executor, Identity, InFlight, copy_parameters};
use crate::ranks::Ranks;
use crate::store::Store;
use crate::store::examples::EpochIndex;
use crate::tensor::draws::EVALUATION;
use crate::tensor::random::{derive, root};

use super::config::TrainConfig;
use super::examples::Batcher;
use super::feeding::Feeding;
use super::key::Value;
use super::metrics::{BatchTotals, Quality, Totals};
use super::saved::Saved;

/// What an evaluation found; entropies and losses in nats.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Evaluation {
    /// Updates made before it.
    pub step: u64,
    pub sequences: u64,
    pub tokens: u64,
    #[serde(flatten)]
    pub quality: Quality,
    /// Of the held-out text: what a generator that knows only how frequent pieces are would lose.
    pub unigram_entropy: f64,
    /// What a discriminator that knows only how often tokens are replaced would lose.
    pub base_rate_entropy: f64,
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let quality = &self.quality;
        write!(
            f,
            "held-out text after {} steps ({} sequences): mlm {:.4} (unigram entropy {:.4}), \
             disc {:.4} (base-rate entropy {:.4}), AUC {:.4}",
            self.step,
            self.sequences,
            quality.mlm_loss,
            self.unigram_entropy,
            quality.disc_loss,
            self.base_rate_entropy,
            quality.disc_auc
        )
    }
}

/// A plan of the forward pass alone and the batches it is always given: one evaluation compares with another.
pub struct Evaluator {
    executor: Box<dyn Executor>,
    plan: Feeding,
    batcher: Batcher,
    config: TrainConfig,
    sequences: usize,
    unigram_entropy: f64,
    ranks: Ranks,
}

/// What a batch has come to: its number, what was in it, and the words of each reported tensor.
type Reported = (usize, BatchTotals, Vec<Vec<u32>>);

impl Evaluator {
    /// Errors: a store of another tokenizer than the training store's, or without an example.
    pub fn new(path: &Path, trained_on: &Store, config: &TrainConfig, device: &Device) -> Result<Self> {
        let (tokenizer, lower) = (trained_on.tokenizer_hash(), trained_on.lower());
        Self::open(path, (trained_on.path(), tokenizer, lower), config, device)
    }

    /// As [`Evaluator::new`], with the parameters of a model that was saved: what its run would write of the store.
    /// Micro-batches are smaller where the device has no room for those of the run.
    pub fn of_saved(path: &Path, saved: &Saved, config: &TrainConfig, device: &Device) -> Result<Self> {
        let sizes = std::iter::successors(Some(config.micro_batch), |&size| (size > 1).then_some(size / 2));
        let smaller = |size: usize| {
            let mut settings = config.settings().clone();
            settings.set_value("micro_batch", Value::Whole(size as u64))?;
            let config = config.changed(settings)?;
            anyhow::Ok((config.evaluation_plan()?.plan, config))
        };
        let (_, config) = device.room().first_that_fits(sizes, smaller)?;
        let of = (saved.run.as_path(), saved.state.tokenizer.as_str(), saved.state.lower);
        let mut evaluator = Self::open(path, of, &config, device)?;
        saved.load(evaluator.executor.as_mut())?;
        Ok(evaluator)
    }

    /// `trained`: what was trained on texts of which tokenizer, and whether they were lower-cased.
    fn open(
        path: &Path,
        trained: (&Path, &str, bool),
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Self> {
        let store = Arc::new(Store::open(path)?);
        let (of, tokenizer, lower) = trained;
        ensure!(
            store.tokenizer_hash() == tokenizer && store.lower() == lower,
            "{}: made with another tokenizer than {} ({:.12}…, not {:.12}…); prepare it with the same",
            path.display(),
            of.display(),
            store.tokenizer_hash(),
            tokenizer
        );
        let (executor, plan) = Feeding::open(device, config.evaluation_plan()?)?;
        let unigram_entropy = store.unigram_entropy()?;
        let examples = EpochIndex::count(&store, config.seed, 0, config.max_length)?;
        let sequences = config.eval_sequences.min(examples as usize);
        let batcher = Batcher::evaluation(&store.into(), config)?;
        let (config, ranks) = (config.clone(), device.ranks().clone());
        Ok(Evaluator { executor, plan, batcher, config, sequences, unigram_entropy, ranks })
    }

    /// Evaluates the parameters that `trained` holds now; nothing where `stop` was set meanwhile.
    pub fn evaluate(
        &mut self,
        step: u64,
        trained: &mut dyn Executor,
        stop: &AtomicBool,
    ) -> Result<Option<Evaluation>> {
        copy_parameters(trained, self.executor.as_mut())?;
        self.measure(step, stop)
    }

    /// What computes.
    pub fn identity(&self) -> Identity {
        self.executor.identity()
    }

    /// Evaluates the parameters that are there, of a model after so many steps.
    pub fn measure(&mut self, step: u64, stop: &AtomicBool) -> Result<Option<Evaluation>> {
        let key = derive(root(self.config.seed), EVALUATION, 0);
        // Of several ranks each computes some of the batches, and all add up all, in order.
        let (rank, ranks) = (self.ranks.rank(), self.ranks.size());
        let batches = (0..self.sequences).step_by(self.config.batch_size).enumerate();
        let mut reported: Vec<Reported> = Vec::new();
        let mut in_flight = InFlight::default();
        for (number, first) in batches.filter(|(number, _)| number % ranks == rank) {
            let count = self.config.batch_size.min(self.sequences - first);
            let key = derive(key, number as u32, 0);
            let mut batch = self.batcher.examples(number as u64, key, first as u64, count)?;
            batch.temperature = self.config.temperature_at(step);
            let executor = self.executor.as_mut();
            // A plan of the forward pass has no update.
            if !self.plan.step_until(executor, &batch, 0.0, stop)? {
                return Ok(None);
            }
            in_flight.submitted(executor, &self.plan.reported(), (number, batch.totals))?;
            while let Some(((number, totals), words)) = in_flight.next(executor, 0)? {
                reported.push((number, totals, words));
            }
        }
        let mut reported: Vec<Reported> = self.ranks.gather_all(reported)?.into_iter().flatten().collect();
        reported.sort_by_key(|(number, ..)| *number);
        let mut totals = Totals::default();
        for (_, batch, words) in &reported {
            let cause = totals.add(batch, &words[0], &words[1])?;
            ensure!(cause.is_none(), "a loss on held-out text is infinite or not a number");
        }
        Ok(Some(Evaluation {
            step,
            sequences: self.sequences as u64,
            tokens: totals.batch.tokens,
            quality: totals.quality(self.config.loss_weights()),
            unigram_entropy: self.unigram_entropy,
            base_rate_entropy: totals.base_rate_entropy(),
        }))
    }
}
