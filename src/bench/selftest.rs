//! Every kernel against the CPU reference on this device, at awkward sizes, with each of its candidates.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cpu::CpuExecutor;
use crate::device::Device;
use crate::gpu::{GpuExecutor, Options, Selection};
use crate::model::finetune::{FinetuneOptions, Purpose};
use crate::model::{EmbeddingSharing, ModelConfig, OptimizerOptions, parameters};
use crate::plan::{Executor, Plan};
use crate::tasks::items::capacity;
use crate::tasks::lesson::{Lesson, SAMPLE_LENGTH, SAMPLE_VOCABULARY};
use crate::tasks::registry::TASKS;
use crate::tensor::random::{derive, root};
use crate::tensor::{Precision, StepValues};
use crate::tolerances::OP_INTEGERS;
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::examples::Batcher;
use crate::train::feeding::Feeding;

use super::compare::{Pair, Run};

/// Configurations that together run every op of pre-training: head sizes that divide by 4 and that do not, widths
/// that are no multiple of a tile, an embedding as wide as the model, dropout on.
const CONFIGURATIONS: &[&[&str]] = &[
    &[
        "model.hidden_size=60",
        "model.heads=4",
        "model.embedding_size=36",
        "model.ffn_size=100",
        "max_length=37",
    ],
    &[
        "model.hidden_size=128",
        "model.heads=2",
        "model.embedding_size=128",
        "model.ffn_size=260",
        "model.embedding_sharing=disentangled",
        "max_length=131",
    ],
    &[
        "model.hidden_size=65",
        "model.heads=5",
        "model.embedding_size=33",
        "model.ffn_size=67",
        "max_length=70",
    ],
];

/// What was found of one kind of op with one of its strategies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    pub compared: usize,
    /// The largest error of a float, relative to the largest element of its tensor.
    pub worst: f64,
    pub worst_at: String,
    /// The largest share of integers that differ.
    pub integers: f64,
    pub passed: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    pub passed: bool,
    /// By `op, strategy`.
    pub lines: BTreeMap<String, Line>,
}

/// Compares them all. The CPU executor is compared with itself in f64.
pub fn run(device: &Device, precision: Precision) -> Result<Report> {
    let mut report = Report { device: String::new(), passed: true, lines: BTreeMap::new() };
    for set in CONFIGURATIONS {
        pretraining(device, set, precision, &mut report)?;
    }
    for lesson in TASKS.iter().flat_map(|task| task.samples()) {
        fine_tuning(device, lesson.as_ref(), precision, &mut report)?;
    }
    ensure!(!report.lines.is_empty(), "nothing was compared");
    report.passed = report.lines.values().all(|line| line.passed);
    Ok(report)
}

fn pretraining(device: &Device, set: &[&str], precision: Precision, report: &mut Report) -> Result<()> {
    let mut set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
    set.extend(
        ["batch_size=3", "micro_batch=3", "model.layers=1", "model.generator_layers=1"].map(Into::into),
    );
    set.extend(["model.vocab_size=517", "model.max_positions=131"].map(Into::into));
    set.push(format!("precision={}", precision.name()));
    let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
    let surroundings = Surroundings { vocab_size: 517, room: device.room() };
    let config = TrainConfig::resolve(sources.settings()?.0, surroundings)?;
    let feeding = Feeding::of(config.plan()?.tensors);
    let batch = Batcher::full_length(&config)?.step(1)?;
    let run = Run::pretraining(&feeding, &batch, 1e-3);
    compare_all(device, &|| Ok(config.plan()?.plan), &run, report)
}

/// Reads what the samples of the tasks are made of.
const HEAD_MODEL: ModelConfig = ModelConfig {
    vocab_size: SAMPLE_VOCABULARY,
    embedding_size: 12,
    hidden_size: 28,
    layers: 1,
    heads: 2,
    ffn_size: 20,
    max_positions: SAMPLE_LENGTH,
    generator_hidden_size: 28,
    generator_layers: 1,
    generator_heads: 2,
    generator_ffn_size: 20,
    embedding_sharing: EmbeddingSharing::Shared,
};

/// Every head there is, and with it the ops that only fine-tuning has.
fn fine_tuning(
    device: &Device,
    lesson: &dyn Lesson,
    precision: Precision,
    report: &mut Report,
) -> Result<()> {
    let sizes = lesson.sizes();
    let tokens = sizes.iter().map(|size| size.tokens).sum();
    let capacity = capacity(lesson.sequences(), sizes.len(), HEAD_MODEL.max_positions, tokens);
    let options = FinetuneOptions {
        purpose: Purpose::Train,
        dropout: 0.1,
        attention_dropout: 0.1,
        layer_decay: 0.8,
        precision,
        optimizer: OptimizerOptions::default(),
    };
    let plan = || lesson.plan(&HEAD_MODEL, capacity, &options);
    let items: Vec<usize> = (0..sizes.len()).collect();
    let micro_batch = plan()?.1.micro_batch(0, &items)?;
    let outer = StepValues {
        key: derive(root(1), 1, 0),
        learning_rate: 1e-3,
        loss_scale: 1.0,
        labelled_total: sizes.iter().map(|size| size.weight).sum::<usize>() as f32,
        tokens_total: micro_batch.packed.tokens() as f32,
        ..StepValues::default()
    };
    let run = Run { outer, micro: micro_batch.values(&outer), uploads: micro_batch.uploads() };
    compare_all(device, &|| Ok(plan()?.0), &run, report)
}

fn open(device: &Device, plan: Plan, candidate: usize) -> Result<Box<dyn Executor>> {
    Ok(match device.gpu() {
        Some(gpu) => {
            let options = Options { selection: Selection::Nth(candidate), checked: false };
            Box::new(GpuExecutor::new(gpu.clone(), plan, options)?)
        }
        None => device.open(plan)?,
    })
}

/// Compares all ops of the plans that `make` gives, with every strategy there is.
fn compare_all(
    device: &Device,
    make: &dyn Fn() -> Result<Plan>,
    run: &Run<'_>,
    report: &mut Report,
) -> Result<()> {
    let mut before: Option<Vec<&'static str>> = None;
    for candidate in 0.. {
        let mut subject = open(device, make()?, candidate)?;
        let strategies: Vec<&'static str> =
            (0..subject.plan().ops.len()).map(|op| subject.strategy(op)).collect();
        if before.as_ref() == Some(&strategies) {
            break;
        }
        report.device = subject.identity().to_string();
        let mut reference = CpuExecutor::<f64>::new(make()?, 0)?;
        parameters::initialise(&mut reference, 1)?;
        parameters::initialise(subject.as_mut(), 1)?;
        let pair = Pair { reference: &mut reference, subject: subject.as_mut() };
        compare_new(pair, before.as_deref(), run, report)?;
        before = Some(strategies);
    }
    Ok(())
}

/// Compares the ops whose strategy is another than `before`.
fn compare_new(
    mut pair: Pair<'_>,
    before: Option<&[&'static str]>,
    run: &Run<'_>,
    report: &mut Report,
) -> Result<()> {
    pair.walk(run, |pair, op, values| {
        let strategy = pair.subject.strategy(op);
        if before.is_some_and(|before| before[op] == strategy) {
            return pair.skip(op, values);
        }
        let planned = &pair.reference.plan().ops[op];
        let (kind, label) = (planned.op.name(), planned.label.clone());
        let deviations = pair.compare(op, values)?;
        let line = report
            .lines
            .entry(format!("{kind}, {strategy}"))
            .or_insert(Line { passed: true, ..Line::default() });
        for deviation in deviations {
            line.compared += 1;
            if deviation.integers() {
                line.integers = line.integers.max(deviation.error);
                line.passed &= deviation.error <= OP_INTEGERS;
            } else {
                line.passed &= deviation.floats_agree();
                if deviation.error >= line.worst {
                    line.worst = deviation.error;
                    line.worst_at = format!("{label}, {}", deviation.tensor);
                }
            }
        }
        Ok(())
    })
}
