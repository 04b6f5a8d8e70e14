//! What a fine-tuned model says about any number of sequences, in micro-batches of similar length.

use std::any::Any;
use std::iter::successors;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::batch::PackedBatch;
use crate::device::Device;
use crate::interop::pretrained::Pretrained;
use crate::model::finetune::{FinetuneStep, Head, MicroBatch};
use crate::model::{BatchCapacity, ModelConfig};
use crate::plan::{Executor, Phase, Upload, copy_parameters};
use crate::tensor::{StepValues, TensorId};

use super::features::Input;
use super::items::{capacity, pack, split};
use super::layers::Logits;
use super::lesson::AnyHead;

/// Tokens of a micro-batch at most: enough for every core or the whole of a GPU.
const CPU_TOKENS: usize = 2048;
const GPU_TOKENS: usize = 16_384;

/// Tokens of a micro-batch on this device, the most first, and fewer for where its memory is short: an item of `item`
/// tokens must fit.
pub fn micro_tokens(device: &Device, item: usize) -> impl Iterator<Item = usize> {
    let most = if device.is_gpu() { GPU_TOKENS } else { CPU_TOKENS };
    successors(Some(most), move |&tokens| (tokens > item).then_some(tokens / 2))
}

/// A plan of the forward pass with its executor.
pub struct Predictor {
    executor: Box<dyn Executor>,
    capacity: BatchCapacity,
    /// The head's `FinetuneStep`.
    step: Box<dyn Any>,
    /// Sequences of an item.
    group: usize,
    /// For errors.
    head: String,
}

/// A micro-batch that has run: which sequences it holds, and where their rows begin.
pub struct Ran {
    pub sequences: Vec<usize>,
    pub batch: PackedBatch,
    pub values: StepValues,
}

impl Ran {
    /// The rows of the tokens of its sequence `number`.
    pub fn rows(&self, number: usize) -> Range<usize> {
        self.batch.starts[number] as usize..self.batch.starts[number + 1] as usize
    }
}

impl Predictor {
    pub fn new(device: &Device, model: &ModelConfig, head: &dyn AnyHead, max_length: usize) -> Result<Self> {
        let make = |tokens| {
            let capacity = capacity(head.sequences(), tokens, max_length, tokens);
            let (plan, step) = head.forward_plan(model, capacity)?;
            anyhow::Ok((plan, (capacity, step)))
        };
        let tokens = micro_tokens(device, head.sequences() * max_length);
        let (plan, (capacity, step)) = device.room().first_that_fits(tokens, make)?;
        let (group, head) = (head.sequences(), format!("{head:?}"));
        Ok(Predictor { executor: device.open(plan)?, capacity, step, group, head })
    }

    /// Takes the parameters of a model that is being trained.
    pub fn take_parameters(&mut self, trained: &mut dyn Executor) -> Result<()> {
        copy_parameters(trained, self.executor.as_mut())
    }

    /// Loads a fine-tuned model, all of whose head must be there.
    pub fn load(&mut self, model: &Pretrained) -> Result<()> {
        let missing = model.load(self.executor.as_mut(), 0)?;
        ensure!(
            missing == 0,
            "{}: lacks {missing} tensors of the head {}; was it fine-tuned for another task?",
            model.weights.path().display(),
            self.head
        );
        Ok(())
    }

    pub fn describe(&self) -> String {
        self.executor.identity().to_string()
    }

    /// Micro-batches of sequences (those of one item stay together and in order), the longest first, so that those
    /// of one micro-batch are of similar length.
    pub fn micro_batches(&self, inputs: &[&Input]) -> Vec<Vec<usize>> {
        let groups: Vec<Vec<usize>> =
            (0..inputs.len()).collect::<Vec<_>>().chunks(self.group).map(<[usize]>::to_vec).collect();
        let tokens = |group: &[usize]| group.iter().map(|&index| inputs[index].ids.len()).sum::<usize>();
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(tokens(&groups[index])));
        let lengths: Vec<(usize, usize)> =
            order.iter().map(|&index| (tokens(&groups[index]), groups[index].len())).collect();
        let ranges = split(&lengths, &self.capacity);
        ranges
            .into_iter()
            .map(|range| order[range].iter().flat_map(|&index| groups[index].clone()).collect())
            .collect()
    }

    /// The tensors of the head `H`; the data that are predicted must be of the task that the model was made for.
    pub fn outputs<H: Head>(&self) -> Result<&H::Outputs> {
        Ok(&self.step::<H>()?.outputs)
    }

    fn step<H: Head>(&self) -> Result<&FinetuneStep<H>> {
        let step = self.step.downcast_ref();
        step.with_context(|| format!("the data are not for the head {}; please report this", self.head))
    }

    /// Runs the forward pass on some of the sequences. `labels` has what the head must know of every item in
    /// prediction, if that is anything.
    pub fn run<H: Head>(
        &mut self,
        inputs: &[&Input],
        labels: &[H::Label],
        chosen: Vec<usize>,
    ) -> Result<Ran> {
        let packed = pack(0, chosen.iter().map(|&index| inputs[index]));
        let items = chosen.iter().step_by(self.group).map(|&index| index / self.group);
        let labels: Vec<&H::Label> = items.filter_map(|item| labels.get(item)).collect();
        let batch = self.step::<H>()?.micro_batch(packed, &labels)?;
        self.launch(chosen, batch)
    }

    fn launch(&mut self, chosen: Vec<usize>, batch: MicroBatch) -> Result<Ran> {
        let step =
            StepValues { loss_scale: 1.0, labelled_total: 1.0, tokens_total: 1.0, ..StepValues::default() };
        let values = batch.values(&step);
        let ops = self.executor.plan().phase(Phase::Micro);
        self.executor.run(ops, &values, &batch.uploads())?;
        Ok(Ran { sequences: chosen, batch: batch.packed, values })
    }

    /// Runs some ops again on the micro-batch that ran last.
    pub fn again(&mut self, ops: Range<usize>, ran: &Ran, uploads: &[Upload<'_>]) -> Result<()> {
        self.executor.run(ops, &ran.values, uploads)
    }

    /// What a tensor holds after the micro-batch that ran last.
    pub fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
        self.executor.read(tensor)
    }

    /// The logits of each sequence: for heads of tokens `[length, C]`, for heads of sequences `[C]`.
    pub fn logits<H: Head<Outputs = Logits>>(&mut self, inputs: &[&Input]) -> Result<Vec<Vec<f32>>> {
        let logits = *self.outputs::<H>()?;
        self.each_logits(logits, inputs, |predictor, chosen| predictor.run::<H>(inputs, &[], chosen))
    }

    /// As [`Predictor::logits`], of the head that this predictor was made for, whatever it is; nothing where it says
    /// more than logits.
    pub fn logits_of(
        &mut self,
        head: &dyn AnyHead,
        inputs: &[&Input],
    ) -> Result<Option<(Logits, Vec<Vec<f32>>)>> {
        let Some(logits) = head.logits(&*self.step) else { return Ok(None) };
        let results = self.each_logits(logits, inputs, |predictor, chosen| {
            let packed = pack(0, chosen.iter().map(|&index| inputs[index]));
            let batch = head.unlabelled(&*predictor.step, packed)?;
            predictor.launch(chosen, batch)
        });
        Ok(Some((logits, results?)))
    }

    fn each_logits(
        &mut self,
        logits: Logits,
        inputs: &[&Input],
        mut run: impl FnMut(&mut Self, Vec<usize>) -> Result<Ran>,
    ) -> Result<Vec<Vec<f32>>> {
        let Logits { tensor, columns, by_token } = logits;
        let mut results = vec![Vec::new(); inputs.len()];
        for chosen in self.micro_batches(inputs) {
            let ran = run(self, chosen)?;
            let logits = self.read(tensor)?;
            for (number, &index) in ran.sequences.iter().enumerate() {
                let rows = if by_token { ran.rows(number) } else { number..number + 1 };
                results[index] = logits[rows.start * columns..rows.end * columns].to_vec();
            }
        }
        Ok(results)
    }
}
