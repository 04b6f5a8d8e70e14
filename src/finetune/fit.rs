//! The training loop of fine-tuning: epochs of shuffled items, each step one whole batch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::device::Device;
use crate::model::finetune::{FinetuneOptions, Purpose, Sums, place};
use crate::model::{BatchCapacity, ModelConfig, OptimizerOptions};
use crate::note::Bar;
use crate::ops::constants::{METRIC_GRADIENT_NORM, METRIC_REFUSED, METRIC_SCALE};
use crate::ops::loss_scaling::LOWEST_SCALE;
use crate::plan::{Executor, IN_FLIGHT, InFlight, Phase};
use crate::tasks::items::{Size, capacity, split};
use crate::tasks::lesson::{Lesson, LessonStep};
use crate::tasks::predictor::micro_tokens;
use crate::tensor::draws::SHUFFLE;
use crate::tensor::random::{Stream, derive, root};
use crate::tensor::{Precision, StepValues};
use crate::train::schedule;

use super::live::Live;

/// How a model is fine-tuned (docs/spec.md §5).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FitOptions {
    pub epochs: usize,
    /// Items a step (windows of questions, texts, questions with their choices).
    pub batch_size: usize,
    pub learning_rate: f64,
    /// Share of all steps during which the learning rate rises.
    pub warmup: f64,
    /// Factor on the learning rate from a layer to the one below.
    pub layer_decay: f64,
    pub dropout: f64,
    pub weight_decay: f64,
    pub max_length: usize,
    pub seed: u64,
    pub precision: Precision,
}

/// What an epoch did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    pub steps: u64,
    pub loss: f64,
    /// Share of the rows that were right during training; scores may have an `accuracy` of the dev set.
    /// A number that is predicted is neither right nor wrong.
    #[serde(rename = "train_accuracy", skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub grad_norm: f64,
    pub tokens: u64,
    pub tokens_per_second: f64,
    /// Of half precision: steps whose gradients overflowed, so that nothing was changed.
    pub skipped_steps: u64,
}

/// Sums over the steps of an epoch.
#[derive(Default)]
struct Totals {
    /// Of each of the head's losses.
    sums: Sums,
    gradient_norm: f64,
    steps: u64,
    /// Steps of half precision whose gradients overflowed.
    skipped: u64,
    tokens: u64,
}

impl Totals {
    fn add(&mut self, step: u64, words: &[u32]) -> Result<()> {
        let value = |place: usize| f64::from(f32::from_bits(words[place]));
        let scale = value(METRIC_SCALE);
        if scale > f64::from(LOWEST_SCALE) && value(METRIC_REFUSED) != 0.0 {
            // The next steps have a lower scale.
            self.skipped += 1;
            return Ok(());
        }
        ensure!(
            value(METRIC_REFUSED) == 0.0 && value(place::FIRST[0]).is_finite(),
            "step {}: a loss or gradient is infinite or not a number; use a lower --learning-rate",
            step + 1
        );
        for (sums, places) in self.sums.iter_mut().zip([place::FIRST, place::SECOND, place::THIRD]) {
            sums.iter_mut().zip(places).for_each(|(sum, place)| *sum += value(place));
        }
        self.gradient_norm += value(METRIC_GRADIENT_NORM);
        self.steps += 1;
        Ok(())
    }
}

/// How often a plain line says how an epoch goes.
const PLAIN_EVERY: Duration = Duration::from_secs(30);

/// A model in training.
pub struct Fit<'a> {
    options: FitOptions,
    /// Of the items.
    sizes: Vec<Size>,
    lesson: Box<dyn LessonStep + 'a>,
    executor: Box<dyn Executor>,
    capacity: BatchCapacity,
    step: u64,
    /// Numbers of the steps in flight.
    in_flight: InFlight<u64>,
    totals: Totals,
    bar: Bar,
    /// What the line of progress says that is not known here: the best score on the dev set, by name.
    pub best: Option<(&'static str, f64)>,
}

impl<'a> Fit<'a> {
    /// Builds the plan; the parameters are whatever the executor is then given.
    pub fn new(
        device: &Device,
        model: &ModelConfig,
        lesson: &'a dyn Lesson,
        options: FitOptions,
    ) -> Result<Self> {
        let sizes = lesson.sizes();
        ensure!(!sizes.is_empty(), "there is nothing to train on: every training example was skipped");
        let plan_options = FinetuneOptions {
            purpose: Purpose::Train,
            dropout: options.dropout,
            attention_dropout: options.dropout,
            layer_decay: options.layer_decay,
            precision: options.precision,
            optimizer: OptimizerOptions {
                weight_decay: options.weight_decay as f32,
                ..OptimizerOptions::default()
            },
        };
        let group = lesson.sequences();
        let make = |tokens| {
            let capacity = capacity(group, options.batch_size, options.max_length, tokens);
            let (plan, step) = lesson.plan(model, capacity, &plan_options)?;
            anyhow::Ok((plan, (capacity, step)))
        };
        let tokens = micro_tokens(device, group * options.max_length);
        let (plan, (capacity, lesson)) = device.room().first_that_fits(tokens, make)?;
        Ok(Fit {
            options,
            sizes,
            lesson,
            executor: device.open(plan)?,
            capacity,
            step: 0,
            in_flight: InFlight::default(),
            totals: Totals::default(),
            bar: Bar::none(),
            best: None,
        })
    }

    /// Shows a line of progress while it trains; where there is no terminal for it, one every [`PLAIN_EVERY`].
    pub fn show_progress(&mut self) {
        self.bar = Bar::or_lines(PLAIN_EVERY);
    }

    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }

    /// Steps of all epochs.
    pub fn steps(&self) -> u64 {
        (self.options.epochs * self.sizes.len().div_ceil(self.options.batch_size)) as u64
    }

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f32 {
        let (options, steps) = (&self.options, self.steps());
        let warmup = (options.warmup * steps as f64) as u64;
        schedule::learning_rate(self.step, options.learning_rate, steps, warmup, 1.0)
    }

    /// Trains one epoch (from 0). Nothing where `stop` was set: the user does not want the rest.
    pub fn epoch(&mut self, epoch: usize, stop: &AtomicBool) -> Result<Option<Epoch>> {
        let order = shuffled(self.sizes.len(), self.options.seed, epoch);
        let began = Instant::now();
        self.totals = Totals::default();
        for batch in order.chunks(self.options.batch_size) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.train(batch)?;
            self.show(epoch, began);
        }
        self.collect(0)?;
        let totals = &self.totals;
        Ok(Some(Epoch {
            epoch: epoch + 1,
            steps: self.step,
            loss: self.lesson.loss(&totals.sums),
            accuracy: self.lesson.accuracy(&totals.sums),
            grad_norm: totals.gradient_norm / totals.steps.max(1) as f64,
            skipped_steps: totals.skipped,
            tokens: totals.tokens,
            tokens_per_second: totals.tokens as f64 / began.elapsed().as_secs_f64().max(1e-9),
        }))
    }

    /// Shows how the training stands.
    fn show(&mut self, epoch: usize, began: Instant) {
        let steps = self.steps();
        let Fit { bar, totals, lesson, options, step, best, .. } = self;
        let of_epoch = *step - epoch as u64 * (steps / options.epochs.max(1) as u64);
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        bar.show(|width| {
            Live {
                epoch: (epoch + 1, options.epochs),
                step: (*step, steps),
                loss: (totals.steps > 0).then(|| lesson.loss(&totals.sums)),
                best: *best,
                tokens_per_second: totals.tokens as f64 / seconds,
                left: (steps - *step) as f64 * seconds / of_epoch.max(1) as f64,
            }
            .line(width)
        });
    }

    /// One update.
    fn train(&mut self, batch: &[usize]) -> Result<()> {
        let sizes = batch.iter().map(|&index| self.sizes[index]);
        let lengths: Vec<(usize, usize)> = sizes.clone().map(|size| (size.tokens, size.sequences)).collect();
        let weight: usize = sizes.map(|size| size.weight).sum();
        let options = &self.options;
        let values = StepValues {
            key: derive(root(options.seed), self.step as u32, 0),
            learning_rate: self.learning_rate(),
            loss_scale: 1.0,
            labelled_total: weight.max(1) as f32,
            tokens_total: lengths.iter().map(|(tokens, _)| *tokens as f32).sum(),
            ..StepValues::default()
        };
        let executor = self.executor.as_mut();
        let phases = [Phase::Clear, Phase::Micro, Phase::Update].map(|phase| executor.plan().phase(phase));
        let [clear, micro, update] = phases;
        executor.run(clear, &values, &[])?;
        let mut first_sequence = 0;
        for range in split(&lengths, &self.capacity) {
            let micro_batch = self.lesson.micro_batch(first_sequence, &batch[range])?;
            executor.run(micro.clone(), &micro_batch.values(&values), &micro_batch.uploads())?;
            first_sequence += micro_batch.packed.sequence_count();
        }
        executor.run(update, &values, &[])?;
        self.in_flight.submitted(executor, &[self.lesson.metrics()], self.step)?;
        self.totals.tokens += lengths.iter().map(|(tokens, _)| *tokens as u64).sum::<u64>();
        self.step += 1;
        self.collect(IN_FLIGHT)
    }

    /// Takes results until at most `waiting` steps are in flight.
    fn collect(&mut self, waiting: usize) -> Result<()> {
        while let Some((step, words)) = self.in_flight.next(self.executor.as_mut(), waiting)? {
            self.totals.add(step, &words[0])?;
        }
        Ok(())
    }
}

/// The items of an epoch in an order of its own (Fisher and Yates).
fn shuffled(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut stream = Stream::new(derive(root(seed), SHUFFLE, epoch as u32));
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, stream.below(last as u32 + 1) as usize);
    }
    order
}
