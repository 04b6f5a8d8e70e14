//! A golden's step on a device: what every part of it computed, under the golden's names.

use anyhow::{Context, Result, ensure};

use crate::batch::{MaskedExample, PackedBatch};
use crate::device::Device;
use crate::interop::checkpoint::LossScalingState;
use crate::model::electra::StepTensors;
use crate::model::{BatchCapacity, Mode, OptimizerOptions, PretrainPlan, StepOptions, Trained};
use crate::ops::constants::{METRIC_CROSS_ENTROPY, METRIC_GRADIENT_NORM, METRIC_NLL};
use crate::plan::{Data, Executor, Parameter, Phase, Shard, Upload};
use crate::tensor::{Precision, StepValues, TensorId};
use crate::train::schedule;

use super::{Computed, Golden, Options, Sequences};

/// The step, ready to run part by part.
pub(super) struct Step<'a> {
    golden: &'a Golden,
    sequences: &'a Sequences,
    /// Sequences of a micro-batch.
    per_micro: usize,
    vocabulary: usize,
    tensors: StepTensors,
    parameters: Vec<Parameter>,
    values: StepValues,
    loss_scale: f32,
    pub executor: Box<dyn Executor>,
    pub computed: Computed,
}

impl<'a> Step<'a> {
    /// Builds the plan and loads the golden's parameters and moments.
    pub fn open(golden: &'a Golden, sequences: &'a Sequences, options: &Options) -> Result<Self> {
        let shown = || golden.path.display().to_string();
        let config = golden.config.model().with_context(shown)?;
        let count = sequences.examples.len();
        let per_micro = if options.micro_batch == 0 { count } else { options.micro_batch.min(count) };
        let plan = PretrainPlan::new(
            &config,
            capacity(sequences, per_micro),
            &step_options(golden, options.precision),
        );
        let PretrainPlan { plan, tensors, .. } = plan.with_context(shown)?;
        let mut executor = Device::new(&options.device, options.threads)?.open(plan)?;
        let parameters = executor.plan().parameters.clone();
        for (prefix, select) in STATES {
            for parameter in &parameters {
                executor.write(select(parameter), &gather(golden, prefix, parameter)?)?;
            }
        }
        let loss_scale = match executor.plan().loss_scale {
            None => 1.0,
            Some(tensor) => {
                LossScalingState::at(HALF_LOSS_SCALE).write(executor.as_mut(), tensor)?;
                HALF_LOSS_SCALE as f32
            }
        };
        Ok(Step {
            golden,
            sequences,
            per_micro,
            vocabulary: config.vocab_size,
            tensors,
            parameters,
            values: values(golden, sequences),
            loss_scale,
            executor,
            computed: before(golden)?,
        })
    }

    /// All micro-batches.
    pub fn forward_and_backward(&mut self) -> Result<()> {
        let clear = self.executor.plan().phase(Phase::Clear);
        self.executor.run(clear, &self.values, &[])?;
        let sequences = self.sequences;
        for (index, group) in sequences.examples.chunks(self.per_micro).enumerate() {
            self.micro_batch(index * self.per_micro, group)?;
        }
        Ok(())
    }

    fn micro_batch(&mut self, first: usize, group: &[MaskedExample]) -> Result<()> {
        let batch = PackedBatch::pack(first, group);
        self.values.tokens = batch.tokens() as u32;
        self.values.sequences = group.len() as u32;
        self.values.labelled = batch.masked() as u32;
        self.values.first_sequence = first as u32;
        self.run_in_parts(first, group.len(), &batch)?;
        let (tensors, executor) = (&self.tensors, self.executor.as_mut());
        let logits = widen(&executor.read(tensors.discriminator_logits)?);
        let ids = integers(&executor.read_uint(tensors.discriminator_ids)?);
        let labels = integers(&executor.read_uint(tensors.labels)?);
        let sampled = integers(&executor.read_uint(tensors.sampled)?);
        let place = Place { sequences: self.sequences, first, batch: &batch };
        place.rows(&mut self.computed, "out.disc_logits", &logits);
        place.rows(&mut self.computed, "out.disc_ids", &ids);
        place.rows(&mut self.computed, "out.labels", &labels);
        place.rows(&mut self.computed, "out.orig_ids", &originals(&batch));
        place.slots(&mut self.computed, "out.sampled_ids", &sampled);
        Ok(())
    }

    /// Stops before each op that turns a chunk of the vocabulary's logits into their gradient, to look at them.
    fn run_in_parts(&mut self, first: usize, count: usize, batch: &PackedBatch) -> Result<()> {
        let samples: Vec<u32> =
            self.sequences.samples[first..first + count].iter().flatten().copied().collect();
        let mut uploads = self.tensors.uploads(batch);
        uploads.push(Upload { tensor: self.tensors.sampled, data: Data::Uint(&samples) });
        let micro = self.executor.plan().phase(Phase::Micro);
        let mut start = micro.start;
        for chunk in &self.tensors.logits {
            self.executor.run(start..chunk.consumer, &self.values, &uploads)?;
            uploads.clear();
            start = chunk.consumer;
            let logits = self.executor.read(chunk.tensor)?;
            let rows = batch.masked().saturating_sub(chunk.first_row).min(chunk.rows);
            let logits = &logits[..rows * self.vocabulary];
            place_logits(
                &mut self.computed,
                self.sequences,
                (first, chunk.first_row),
                logits,
                self.vocabulary,
            );
        }
        self.executor.run(start..micro.end, &self.values, &uploads)
    }

    /// Reads the gradients, before clipping.
    pub fn gradients(&mut self) -> Result<()> {
        for parameter in &self.parameters {
            let scaled = self.executor.read(parameter.gradient)?;
            let gradient: Vec<f32> = scaled.iter().map(|g| g / self.loss_scale).collect();
            scatter(&mut self.computed, "grad.", parameter, &gradient);
        }
        Ok(())
    }

    /// Makes the update; reads parameters, moments and what the step reports.
    pub fn update(&mut self) -> Result<()> {
        let update = self.executor.plan().phase(Phase::Update);
        self.executor.run(update, &self.values, &[])?;
        for (prefix, (_, select)) in ["newparam.", "newm.", "newv."].into_iter().zip(STATES) {
            for parameter in &self.parameters {
                scatter(&mut self.computed, prefix, parameter, &self.executor.read(select(parameter))?);
            }
        }
        let metrics = self.executor.read(self.tensors.metrics)?;
        let mean = |slot: usize, count: f32| f64::from(metrics[slot]) / (f64::from(count) + 1e-6);
        let mlm = mean(METRIC_NLL, self.values.labelled_total);
        let disc = mean(METRIC_CROSS_ENTROPY, self.values.tokens_total);
        let weights = &self.golden.config;
        for (name, value) in [
            ("out.mlm", mlm),
            ("out.disc", disc),
            ("out.total", weights.gen_weight * mlm + weights.disc_weight * disc),
            ("out.grad_norm", f64::from(metrics[METRIC_GRADIENT_NORM])),
            ("out.lr", f64::from(self.values.learning_rate)),
        ] {
            self.computed.insert(name.into(), vec![value]);
        }
        Ok(())
    }
}

/// What the largest micro-batch holds.
fn capacity(sequences: &Sequences, per_micro: usize) -> BatchCapacity {
    let most = |count: fn(&MaskedExample) -> usize| {
        let groups = sequences.examples.chunks(per_micro);
        groups.map(|group| group.iter().map(count).sum()).max().unwrap_or(1)
    };
    BatchCapacity {
        tokens: most(|example| example.input_ids.len()),
        sequences: per_micro,
        labelled: most(|example| example.masked.len()),
        max_length: sequences.width,
    }
}

fn step_options(golden: &Golden, precision: Precision) -> StepOptions {
    let optimizer = &golden.optimizer;
    StepOptions {
        mode: Mode::Parity,
        dropout: 0.0,
        attention_dropout: 0.0,
        generator_weight: golden.config.gen_weight as f32,
        vocabulary_chunk: None,
        precision,
        optimizer: OptimizerOptions {
            clip_norm: optimizer.clip as f32,
            adam_beta1: optimizer.b1 as f32,
            adam_beta2: optimizer.b2 as f32,
            adam_epsilon: optimizer.eps as f32,
            weight_decay: optimizer.wd as f32,
        },
        trained: Trained::Both,
        shard: Shard::default(),
    }
}

/// What concerns the whole batch.
fn values(golden: &Golden, sequences: &Sequences) -> StepValues {
    let optimizer = &golden.optimizer;
    let rate = schedule::learning_rate(
        golden.step,
        optimizer.lr,
        optimizer.total_steps,
        optimizer.warmup,
        optimizer.power,
    );
    StepValues {
        learning_rate: rate,
        loss_scale: 1.0,
        inverse_temperature: 1.0,
        discriminator_weight: golden.config.disc_weight as f32,
        moment_scale: 1.0,
        epsilon_scale: 1.0,
        labelled_total: sequences.slots.iter().map(|slots| slots.len() as f32).sum(),
        tokens_total: sequences.examples.iter().map(|example| example.input_ids.len() as f32).sum(),
        ..StepValues::default()
    }
}

/// What stands at padding and unused slots, which nothing computes: the golden's own values.
fn before(golden: &Golden) -> Result<Computed> {
    let mut computed = Computed::new();
    for name in ["gen_logits", "disc_logits", "disc_ids", "labels", "orig_ids", "sampled_ids"] {
        let name = format!("out.{name}");
        let values = golden.get(&name)?.values.clone();
        computed.insert(name, values);
    }
    Ok(computed)
}

/// Picks one of a parameter's tensors.
type Select = fn(&Parameter) -> TensorId;

/// The three states of a parameter, and how the golden names them.
const STATES: [(&str, Select); 3] =
    [("param.", |p| p.value), ("m.", |p| p.first_moment), ("v.", |p| p.second_moment)];

fn gather(golden: &Golden, prefix: &str, parameter: &Parameter) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(parameter.rows * parameter.columns);
    for part in &parameter.parts {
        let name = format!("{prefix}{}", part.name);
        let tensor = golden.get(&name)?;
        ensure!(
            tensor.shape == part.shape,
            "{}: {name} has shape {:?}, but `cfg` makes it {:?}",
            golden.path.display(),
            tensor.shape,
            part.shape
        );
        values.extend(tensor.values.iter().map(|&x| x as f32));
    }
    Ok(values)
}

fn scatter(computed: &mut Computed, prefix: &str, parameter: &Parameter, values: &[f32]) {
    for part in &parameter.parts {
        let first = part.first_row * parameter.columns;
        let slice = &values[first..first + part.elements()];
        computed.insert(format!("{prefix}{}", part.name), widen(slice));
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn integers(values: &[u32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The batch before masking.
fn originals(batch: &PackedBatch) -> Vec<f64> {
    let mut ids = integers(&batch.input_ids);
    for (&row, &id) in batch.masked_rows.iter().zip(&batch.masked_ids) {
        ids[row as usize] = f64::from(id);
    }
    ids
}

/// Logits of a micro-batch whose first sequence is `first`, from its masked slot `first_row` on.
fn place_logits(
    computed: &mut Computed,
    sequences: &Sequences,
    (first, first_row): (usize, usize),
    logits: &[f32],
    vocabulary: usize,
) {
    let Some(target) = computed.get_mut("out.gen_logits") else { return };
    let places = sequences.slots[first..]
        .iter()
        .enumerate()
        .flat_map(|(b, slots)| slots.iter().map(move |slot| (first + b) * sequences.slot_width + slot));
    for (source, place) in logits.chunks_exact(vocabulary).zip(places.skip(first_row)) {
        target[place * vocabulary..(place + 1) * vocabulary].copy_from_slice(&widen(source));
    }
}

/// Where packed values of a micro-batch stand in the golden's padded tensors.
struct Place<'a> {
    sequences: &'a Sequences,
    first: usize,
    batch: &'a PackedBatch,
}

impl Place<'_> {
    fn rows(&self, computed: &mut Computed, name: &str, values: &[f64]) {
        let Some(target) = computed.get_mut(name) else { return };
        for row in 0..self.batch.input_ids.len() {
            let sequence = self.first + self.batch.sequences[row] as usize;
            target[sequence * self.sequences.width + self.batch.positions[row] as usize] = values[row];
        }
    }

    fn slots(&self, computed: &mut Computed, name: &str, values: &[f64]) {
        let Some(target) = computed.get_mut(name) else { return };
        for (m, &sequence) in self.batch.masked_sequences.iter().enumerate() {
            let sequence = self.first + sequence as usize;
            let slot = self.sequences.slots[sequence][self.batch.masked_slots[m] as usize];
            target[sequence * self.sequences.slot_width + slot] = values[m];
        }
    }
}

/// The loss scale of a half-precision step that is compared: gradients of a few sequences are large as they are.
const HALF_LOSS_SCALE: u32 = 1024;
