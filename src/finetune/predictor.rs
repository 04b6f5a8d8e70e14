//! Logits of a fine-tuned model for any number of sequences, in micro-batches of similar length.

use anyhow::{Context, Result};

use crate::batch::PackedBatch;
use crate::device::Device;
use crate::interop::pretrained::Pretrained;
use crate::model::finetune::{FinetuneOptions, FinetunePlan, FinetuneTensors, Head, Purpose, Targets};
use crate::model::{BatchCapacity, ModelConfig, OptimizerOptions};
use crate::plan::{Data, Executor, Phase, Upload, copy_parameters};
use crate::tensor::{Precision, StepValues, TensorId};

use super::answers::{Ends, WindowScores, beam_starts};
use super::features::Input;
use super::items::{capacity, pack, split};
use super::squad_features::Window;

/// Tokens of a micro-batch at most: enough for every core or the whole of a GPU.
const CPU_TOKENS: usize = 2048;
const GPU_TOKENS: usize = 16_384;

/// The tokens of a micro-batch on this device.
pub fn micro_tokens(device: &Device) -> usize {
    if device.is_gpu() { GPU_TOKENS } else { CPU_TOKENS }
}

/// A plan of the forward pass with its executor.
pub struct Predictor {
    executor: Box<dyn Executor>,
    tensors: FinetuneTensors,
    capacity: BatchCapacity,
    end_ops: std::ops::Range<usize>,
    head: Head,
}

/// A micro-batch that has run: which inputs it holds, and where their rows begin.
struct Ran {
    inputs: Vec<usize>,
    batch: PackedBatch,
    values: StepValues,
}

impl Predictor {
    pub fn new(device: &Device, model: &ModelConfig, head: Head, max_length: usize) -> Result<Self> {
        let options = FinetuneOptions {
            purpose: Purpose::Predict,
            dropout: 0.0,
            attention_dropout: 0.0,
            layer_decay: 1.0,
            precision: Precision::F32,
            optimizer: OptimizerOptions::default(),
        };
        let tokens = micro_tokens(device);
        let capacity = capacity(head, tokens, max_length, tokens);
        let FinetunePlan { plan, tensors, end_ops, .. } = FinetunePlan::new(model, head, capacity, &options)?;
        Ok(Predictor { executor: device.open(plan)?, tensors, capacity, end_ops, head })
    }

    /// Takes the parameters of a model that is being trained.
    pub fn take_parameters(&mut self, trained: &mut dyn Executor) -> Result<()> {
        copy_parameters(trained, self.executor.as_mut())
    }

    /// Loads a fine-tuned model, all of whose head must be there.
    pub fn load(&mut self, model: &Pretrained) -> Result<()> {
        let missing = model.load(self.executor.as_mut(), 0)?;
        anyhow::ensure!(
            missing == 0,
            "{}: lacks {missing} tensors of the head {:?}; was it fine-tuned for another task?",
            model.weights.path().display(),
            self.head
        );
        Ok(())
    }

    pub fn head(&self) -> Head {
        self.head
    }

    pub fn describe(&self) -> String {
        self.executor.identity().to_string()
    }

    /// Micro-batches of groups of inputs (choices of one question stay together and in order), the longest
    /// first, so that those of one micro-batch are of similar length.
    fn micro_batches(&self, inputs: &[&Input], group: usize) -> Vec<Vec<usize>> {
        let groups: Vec<Vec<usize>> =
            (0..inputs.len()).collect::<Vec<_>>().chunks(group).map(<[usize]>::to_vec).collect();
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

    /// Runs the forward pass on some of the inputs.
    fn run(&mut self, inputs: &[&Input], chosen: Vec<usize>, allowed: &[Vec<u32>]) -> Result<Ran> {
        let batch = pack(0, chosen.iter().map(|&index| inputs[index]));
        let mut targets = Targets::default();
        if !allowed.is_empty() {
            targets.allowed = chosen.iter().flat_map(|&index| allowed[index].clone()).collect();
            targets.starts = vec![0; chosen.len()];
        }
        let values = StepValues {
            tokens: batch.tokens() as u32,
            sequences: batch.sequence_count() as u32,
            masked: batch.sequence_count() as u32,
            loss_scale: 1.0,
            masked_total: 1.0,
            tokens_total: 1.0,
            ..StepValues::default()
        };
        let ops = self.executor.plan().phase(Phase::Micro);
        self.executor.run(ops, &values, &self.tensors.uploads(&batch, &targets))?;
        Ok(Ran { inputs: chosen, batch, values })
    }

    fn read(&mut self, tensor: Option<TensorId>) -> Result<Vec<f32>> {
        self.executor.read(tensor.context("the plan has no such logits; please report this")?)
    }

    /// The logits of each input: for heads of tokens `[length, C]`, for heads of sequences `[C]`.
    pub fn logits(&mut self, inputs: &[&Input]) -> Result<Vec<Vec<f32>>> {
        let mut results = vec![Vec::new(); inputs.len()];
        let (columns, by_token) = match self.head {
            Head::Span => (2, true),
            Head::Tags(classes) => (classes, true),
            Head::Classes(classes) => (classes, false),
            Head::Value | Head::Choice(_) => (1, false),
            Head::JointSpan { .. } => (1, true),
        };
        for chosen in self.micro_batches(inputs, super::items::group_size(self.head)) {
            let ran = self.run(inputs, chosen, &[])?;
            let logits = self.read(self.tensors.head.logits)?;
            for (sequence, &index) in ran.inputs.iter().enumerate() {
                let rows = match by_token {
                    true => ran.batch.starts[sequence] as usize..ran.batch.starts[sequence + 1] as usize,
                    false => sequence..sequence + 1,
                };
                results[index] = logits[rows.start * columns..rows.end * columns].to_vec();
            }
        }
        Ok(results)
    }

    /// Scores of the windows of questions; `may_start` says of each window's context tokens whether an answer
    /// may start there (see `answers::best_context`).
    pub fn spans(
        &mut self,
        windows: &[&Window],
        may_start: &[Vec<bool>],
        beam: usize,
    ) -> Result<Vec<WindowScores>> {
        let inputs: Vec<&Input> = windows.iter().map(|window| &window.input).collect();
        let Head::JointSpan { answerability } = self.head else {
            let split =
                |logits: Vec<f32>, column: usize| logits.iter().skip(column).step_by(2).copied().collect();
            let logits = self.logits(&inputs)?;
            return Ok(logits
                .into_iter()
                .map(|logits| {
                    let (start, end): (Vec<f32>, Vec<f32>) = (split(logits.clone(), 0), split(logits, 1));
                    // What `[CLS]` scores as an answer: the plain head's way to say that there is none.
                    let no_answer = Some(start[0] + end[0]);
                    WindowScores { start, ends: Ends::Plain(end), no_answer }
                })
                .collect());
        };
        let allowed: Vec<Vec<u32>> = windows.iter().map(|window| allowed(window)).collect();
        let mut results: Vec<Option<WindowScores>> = vec![None; windows.len()];
        for chosen in self.micro_batches(&inputs, 1) {
            let ran = self.run(&inputs, chosen, &allowed)?;
            let rows = |sequence: usize| {
                ran.batch.starts[sequence] as usize..ran.batch.starts[sequence + 1] as usize
            };
            let start = self.read(self.tensors.head.logits)?;
            let impossible = match answerability {
                true => Some(self.read(self.tensors.head.impossible_logits)?),
                false => None,
            };
            let starts: Vec<Vec<usize>> = (ran.inputs.iter().enumerate())
                .map(|(sequence, &index)| {
                    beam_starts(windows[index], &may_start[index], &start[rows(sequence)], beam)
                })
                .collect();
            let mut ends: Vec<Vec<(usize, Vec<f32>)>> = vec![Vec::new(); ran.inputs.len()];
            for place in 0..starts.iter().map(Vec::len).max().unwrap_or(0) {
                let chosen: Vec<u32> =
                    starts.iter().map(|starts| starts.get(place).map_or(0, |&start| start as u32)).collect();
                let logits = self.ends(&ran.values, &chosen)?;
                for (sequence, starts) in starts.iter().enumerate() {
                    if let Some(&start) = starts.get(place) {
                        ends[sequence].push((start, logits[rows(sequence)].to_vec()));
                    }
                }
            }
            for (sequence, (&index, ends)) in ran.inputs.iter().zip(ends).enumerate() {
                results[index] = Some(WindowScores {
                    start: start[rows(sequence)].to_vec(),
                    ends: Ends::Beam(ends),
                    no_answer: impossible.as_ref().map(|logits| logits[sequence]),
                });
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Ends of the micro-batch that ran last, given one start a sequence.
    fn ends(&mut self, values: &StepValues, chosen: &[u32]) -> Result<Vec<f32>> {
        let uploads: Vec<Upload<'_>> = (self.tensors.head.starts)
            .map(|tensor| Upload { tensor, data: Data::Uint(chosen) })
            .into_iter()
            .collect();
        self.executor.run(self.end_ops.clone(), values, &uploads)?;
        self.read(self.tensors.head.end_logits)
    }
}

/// Of each position of a window whether it may begin or end an answer: the context's, and `[CLS]`.
pub fn allowed(window: &Window) -> Vec<u32> {
    let context = window.context_position..window.context_position + window.tokens;
    let positions = 0..window.input.ids.len();
    positions.map(|position| u32::from(position == 0 || context.contains(&position))).collect()
}
