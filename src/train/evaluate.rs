//! Both losses on text that was held out, without dropout.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::device::Device;
use crate::interop::checkpoint::StoreIdentity;
use crate::plan::{Executor, Identity, InFlight, copy_parameters};
use crate::ranks::{Ranks, Together};
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
    /// Which text it is.
    crc: String,
}

/// What a batch has come to: what was in it, and the words of each reported tensor.
type Reported = (BatchTotals, Vec<Vec<u32>>);

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
        let crc = StoreIdentity::crc_of(&store);
        let unigram_entropy = store.unigram_entropy()?;
        let examples = EpochIndex::count(&store, config.seed, 0, config.max_length)?;
        let sequences = config.eval_sequences.min(examples as usize);
        let batcher = Batcher::evaluation(&store.into(), config)?;
        let (config, ranks) = (config.clone(), device.ranks().clone());
        Ok(Evaluator { executor, plan, batcher, config, sequences, unigram_entropy, ranks, crc })
    }

    /// Refuses ranks that would evaluate on another text; of several all call it.
    pub fn of_one_text(&self) -> Result<()> {
        self.ranks.all_alike(&self.crc, |other, first| {
            format!("another held-out text (checksum {other}) than rank 0 ({first})")
        })
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

    /// Computes a batch; nothing where `stop` was set meanwhile.
    fn batch(
        &mut self,
        step: u64,
        number: usize,
        first: usize,
        key: [u32; 2],
        stop: &AtomicBool,
    ) -> Result<Option<Reported>> {
        let count = self.config.batch_size.min(self.sequences - first);
        let mut batch = self.batcher.examples(number as u64, key, first as u64, count)?;
        batch.temperature = self.config.temperature_at(step);
        let executor = self.executor.as_mut();
        // A plan of the forward pass has no update.
        if !self.plan.step_until(executor, &batch, 0.0, stop)? {
            return Ok(None);
        }
        let mut in_flight = InFlight::default();
        in_flight.submitted(executor, &self.plan.reported(), batch.totals)?;
        in_flight.next(executor, 0)
    }

    /// Evaluates the parameters that are there, of a model after so many steps.
    pub fn measure(&mut self, step: u64, stop: &AtomicBool) -> Result<Option<Evaluation>> {
        let key = derive(root(self.config.seed), EVALUATION, 0);
        // Of several ranks each computes a batch at a time, and all add up those of all, in order. None may stop alone: when
        // they have told each other what they came to, all do.
        let (never, asked) = (AtomicBool::new(false), stop);
        let stop = if self.ranks.are_several() { &never } else { stop };
        let firsts: Vec<usize> = (0..self.sequences).step_by(self.config.batch_size).collect();
        let mut totals = Totals::default();
        for round in (0..firsts.len()).step_by(self.ranks.size()) {
            let number = round + self.ranks.rank();
            let own = match firsts.get(number) {
                None => None,
                Some(&first) => match self.batch(step, number, first, derive(key, number as u32, 0), stop)? {
                    None => return Ok(None),
                    reported => reported,
                },
            };
            let ends = self.ranks.are_several() && asked.load(Ordering::Relaxed);
            let all = self.ranks.gather_all((ends, own))?;
            if all.iter().any(|(ends, _)| *ends) {
                return Ok(None);
            }
            for (batch, words) in all.into_iter().filter_map(|(_, own)| own) {
                if totals.add(&batch, &words[0], &words[1])?.is_some() {
                    // Of all ranks.
                    let line = "a loss on held-out text is infinite or not a number";
                    return Err(Together::new(line.to_owned()).into());
                }
            }
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
