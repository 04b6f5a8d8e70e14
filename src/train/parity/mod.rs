//! One training step from a golden, compared with what an independent implementation computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::TensorView;

use crate::batch::{MaskedExample, PackedBatch};
use crate::device::{Device, DeviceChoice};
use crate::interop::checkpoint::LossScalingState;
use crate::model::{BatchCapacity, Mode, OptimizerOptions, PretrainPlan, StepOptions};
use crate::ops::constants::{METRIC_CROSS_ENTROPY, METRIC_GRADIENT_NORM, METRIC_NLL};
use crate::plan::{Data, Parameter, Phase, Upload};
use crate::tensor::{Precision, StepValues, TensorId};
use crate::tolerances::StepTolerances;
use crate::train::schedule;

mod compare;
mod golden;
mod report;

use compare::compare;
pub use golden::Golden;
pub use report::Report;

pub struct Options {
    pub device: DeviceChoice,
    pub threads: usize,
    /// Sequences per micro-batch; 0: all at once.
    pub micro_batch: usize,
    pub precision: Precision,
    pub write: Option<PathBuf>,
}

/// The golden's batch as sequences without padding.
struct Sequences {
    examples: Vec<MaskedExample>,
    /// For every sequence, the samples of its slots in use.
    samples: Vec<Vec<u32>>,
    /// For every sequence, the golden's slot numbers in use.
    slots: Vec<Vec<usize>>,
    width: usize,
    slot_width: usize,
}

fn sequences(golden: &Golden) -> Result<Sequences> {
    let path = golden.path.display();
    let (input_ids, width) = golden.integers("batch.input_ids")?;
    let (mask, _) = golden.integers("batch.input_mask")?;
    let (segments, _) = golden.integers("batch.segment_ids")?;
    let (positions, slot_width) = golden.integers("batch.masked_positions")?;
    let (masked_ids, _) = golden.integers("batch.masked_ids")?;
    let (sampled, _) = golden.integers("batch.sampled_ids")?;
    let weights = &golden.get("batch.weights")?.values;
    let count = input_ids.len() / width;
    for (name, length, expected) in [
        ("input_mask", mask.len(), count * width),
        ("segment_ids", segments.len(), count * width),
        ("masked_positions", positions.len(), count * slot_width),
        ("masked_ids", masked_ids.len(), count * slot_width),
        ("sampled_ids", sampled.len(), count * slot_width),
        ("weights", weights.len(), count * slot_width),
    ] {
        ensure!(length == expected, "{path}: batch.{name} has {length} elements, not {expected}");
    }
    let mut result = Sequences { examples: vec![], samples: vec![], slots: vec![], width, slot_width };
    for b in 0..count {
        let row = b * width..(b + 1) * width;
        let length = mask[row.clone()].iter().take_while(|&&m| m == 1).count();
        ensure!(
            mask[row.clone()][length..].iter().all(|&m| m == 0),
            "{path}: batch.input_mask row {b} has a gap; real tokens must come first"
        );
        let slots: Vec<usize> = (0..slot_width).filter(|slot| weights[b * slot_width + slot] > 0.0).collect();
        let mut masked = Vec::new();
        for &slot in &slots {
            let at = b * slot_width + slot;
            ensure!(
                weights[at] == 1.0 && (positions[at] as usize) < length,
                "{path}: masked slot {slot} of row {b} has weight {} at position {} of {length}",
                weights[at],
                positions[at]
            );
            masked.push((positions[at], masked_ids[at]));
        }
        result.samples.push(slots.iter().map(|slot| sampled[b * slot_width + slot]).collect());
        result.slots.push(slots);
        result.examples.push(MaskedExample {
            input_ids: input_ids[row.start..row.start + length].to_vec(),
            segments: segments[row.start..row.start + length].to_vec(),
            masked,
        });
    }
    Ok(result)
}

/// Everything the step computed, under the golden's names; padding and unused slots hold what the golden has.
type Computed = BTreeMap<String, Vec<f64>>;

/// Runs the step and compares.
pub fn run(path: &Path, options: &Options) -> Result<Report> {
    let golden = Golden::open(path)?;
    let sequences = sequences(&golden)?;
    let config = golden.config.model().with_context(|| format!("{}", path.display()))?;
    let count = sequences.examples.len();
    let per_micro = if options.micro_batch == 0 { count } else { options.micro_batch.min(count) };
    let groups: Vec<&[MaskedExample]> = sequences.examples.chunks(per_micro).collect();
    let tokens = |group: &&[MaskedExample]| group.iter().map(|e| e.input_ids.len()).sum::<usize>();
    let masked = |group: &&[MaskedExample]| group.iter().map(|e| e.masked.len()).sum::<usize>();
    let capacity = BatchCapacity {
        tokens: groups.iter().map(tokens).max().unwrap_or(1),
        sequences: per_micro,
        labelled: groups.iter().map(masked).max().unwrap_or(1),
        max_length: sequences.width,
    };
    let optimizer = &golden.optimizer;
    let step_options = StepOptions {
        mode: Mode::Parity,
        dropout: 0.0,
        attention_dropout: 0.0,
        generator_weight: golden.config.gen_weight as f32,
        discriminator_weight: golden.config.disc_weight as f32,
        temperature: 1.0,
        precision: options.precision,
        optimizer: OptimizerOptions {
            clip_norm: optimizer.clip as f32,
            adam_beta1: optimizer.b1 as f32,
            adam_beta2: optimizer.b2 as f32,
            adam_epsilon: optimizer.eps as f32,
            weight_decay: optimizer.wd as f32,
        },
    };
    let PretrainPlan { plan, tensors, .. } =
        PretrainPlan::new(&config, capacity, &step_options).with_context(|| format!("{}", path.display()))?;
    let mut executor = Device::new(&options.device, options.threads)?.open(plan)?;
    let executor = executor.as_mut();
    let parameters = executor.plan().parameters.clone();
    for (prefix, select) in STATES {
        for parameter in &parameters {
            executor.write(select(parameter), &gather(&golden, prefix, parameter)?)?;
        }
    }

    let loss_scale = match executor.plan().loss_scale {
        None => 1.0,
        Some(tensor) => {
            LossScalingState::at(HALF_LOSS_SCALE).write(executor, tensor)?;
            HALF_LOSS_SCALE as f32
        }
    };
    let rate = schedule::learning_rate(
        golden.step,
        optimizer.lr,
        optimizer.total_steps,
        optimizer.warmup,
        optimizer.power,
    );
    let mut values = StepValues {
        learning_rate: rate,
        loss_scale: 1.0,
        labelled_total: sequences.slots.iter().map(|slots| slots.len() as f32).sum(),
        tokens_total: sequences.examples.iter().map(|e| e.input_ids.len() as f32).sum(),
        ..StepValues::default()
    };
    let mut computed = Computed::new();
    let logits = golden.get("out.gen_logits")?.values.clone();
    computed.insert("out.gen_logits".into(), logits);
    for name in ["disc_logits", "disc_ids", "labels", "orig_ids", "sampled_ids"] {
        let name = format!("out.{name}");
        computed.insert(name.clone(), golden.get(&name)?.values.clone());
    }
    let update = executor.plan().phase(Phase::Update);
    let (clear, micro) = (executor.plan().phase(Phase::Clear), executor.plan().phase(Phase::Micro));
    executor.run(clear, &values, &[])?;
    for (index, group) in groups.iter().enumerate() {
        let first = index * per_micro;
        let batch = PackedBatch::pack(first, group);
        values.tokens = batch.input_ids.len() as u32;
        values.sequences = group.len() as u32;
        values.labelled = batch.masked_rows.len() as u32;
        values.first_sequence = first as u32;
        let samples: Vec<u32> =
            sequences.samples[first..first + group.len()].iter().flatten().copied().collect();
        let mut uploads = tensors.uploads(&batch);
        uploads.push(Upload { tensor: tensors.sampled, data: Data::Uint(&samples) });
        // Stops before each op that turns a chunk of logits into their gradient, to look at them.
        let mut start = micro.start;
        for chunk in &tensors.logits {
            executor.run(start..chunk.consumer, &values, &uploads)?;
            uploads.clear();
            start = chunk.consumer;
            let logits = executor.read(chunk.tensor)?;
            let rows = (values.labelled as usize).saturating_sub(chunk.first_row).min(chunk.rows);
            place_logits(&mut computed, &sequences, first, chunk.first_row, &logits, rows, config.vocab_size);
        }
        executor.run(start..micro.end, &values, &uploads)?;
        let place = Place { sequences: &sequences, first, batch: &batch };
        place.rows(&mut computed, "out.disc_logits", &widen(&executor.read(tensors.discriminator_logits)?));
        place.rows(&mut computed, "out.disc_ids", &integers(&executor.read_uint(tensors.discriminator_ids)?));
        place.rows(&mut computed, "out.labels", &integers(&executor.read_uint(tensors.labels)?));
        place.rows(&mut computed, "out.orig_ids", &originals(&batch));
        place.slots(&mut computed, "out.sampled_ids", &integers(&executor.read_uint(tensors.sampled)?));
    }
    for parameter in &parameters {
        let gradient: Vec<f32> = executor.read(parameter.gradient)?.iter().map(|g| g / loss_scale).collect();
        scatter(&mut computed, "grad.", parameter, &gradient);
    }
    executor.run(update, &values, &[])?;
    for (prefix, (_, select)) in ["newparam.", "newm.", "newv."].into_iter().zip(STATES) {
        for parameter in &parameters {
            scatter(&mut computed, prefix, parameter, &executor.read(select(parameter))?);
        }
    }
    let metrics = executor.read(tensors.metrics)?;
    let mlm = f64::from(metrics[METRIC_NLL]) / (f64::from(values.labelled_total) + 1e-6);
    let disc = f64::from(metrics[METRIC_CROSS_ENTROPY]) / (f64::from(values.tokens_total) + 1e-6);
    let total = golden.config.gen_weight * mlm + golden.config.disc_weight * disc;
    for (name, value) in [
        ("out.mlm", mlm),
        ("out.disc", disc),
        ("out.total", total),
        ("out.grad_norm", f64::from(metrics[METRIC_GRADIENT_NORM])),
        ("out.lr", f64::from(rate)),
    ] {
        computed.insert(name.into(), vec![value]);
    }
    let tolerances = match options.precision {
        Precision::F16 => StepTolerances::HALF,
        Precision::F32 if executor.identity().is_cpu() => StepTolerances::CPU,
        Precision::F32 => StepTolerances::GPU,
    };
    let report = compare(&golden, &computed, executor.identity().to_string(), &tolerances)?;
    if let Some(target) = &options.write {
        write(target, &golden, &computed)?;
    }
    Ok(report)
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

fn place_logits(
    computed: &mut Computed,
    sequences: &Sequences,
    first: usize,
    first_row: usize,
    logits: &[f32],
    rows: usize,
    vocabulary: usize,
) {
    let Some(target) = computed.get_mut("out.gen_logits") else { return };
    let places = sequences.slots[first..]
        .iter()
        .enumerate()
        .flat_map(|(b, slots)| slots.iter().map(move |slot| (first + b) * sequences.slot_width + slot));
    for (row, place) in places.skip(first_row).take(rows).enumerate() {
        let source = &logits[row * vocabulary..(row + 1) * vocabulary];
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

/// Stores everything computed in the golden's layout: integers as i64, the rest as f32.
fn write(path: &Path, golden: &Golden, computed: &Computed) -> Result<()> {
    let mut data = Vec::new();
    for (name, values) in computed {
        let shape = golden.tensors.get(name).map_or(vec![values.len()], |t| t.shape.clone());
        let integer =
            matches!(name.as_str(), "out.disc_ids" | "out.labels" | "out.orig_ids" | "out.sampled_ids");
        let (kind, bytes): (_, Vec<u8>) = if integer {
            (safetensors::Dtype::I64, values.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect())
        } else {
            (safetensors::Dtype::F32, values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect())
        };
        data.push((name.clone(), kind, shape, bytes));
    }
    let views = data
        .iter()
        .map(|(name, kind, shape, bytes)| Ok((name.clone(), TensorView::new(*kind, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, path)
        .with_context(|| format!("{}: cannot write", path.display()))
}
