//! Heads and what they learn from, for code that knows neither's type.

use std::any::Any;
use std::fmt::Debug;

use anyhow::{Context, Result};

use crate::batch::PackedBatch;
use crate::model::finetune::{FinetuneOptions, FinetunePlan, FinetuneStep, Head, MicroBatch, Purpose, Sums};
use crate::model::{BatchCapacity, ModelConfig, OptimizerOptions};
use crate::plan::Plan;
use crate::tensor::random::{Stream, root};
use crate::tensor::{Precision, TensorId};

use super::features::Input;
use super::items::{Item, Size, pack};
use super::layers::Logits;

/// A head of any type.
pub trait AnyHead: Debug {
    /// Sequences of an item.
    fn sequences(&self) -> usize;

    /// The plan of the forward pass, and the head's `FinetuneStep` by which it is fed and read.
    fn forward_plan(&self, model: &ModelConfig, capacity: BatchCapacity) -> Result<(Plan, Box<dyn Any>)>;

    /// The logits of its step; nothing where it says more than logits.
    fn logits(&self, step: &dyn Any) -> Option<Logits>;

    /// A micro-batch of its step, of which nothing is known but the ids.
    fn unlabelled(&self, step: &dyn Any, packed: PackedBatch) -> Result<MicroBatch>;
}

impl<H: Head> AnyHead for H {
    fn sequences(&self) -> usize {
        Head::sequences(self)
    }

    fn forward_plan(&self, model: &ModelConfig, capacity: BatchCapacity) -> Result<(Plan, Box<dyn Any>)> {
        let options = FinetuneOptions {
            purpose: Purpose::Predict,
            dropout: 0.0,
            attention_dropout: 0.0,
            layer_decay: 1.0,
            precision: Precision::F32,
            optimizer: OptimizerOptions::default(),
        };
        let FinetunePlan { plan, step } = FinetunePlan::new(model, self, capacity, &options)?;
        Ok((plan, Box::new(step)))
    }

    fn logits(&self, step: &dyn Any) -> Option<Logits> {
        let outputs: &dyn Any = &step.downcast_ref::<FinetuneStep<H>>()?.outputs;
        outputs.downcast_ref::<Logits>().copied()
    }

    fn unlabelled(&self, step: &dyn Any, packed: PackedBatch) -> Result<MicroBatch> {
        let step = step.downcast_ref::<FinetuneStep<H>>();
        step.context("the step of another head; please report this")?.micro_batch(packed, &[])
    }
}

/// Items with the head that learns from them.
pub trait Lesson {
    /// Of every item.
    fn sizes(&self) -> Vec<Size>;

    /// Sequences of an item.
    fn sequences(&self) -> usize;

    fn plan(
        &self,
        model: &ModelConfig,
        capacity: BatchCapacity,
        options: &FinetuneOptions,
    ) -> Result<(Plan, Box<dyn LessonStep + '_>)>;
}

/// A lesson with the plan that it is learned by.
pub trait LessonStep {
    /// See [`FinetuneStep::metrics`].
    fn metrics(&self) -> TensorId;

    /// Packs items, by index, whose first sequence is number `first_sequence` of the whole batch.
    fn micro_batch(&self, first_sequence: usize, items: &[usize]) -> Result<MicroBatch>;

    /// See [`Head::loss`].
    fn loss(&self, sums: &Sums) -> f64;

    /// See [`Head::accuracy`].
    fn accuracy(&self, sums: &Sums) -> Option<f64>;
}

/// A head and items of its own.
pub struct Learning<H: Head> {
    pub head: H,
    pub items: Vec<Item<H::Label>>,
}

impl<H: Head> Lesson for Learning<H> {
    fn sizes(&self) -> Vec<Size> {
        let size = |item: &Item<H::Label>| Size {
            tokens: item.sequences.iter().map(|input| input.ids.len()).sum(),
            sequences: item.sequences.len(),
            weight: self.head.weight(&item.label),
        };
        self.items.iter().map(size).collect()
    }

    fn sequences(&self) -> usize {
        self.head.sequences()
    }

    fn plan(
        &self,
        model: &ModelConfig,
        capacity: BatchCapacity,
        options: &FinetuneOptions,
    ) -> Result<(Plan, Box<dyn LessonStep + '_>)> {
        let FinetunePlan { plan, step } = FinetunePlan::new(model, &self.head, capacity, options)?;
        Ok((plan, Box::new(Planned { learning: self, step })))
    }
}

struct Planned<'a, H: Head> {
    learning: &'a Learning<H>,
    step: FinetuneStep<H>,
}

impl<H: Head> LessonStep for Planned<'_, H> {
    fn metrics(&self) -> TensorId {
        self.step.metrics
    }

    fn micro_batch(&self, first_sequence: usize, items: &[usize]) -> Result<MicroBatch> {
        let items = || items.iter().map(|&item| &self.learning.items[item]);
        let labels: Vec<&H::Label> = items().map(|item| &item.label).collect();
        let packed = pack(first_sequence, items().flat_map(|item| &item.sequences));
        self.step.micro_batch(packed, &labels)
    }

    fn loss(&self, sums: &Sums) -> f64 {
        self.learning.head.loss(sums)
    }

    fn accuracy(&self, sums: &Sums) -> Option<f64> {
        self.learning.head.accuracy(sums)
    }
}

/// Ids of a sample are below this.
pub const SAMPLE_VOCABULARY: usize = 97;
/// Tokens of the sequences of samples at most.
pub const SAMPLE_LENGTH: usize = 33;

/// A few items of awkward lengths; `label` makes an item's from its first sequence's length.
pub fn sample<H: Head>(head: H, label: impl Fn(u32) -> H::Label) -> Box<dyn Lesson> {
    let mut stream = Stream::new(root(7));
    let mut input = |length: u32| Input {
        ids: (0..length).map(|_| stream.below(SAMPLE_VOCABULARY as u32)).collect(),
        first_segment: length as usize / 2,
        cut: 0,
    };
    let sequences = head.sequences() as u32;
    let item = |&length: &u32| Item {
        sequences: (0..sequences).map(|n| input(length + n)).collect(),
        label: label(length),
    };
    let items = [31, 5, 18, 11].iter().map(item).collect();
    Box::new(Learning { head, items })
}
