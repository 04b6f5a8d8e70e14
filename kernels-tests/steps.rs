//! Whole training steps: gradients against central differences, goldens, regrouped batches, repetition.

use std::path::Path;

use inazuma::batch::{MaskedExample, PackedBatch};
use inazuma::cpu::{CpuExecutor, PlanScalar};
use inazuma::device::DeviceChoice;
use inazuma::gpu::{GpuExecutor, Options};
use inazuma::model::{
    BatchCapacity, EmbeddingSharing, Mode, ModelConfig, PretrainPlan, StepOptions, electra::StepTensors,
    parameters,
};
use inazuma::plan::{Data, Executor, Phase, Plan, Upload};
use inazuma::tensor::random::{self, Stream, derive, root};
use inazuma::tensor::{Precision, StepValues};
use inazuma::train::parity;

use crate::harness::gpu;
use crate::testing::{shared, skipped};
use crate::tolerances::{GRADIENT_CHECK, REGROUPED};

/// An executor on the device of all tests.
pub fn open_gpu(plan: Plan) -> Box<dyn Executor> {
    Box::new(GpuExecutor::new(gpu(), plan, Options::default()).expect("the plan fits the adapter"))
}

pub fn open_cpu<S: PlanScalar>(plan: Plan, threads: usize) -> Box<dyn Executor> {
    Box::new(CpuExecutor::<S>::new(plan, threads).expect("threads start"))
}

/// Both projections, head sizes 12 and 8, sizes that are no multiples of tiles.
pub fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 67,
        embedding_size: 12,
        hidden_size: 24,
        layers: 2,
        heads: 2,
        ffn_size: 40,
        max_positions: 20,
        generator_hidden_size: 8,
        generator_layers: 1,
        generator_heads: 1,
        generator_ffn_size: 20,
        embedding_sharing: EmbeddingSharing::Shared,
    }
}

const LENGTH: usize = 20;

/// `count` sequences of varying length, about one position in six chosen.
pub fn examples(config: &ModelConfig, count: usize, seed: u64) -> Vec<MaskedExample> {
    let mut stream = Stream::new(root(seed));
    (0..count)
        .map(|_| {
            let length = 5 + stream.below(LENGTH as u32 - 4) as usize;
            let ids: Vec<u32> = (0..length).map(|_| 7 + stream.below(config.vocab_size as u32 - 7)).collect();
            let chosen = (0..length as u32).filter(|_| stream.below(6) == 0).take(4);
            let masked: Vec<(u32, u32)> = chosen.map(|p| (p, ids[p as usize])).collect();
            let mut input_ids = ids;
            for &(position, _) in &masked {
                input_ids[position as usize] = 6;
            }
            MaskedExample::new(input_ids, length / 2, masked)
        })
        .collect()
}

pub fn capacity(sequences: usize) -> BatchCapacity {
    BatchCapacity { tokens: sequences * LENGTH, sequences, labelled: sequences * 4, max_length: LENGTH }
}

pub fn values(examples: &[MaskedExample], step: u32) -> StepValues {
    StepValues {
        key: derive(root(11), step, 0),
        learning_rate: 1e-3,
        loss_scale: 1.0,
        inverse_temperature: 1.0,
        discriminator_weight: 50.0,
        moment_scale: 1.0,
        epsilon_scale: 1.0,
        labelled_total: examples.iter().map(|e| e.masked.len() as f32).sum(),
        tokens_total: examples.iter().map(|e| e.input_ids.len() as f32).sum(),
        ..StepValues::default()
    }
}

/// Runs clear and all micro-batches; returns the samples in the order of the batch.
pub fn micro_batches(
    executor: &mut dyn Executor,
    tensors: &StepTensors,
    examples: &[MaskedExample],
    per_micro: usize,
    step: u32,
    samples: Option<&[u32]>,
) -> Vec<u32> {
    let mut values = values(examples, step);
    let (clear, micro) = (executor.plan().phase(Phase::Clear), executor.plan().phase(Phase::Micro));
    executor.run(clear, &values, &[]).expect("clear");
    let mut drawn = Vec::new();
    for (index, group) in examples.chunks(per_micro).enumerate() {
        let batch = PackedBatch::pack(index * per_micro, group);
        set_extents(&mut values, &batch);
        let mut uploads = tensors.uploads(&batch);
        if let Some(samples) = samples {
            let data = Data::Uint(&samples[drawn.len()..drawn.len() + batch.masked()]);
            uploads.push(Upload { tensor: tensors.sampled, data });
        }
        executor.run(micro.clone(), &values, &uploads).expect("micro-batch");
        let sampled = executor.read_uint(tensors.sampled).expect("samples");
        drawn.extend_from_slice(&sampled[..batch.masked()]);
    }
    drawn
}

pub fn set_extents(values: &mut StepValues, batch: &PackedBatch) {
    values.tokens = batch.tokens() as u32;
    values.sequences = batch.sequence_count() as u32;
    values.labelled = batch.masked() as u32;
    values.first_sequence = batch.first_sequence as u32;
}

fn loss(executor: &mut dyn Executor, tensors: &StepTensors, values: &StepValues) -> f64 {
    let metrics = executor.read(tensors.metrics).expect("metrics");
    let mlm = f64::from(metrics[0]) / (f64::from(values.labelled_total) + 1e-6);
    mlm + 50.0 * f64::from(metrics[1]) / (f64::from(values.tokens_total) + 1e-6)
}

fn gradients(executor: &mut dyn Executor) -> Vec<Vec<f32>> {
    let parameters = executor.plan().parameters.clone();
    parameters.iter().map(|p| executor.read(p.gradient).expect("gradients")).collect()
}

/// Every parameter's gradient in a whole step with dropout, against central differences of the total loss; of a generator
/// with embeddings of its own, of its own loss.
#[test]
fn gradients_of_a_whole_step_with_dropout() {
    for embedding_sharing in
        [EmbeddingSharing::Shared, EmbeddingSharing::Disentangled, EmbeddingSharing::None]
    {
        check_gradients(&ModelConfig { embedding_sharing, ..config() });
    }
}

fn check_gradients(config: &ModelConfig) {
    let options =
        StepOptions { mode: Mode::Parity, dropout: 0.2, attention_dropout: 0.2, ..StepOptions::default() };
    let PretrainPlan { plan, tensors, .. } =
        PretrainPlan::new(config, capacity(5), &options).expect("a plan");
    let mut executor = CpuExecutor::<f64>::new(plan, 2).expect("threads start");
    parameters::initialise(&mut executor, 5).expect("initialised");
    let examples = examples(config, 5, 2);
    let values = values(&examples, 3);
    let masked: usize = examples.iter().map(|e| e.masked.len()).sum();
    let samples: Vec<u32> = (0..masked as u32).map(|m| 7 + m * 13 % 60).collect();
    let parameters = executor.plan().parameters.clone();
    // Larger than at the start of training, so that no path is lost in the noise of another.
    let mut stream = Stream::new(root(8));
    for parameter in &parameters {
        let mut data = executor.read_exact(parameter.value).expect("parameters");
        data.iter_mut().for_each(|x| *x += 0.3 * (stream.uniform() - 0.5));
        executor.write_exact(parameter.value, &data).expect("written");
    }
    micro_batches(&mut executor, &tensors, &examples, 5, 3, Some(&samples));
    let analytic: Vec<Vec<f64>> =
        parameters.iter().map(|p| executor.read_exact(p.gradient).expect("gradients")).collect();
    let total = |executor: &mut CpuExecutor<f64>, discriminator_weight: f64| {
        micro_batches(executor, &tensors, &examples, 5, 3, Some(&samples));
        let metrics = executor.read_exact(tensors.metrics).expect("metrics");
        metrics[0] / (f64::from(values.labelled_total) + 1e-6)
            + discriminator_weight * metrics[1] / (f64::from(values.tokens_total) + 1e-6)
    };
    for (parameter, analytic) in parameters.iter().zip(&analytic) {
        let name = &parameter.parts[0].name;
        // Its tables move the discriminator's too, which no gradient shall know.
        let weight_of_both = if name.starts_with("generator.") { 0.0 } else { 50.0 };
        let original = executor.read_exact(parameter.value).expect("parameters");
        let largest = analytic.iter().fold(0.0f64, |max, g| max.max(g.abs()));
        let top = (0..analytic.len()).max_by(|&a, &b| analytic[a].abs().total_cmp(&analytic[b].abs()));
        for element in [top.unwrap_or(0), stream.below(analytic.len() as u32) as usize] {
            let mut difference = 0.0;
            // Five-point stencil, error O(h⁴).
            for (factor, weight) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
                let mut shifted = original.clone();
                shifted[element] += factor * 1e-3;
                executor.write_exact(parameter.value, &shifted).expect("written");
                difference += weight * total(&mut executor, weight_of_both) / 12e-3;
            }
            executor.write_exact(parameter.value, &original).expect("written");
            let error = (difference - analytic[element]).abs();
            assert!(
                error <= GRADIENT_CHECK * largest.max(1e-3),
                "{name}[{element}]: {:e} analytic, {difference:e} by differences",
                analytic[element]
            );
        }
    }
}

/// The golden of the repository (kernels-tests/goldens/README.md), and the two that are not ours.
#[test]
fn goldens_on_every_executor() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pretrain.safetensors");
    let others = ["goldens/micro.safetensors", "goldens/short.safetensors"];
    for path in [ours].into_iter().chain(others.into_iter().filter_map(shared)) {
        let name = path.display();
        let device = gpu().capabilities.name.clone();
        let gpu_device = DeviceChoice::Name(device);
        let mut runs = vec![(DeviceChoice::Cpu, Precision::F32), (gpu_device.clone(), Precision::F32)];
        match gpu().capabilities.half {
            true => runs.push((gpu_device, Precision::F16)),
            false => skipped("half precision: the adapter has no SHADER_F16"),
        }
        for (device, precision) in runs {
            for micro_batch in [0, 1] {
                let options = parity::Options {
                    device: device.clone(),
                    threads: 2,
                    micro_batch,
                    precision,
                    write: None,
                };
                let report = parity::run(&path, &options).expect("parity runs");
                assert!(report.passed, "{name}, {precision:?}, micro-batch {micro_batch}:\n{report}");
            }
        }
    }
}

pub type Open = fn(Plan) -> Box<dyn Executor>;
pub const EXECUTORS: [(&str, Open); 2] = [("CPU", |plan| open_cpu::<f32>(plan, 2)), ("GPU", open_gpu)];

fn assert_near(name: &str, expected: &[Vec<f32>], got: &[Vec<f32>]) {
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (e, g) in expected.iter().zip(got) {
            let error = f64::from((e - g).abs());
            // The gradient of every key's bias is zero but for rounding: hence the absolute part.
            assert!(
                error <= REGROUPED * f64::from(largest) + 1e-6,
                "{name}: parameter {index}: {e:e} and {g:e}, largest {largest:e}"
            );
        }
    }
}

/// Batch 8 as 1×8, 2×4 and 8×1 with dropout: identical draws, the same gradients.
#[test]
fn micro_batches_do_not_change_the_step() {
    let config = config();
    let examples = examples(&config, 8, 4);
    for (name, open) in EXECUTORS {
        let mut first: Option<(Vec<u32>, Vec<Vec<f32>>, f64)> = None;
        for per_micro in [8, 4, 1] {
            let PretrainPlan { plan, tensors, .. } =
                PretrainPlan::new(&config, capacity(per_micro), &StepOptions::default()).expect("a plan");
            let mut executor = open(plan);
            parameters::initialise(executor.as_mut(), 5).expect("initialised");
            let drawn = micro_batches(executor.as_mut(), &tensors, &examples, per_micro, 1, None);
            let gradients = gradients(executor.as_mut());
            let loss = loss(executor.as_mut(), &tensors, &values(&examples, 1));
            match &first {
                None => first = Some((drawn, gradients, loss)),
                Some((samples, expected, total)) => {
                    assert_eq!(samples, &drawn, "{name}: samples at {per_micro} a micro-batch");
                    assert_near(&format!("{name}, {per_micro} a micro-batch"), expected, &gradients);
                    assert!((total - loss).abs() <= REGROUPED * total, "{name}: {total} and {loss}");
                }
            }
        }
    }
}

/// One batch packed, packed into a larger plan, and padded: the same loss, draws and gradients.
#[test]
fn padding_does_not_change_the_step() {
    let config = config();
    let examples = examples(&config, 6, 14);
    for (name, open) in EXECUTORS {
        let mut results = Vec::new();
        for (sequences, padded) in [(6, false), (13, false), (12, true)] {
            let PretrainPlan { plan, tensors, .. } =
                PretrainPlan::new(&config, capacity(sequences), &StepOptions::default()).expect("a plan");
            let mut executor = open(plan);
            let executor = executor.as_mut();
            parameters::initialise(executor, 5).expect("initialised");
            let batch = match padded {
                true => PackedBatch::padded(0, &examples, LENGTH, 3),
                false => PackedBatch::pack(0, &examples),
            };
            let mut values = values(&examples, 2);
            set_extents(&mut values, &batch);
            assert_eq!(padded, batch.tokens() == examples.len() * LENGTH);
            let ops = executor.plan().phase(Phase::Clear).start..executor.plan().phase(Phase::Micro).end;
            executor.run(ops, &values, &tensors.uploads(&batch)).expect("a step");
            let samples = executor.read_uint(tensors.sampled).expect("samples")[..batch.masked()].to_vec();
            results.push((samples, gradients(executor), loss(executor, &tensors, &values)));
        }
        for (samples, gradients, loss) in &results[1..] {
            assert_eq!(samples, &results[0].0, "{name}: samples");
            assert_near(name, &results[0].1, gradients);
            assert!((loss - results[0].2).abs() <= REGROUPED * loss, "{name}: {loss}");
        }
    }
}

/// Twenty updates: the losses of both executors agree to 1e-3, their samples but for counted near-ties.
#[test]
fn the_first_twenty_losses_agree() {
    let config = config();
    let mut runs = Vec::new();
    for (_, open) in EXECUTORS {
        let PretrainPlan { plan, tensors, .. } =
            PretrainPlan::new(&config, capacity(8), &StepOptions::default()).expect("a plan");
        let mut executor = open(plan);
        let executor = executor.as_mut();
        parameters::initialise(executor, 21).expect("initialised");
        let update = executor.plan().phase(Phase::Update);
        let (mut losses, mut samples) = (Vec::new(), Vec::new());
        for step in 0..20 {
            let examples = examples(&config, 8, 100 + u64::from(step));
            samples.extend(micro_batches(executor, &tensors, &examples, 8, step, None));
            let mut values = values(&examples, step);
            values.learning_rate = 5e-4 * (step as f32 / 5.0).min(1.0);
            executor.run(update.clone(), &values, &[]).expect("update");
            losses.push(loss(executor, &tensors, &values));
        }
        runs.push((losses, samples));
    }
    let (cpu, gpu) = (&runs[0], &runs[1]);
    let differing = cpu.1.iter().zip(&gpu.1).filter(|(a, b)| a != b).count();
    println!("{} samples, {differing} differ", cpu.1.len());
    assert!(differing * 100 <= cpu.1.len(), "{differing} of {} samples differ", cpu.1.len());
    for (step, (a, b)) in cpu.0.iter().zip(&gpu.0).enumerate() {
        assert!((a - b).abs() <= 1e-3 * a, "step {step}: {a} on the CPU, {b} on the GPU");
    }
    assert!(cpu.0[19] < cpu.0[0], "twenty steps learned nothing: {:?}", cpu.0);
}

/// The same bytes after three updates: twice on each executor, and with one thread and two.
#[test]
fn steps_repeat_to_the_byte() {
    let config = config();
    let run = |open: &dyn Fn(Plan) -> Box<dyn Executor>| {
        let PretrainPlan { plan, tensors, .. } =
            PretrainPlan::new(&config, capacity(4), &StepOptions::default()).expect("a plan");
        let mut executor = open(plan);
        let executor = executor.as_mut();
        parameters::initialise(executor, 3).expect("initialised");
        for step in 0..3 {
            let examples = examples(&config, 8, u64::from(step));
            micro_batches(executor, &tensors, &examples, 4, step, None);
            let update = executor.plan().phase(Phase::Update);
            executor.run(update, &values(&examples, step), &[]).expect("update");
        }
        let parameters = executor.plan().parameters.clone();
        let states = parameters.iter().flat_map(|p| [p.value, p.first_moment, p.second_moment]);
        let read = |id| executor.read(id).expect("read").iter().map(|x| x.to_bits()).collect();
        states.map(read).collect::<Vec<Vec<u32>>>()
    };
    let one = run(&|plan| open_cpu::<f32>(plan, 1));
    assert!(one == run(&|plan| open_cpu::<f32>(plan, 2)), "the number of threads changes the bytes");
    assert!(one == run(&|plan| open_cpu::<f32>(plan, 1)), "a second run changes the bytes");
    assert!(run(&open_gpu) == run(&open_gpu), "a second run on the GPU changes the bytes");
}

/// The real sizes: two micro-batches of `small` at length 512 on the CPU executor.
#[test]
fn small_at_length_512_runs_on_the_cpu() {
    let config = ModelConfig {
        vocab_size: 32_000,
        embedding_size: 128,
        hidden_size: 256,
        layers: 12,
        heads: 4,
        ffn_size: 1024,
        max_positions: 512,
        generator_hidden_size: 64,
        generator_layers: 12,
        generator_heads: 1,
        generator_ffn_size: 256,
        embedding_sharing: EmbeddingSharing::Shared,
    };
    let mut stream = Stream::new(random::root(1));
    let examples: Vec<MaskedExample> = [512usize, 301]
        .map(|length| {
            let ids: Vec<u32> = (0..length).map(|_| 7 + stream.below(31_000)).collect();
            let masked = (0..79u32).map(|slot| (slot * 3, ids[slot as usize * 3])).collect();
            MaskedExample::new(ids, length / 2, masked)
        })
        .to_vec();
    let capacity = BatchCapacity { tokens: 512, sequences: 1, labelled: 79, max_length: 512 };
    let PretrainPlan { plan, tensors, .. } =
        PretrainPlan::new(&config, capacity, &StepOptions::default()).expect("a plan");
    let mut executor = open_cpu::<f32>(plan, 2);
    let executor = executor.as_mut();
    parameters::initialise(executor, 1).expect("initialised");
    micro_batches(executor, &tensors, &examples, 1, 1, None);
    let values = values(&examples, 1);
    executor.run(executor.plan().phase(Phase::Update), &values, &[]).expect("update");
    let total = loss(executor, &tensors, &values);
    // ln 32000 + 50·ln 2 = 45.03: nothing is known yet. All tokens share the random last layer's offset, which
    // moves the discriminator's 34.7 by some units.
    assert!((40.0..50.0).contains(&total), "{total}");
}
