//! Whole steps of models whose networks do not share their embeddings, and such runs through the binary.

use std::fs;

use inazuma::model::{EmbeddingSharing, Mode, ModelConfig, PretrainPlan, StepOptions, Trained, parameters};
use inazuma::plan::{Executor, Parameter, Phase};
use inazuma::tensor::random::{Stream, root};
use inazuma::tensor::{Extents, Precision, TensorId};

use crate::harness::gpu;
use crate::steps::{Open, capacity, config, examples, micro_batches, open_cpu, open_gpu, values};
use crate::testing::skipped;
use crate::tolerances::{CROSS_CHECK, HALF_CROSS_CHECK};

const APART: [EmbeddingSharing; 2] = [EmbeddingSharing::Disentangled, EmbeddingSharing::None];

fn cpu(plan: inazuma::plan::Plan) -> Box<dyn Executor> {
    open_cpu::<f32>(plan, 2)
}

/// A step of two micro-batches and its update, by parameter.
struct Stepped {
    name: String,
    gradient: Vec<f32>,
    /// Value and moments, before and after.
    before: [Vec<f32>; 3],
    after: [Vec<f32>; 3],
}

/// Nothing is 0 before it, not deltas and not moments.
fn step(open: Open, embedding_sharing: EmbeddingSharing, options: &StepOptions) -> Vec<Stepped> {
    let config = ModelConfig { embedding_sharing, ..config() };
    let plan = PretrainPlan::new(&config, capacity(4), options).expect("a plan");
    let (mut executor, tensors) = (open(plan.plan), plan.tensors);
    let executor = executor.as_mut();
    parameters::initialise(executor, 5).expect("initialised");
    let parameters = executor.plan().parameters.clone();
    let mut stream = Stream::new(root(8));
    for parameter in &parameters {
        let mut data = executor.read(parameter.value).expect("parameters");
        data.iter_mut().for_each(|x| *x += (0.1 * (stream.uniform() - 0.5)) as f32);
        executor.write(parameter.value, &data).expect("written");
        for moment in [parameter.first_moment, parameter.second_moment] {
            data.iter_mut().for_each(|x| *x = 1e-3 * (1.0 + stream.uniform() as f32));
            executor.write(moment, &data).expect("written");
        }
    }
    let scale = match executor.plan().loss_scale {
        Some(tensor) => {
            executor.write(tensor, &[256.0, 0.0]).expect("written");
            256.0
        }
        None => 1.0,
    };
    let examples = examples(&config, 8, 2);
    let masked: usize = examples.iter().map(|e| e.masked.len()).sum();
    let samples: Vec<u32> = (0..masked as u32).map(|m| 7 + m * 13 % 60).collect();
    micro_batches(executor, &tensors, &examples, 4, 3, Some(&samples));
    let mut read = |tensor| executor.read(tensor).expect("read");
    let state = |p: &Parameter, read: &mut dyn FnMut(TensorId) -> Vec<f32>| {
        [p.value, p.first_moment, p.second_moment].map(read)
    };
    let mut steps: Vec<Stepped> = parameters
        .iter()
        .map(|p| Stepped {
            name: p.parts[0].name.clone(),
            gradient: read(p.gradient).iter().map(|g| g / scale).collect(),
            before: state(p, &mut read),
            after: Default::default(),
        })
        .collect();
    let update = executor.plan().phase(Phase::Update);
    executor.run(update, &values(&examples, 3), &[]).expect("update");
    let mut read = |tensor| executor.read(tensor).expect("read");
    steps.iter_mut().zip(&parameters).for_each(|(step, p)| step.after = state(p, &mut read));
    steps
}

const ALL: [EmbeddingSharing; 3] =
    [EmbeddingSharing::Shared, EmbeddingSharing::Disentangled, EmbeddingSharing::None];

/// The gradients of a step on the GPU beside those on the processor, in f32 and f16, with a generator that is trained and
/// with one that is fixed.
#[test]
fn steps_on_the_gpu_are_those_of_the_processor() {
    for (sharing, trained) in ALL.iter().flat_map(|&sharing| TRAINED.map(|trained| (sharing, trained))) {
        let options = StepOptions { mode: Mode::Parity, trained, ..StepOptions::default() };
        let expected = step(cpu, sharing, &options);
        for (precision, tolerance) in [(Precision::F32, CROSS_CHECK), (Precision::F16, HALF_CROSS_CHECK)] {
            if precision == Precision::F16 && !gpu().capabilities.half {
                skipped("half precision: the adapter has no SHADER_F16");
                continue;
            }
            let computed = step(open_gpu, sharing, &StepOptions { precision, ..options });
            for (computed, expected) in computed.iter().zip(&expected) {
                let largest = expected.gradient.iter().fold(1e-30f32, |most, x| most.max(x.abs()));
                let pairs = computed.gradient.iter().zip(&expected.gradient);
                let error = f64::from(pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest);
                let name = &expected.name;
                assert!(
                    error <= tolerance,
                    "{sharing:?}, {trained:?}, {precision:?}, {name}: off by {error:e}"
                );
            }
        }
    }
}

const TRAINED: [Trained; 2] = [Trained::Both, Trained::Discriminator];

/// The generator has no gradient of the discriminator's loss, and the discriminator none of the generator's.
#[test]
fn the_discriminators_gradient_does_not_reach_the_generator() {
    let stepped = |sharing, generator_weight| {
        let options = StepOptions { mode: Mode::Parity, generator_weight, ..StepOptions::default() };
        step(cpu, sharing, &options)
    };
    for sharing in APART {
        for (with, without) in stepped(sharing, 1.0).iter().zip(&stepped(sharing, 0.0)) {
            let (name, is_generators) = (&with.name, with.name.starts_with("generator."));
            assert_eq!(without.gradient.iter().all(|&g| g == 0.0), is_generators, "{sharing:?}: {name}");
            assert_eq!(with.gradient == without.gradient, !is_generators, "{sharing:?}: {name}");
        }
    }
    let shared = |weight| stepped(EmbeddingSharing::Shared, weight).swap_remove(0).gradient;
    assert!(shared(1.0) != shared(0.0) && shared(0.0).iter().any(|&g| g != 0.0), "gradients of both");
}

/// A fixed generator keeps values and moments; the discriminator has the gradient that it has beside one without a loss.
#[test]
fn a_fixed_generator_stays_what_it_is() {
    for sharing in ALL {
        let options = StepOptions { mode: Mode::Parity, generator_weight: 0.0, ..StepOptions::default() };
        let both = step(cpu, sharing, &options);
        for open in [cpu as Open, open_gpu] {
            let fixed = step(open, sharing, &StepOptions { trained: Trained::Discriminator, ..options });
            for (fixed, both) in fixed.iter().zip(&both) {
                let (name, is_generators) = (&fixed.name, fixed.name.starts_with("generator."));
                assert_eq!(name, &both.name);
                assert!(fixed.before == both.before, "{sharing:?}: {name}");
                assert_eq!(fixed.before == fixed.after, is_generators, "{sharing:?}: {name}");
            }
        }
        let fixed = step(cpu, sharing, &StepOptions { trained: Trained::Discriminator, ..options });
        for (fixed, both) in fixed.iter().zip(&both) {
            assert_eq!(fixed.gradient, both.gradient, "{sharing:?}: {}", fixed.name);
        }
    }
}

/// What is fixed lies where it lay, and the step does less.
#[test]
fn a_fixed_generator_costs_less_and_moves_nothing() {
    for embedding_sharing in ALL {
        let config = ModelConfig { embedding_sharing, ..config() };
        let [both, fixed] = TRAINED.map(|trained| {
            let options = StepOptions { trained, ..StepOptions::default() };
            PretrainPlan::new(&config, capacity(4), &options).expect("a plan").plan
        });
        for (a, b) in both.parameters.iter().zip(&fixed.parameters) {
            assert_eq!(both.placement(a.value), fixed.placement(b.value), "{}", a.parts[0].name);
        }
        let extents = Extents { tokens: 80, sequences: 4, labelled: 16 };
        let [of_both, of_fixed] = [&both, &fixed].map(|plan| plan.flops(Phase::Micro, &extents));
        assert!(of_fixed < of_both && fixed.bytes() <= both.bytes(), "{of_fixed} of {of_both}");
        assert!(fixed.flops(Phase::Update, &extents) < both.flops(Phase::Update, &extents));
    }
}

/// With deltas of 0 the discriminator computes what it computes with a copy of the generator's tables, to the byte.
#[test]
fn deltas_are_added() {
    let run = |embedding_sharing, deltas: f32| {
        let config = ModelConfig { embedding_sharing, ..config() };
        let options = StepOptions { mode: Mode::Inspect, ..StepOptions::default() };
        let plan = PretrainPlan::new(&config, capacity(8), &options).expect("a plan");
        let (mut executor, tensors) = (cpu(plan.plan), plan.tensors);
        let executor = executor.as_mut();
        let parameters = executor.plan().parameters.clone();
        for parameter in &parameters {
            let name = &parameter.parts[0].name;
            let is_delta = name.contains("embeddings_delta");
            let drawn = |x: usize| ((x * 37 % 101) as f32 - 50.0) / 200.0;
            let mut data: Vec<f32> = (0..parameter.rows * parameter.columns).map(drawn).collect();
            if is_delta {
                data.fill(deltas);
            } else if embedding_sharing == EmbeddingSharing::None
                && name.starts_with("discriminator.electra.embeddings.")
                && !name.contains("LayerNorm")
            {
                data.iter_mut().for_each(|x| *x += deltas);
            }
            executor.write(parameter.value, &data).expect("written");
        }
        let examples = examples(&config, 8, 2);
        let masked: usize = examples.iter().map(|e| e.masked.len()).sum();
        micro_batches(executor, &tensors, &examples, 8, 3, Some(&vec![9; masked]));
        executor.read(tensors.discriminator_logits).expect("logits")
    };
    for deltas in [0.0, 0.125] {
        let (disentangled, apart) =
            (run(EmbeddingSharing::Disentangled, deltas), run(EmbeddingSharing::None, deltas));
        assert_eq!(disentangled, apart);
    }
    assert_ne!(run(EmbeddingSharing::Disentangled, 0.0), run(EmbeddingSharing::Disentangled, 0.125));
}

mod through_the_binary {
    use serde_json::json;

    use super::*;
    use crate::command_line::{
        TRAIN, assert_same, checkpoint, done, forget_the_last_checkpoint, prepared, refused,
    };
    use crate::exporting::said;
    use crate::fine_tuning::questions;

    const RUNS: [&str; 2] = ["disentangled", "none"];

    fn train(sharing: &str) -> String {
        format!("{TRAIN} --set model.embedding_sharing={sharing} --out sharing-{sharing}")
    }

    /// Exported as plain ELECTRA, read back by our own reader, fine-tuned from: the same numbers as of the run itself.
    #[test]
    fn runs_are_exported_as_plain_models() {
        let folder = prepared();
        let lines = [json!({"input_ids": [4, 10, 6, 12, 5], "token_type_ids": [0, 0, 1, 1, 1]})];
        for sharing in RUNS {
            let run = format!("sharing-{sharing}");
            done(folder, &format!("{} --set learning_rate=1e-2", train(sharing)));
            done(folder, &format!("export {run} --out {run}-hf"));
            let import =
                format!("import {run}-hf/discriminator --generator {run}-hf/generator --out {run}-back");
            refused(folder, &import, &["not of one training", "--own-embeddings"]);
            done(folder, &format!("{import} --own-embeddings"));
            let own = said(folder, &run, &lines);
            assert_eq!(own, said(folder, &format!("{run}-back"), &lines), "{sharing}");
            let tail = "--epochs 1 --train-limit 2 --max-length 64 --device cpu --threads 1";
            let tuned = |from: &str, out: &str| {
                let train = questions("train");
                done(folder, &format!("finetune squad --init {from} --train {train} --out {out} {tail}"));
                fs::read(folder.join(out).join("model.safetensors")).expect("read")
            };
            let (direct, exported) = (format!("{run}-qa"), format!("{run}-hf-qa"));
            let from_hf = tuned(&format!("{run}-hf/discriminator"), &exported);
            assert!(tuned(&run, &direct) == from_hf, "{sharing}: fine-tuned");
        }
    }

    #[test]
    fn runs_repeat_over_a_resume() {
        let folder = prepared();
        for sharing in RUNS {
            let out = format!("resumed-{sharing}");
            done(folder, &format!("{TRAIN} --set model.embedding_sharing={sharing} --out {out}"));
            let run = folder.join(&out);
            let expected = checkpoint(&run, 6);
            forget_the_last_checkpoint(&run);
            let resume = format!("pretrain --store store --out {out} --device cpu --resume");
            refused(
                folder,
                &format!("{resume} --set model.embedding_sharing=shared"),
                &["embedding_sharing is \"shared\""],
            );
            done(folder, &resume);
            assert_same(&expected, &checkpoint(&run, 6), sharing);
        }
    }

    /// What can go on as what; positions are made longer in every table.
    #[test]
    fn runs_begin_with_others() {
        let folder = prepared();
        let begin = |from: &str, sharing: &str, out: &str| {
            format!("{TRAIN} --init {from} --set model.embedding_sharing={sharing} --set steps=2 --out {out}")
        };
        done(folder, &format!("{TRAIN} --out begin-shared --set steps=2"));
        done(folder, &begin("begin-shared", "disentangled", "begin-disentangled"));
        done(folder, &begin("begin-shared", "none", "begin-none"));
        done(folder, &begin("begin-disentangled", "none", "begin-folded"));
        let own_sizes = TRAIN.replace("--preset tiny", "--set max_length=64");
        done(folder, &format!("{own_sizes} --init begin-disentangled --set steps=2 --out begin-again"));
        let text = fs::read_to_string(folder.join("begin-again/config.toml")).expect("a configuration");
        assert!(text.contains("embedding_sharing = \"disentangled\""), "{text}");
        for (from, to) in [("disentangled", "shared"), ("none", "shared"), ("none", "disentangled")] {
            let command = begin(&format!("begin-{from}"), to, "nowhere");
            refused(folder, &command, &["model.embedding_sharing", from, "cannot become", to]);
        }
        for sharing in RUNS {
            let longer = format!("begin-{sharing}-longer");
            done(folder, &format!("import begin-{sharing} --extend-positions 200 --out {longer}"));
            done(
                folder,
                &format!("{own_sizes} --init {longer} --set max_length=200 --set steps=4 --out {longer}-run"),
            );
        }
    }
}
