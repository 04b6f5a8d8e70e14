//! Every kernel against the CPU reference on this device, at awkward sizes, with each of its candidates.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cpu::CpuExecutor;
use crate::device::Device;
use crate::gpu::{GpuExecutor, Options, Selection};
use crate::model::{PretrainPlan, parameters};
use crate::plan::{Executor, Plan};
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::examples::{self, Batcher};
use crate::train::feeding::Feeding;

use super::compare::Pair;

/// The share of integers that may differ: samples at near-ties, and counts beside the border of a bin.
const INTEGER_TOLERANCE: f64 = 0.03;

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
pub fn run(device: &Device) -> Result<Report> {
    let mut report = Report { device: String::new(), passed: true, lines: BTreeMap::new() };
    for set in CONFIGURATIONS {
        let mut set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
        set.extend(
            ["batch_size=3", "micro_batch=3", "model.layers=1", "model.generator_layers=1"].map(Into::into),
        );
        set.extend(["model.vocab_size=517", "model.max_positions=131"].map(Into::into));
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 517, gpu: device.is_gpu() };
        let config = TrainConfig::resolve(sources.settings()?.0, surroundings)?;
        let mut before: Option<Vec<&'static str>> = None;
        for candidate in 0.. {
            let mut subject = open(device, examples::plan(&config)?.plan, candidate)?;
            let strategies: Vec<&'static str> =
                (0..subject.plan().ops.len()).map(|op| subject.strategy(op)).collect();
            if before.as_ref() == Some(&strategies) {
                break;
            }
            compare_all(&config, subject.as_mut(), before.as_deref(), &mut report)?;
            before = Some(strategies);
        }
    }
    ensure!(!report.lines.is_empty(), "nothing was compared");
    report.passed = report.lines.values().all(|line| line.passed);
    Ok(report)
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

/// Compares the ops whose strategy is another than `before`.
fn compare_all(
    config: &TrainConfig,
    subject: &mut dyn Executor,
    before: Option<&[&'static str]>,
    report: &mut Report,
) -> Result<()> {
    report.device = subject.describe();
    let PretrainPlan { plan, tensors, .. } = examples::plan(config)?;
    let feeding = Feeding::of(tensors);
    let mut reference = CpuExecutor::<f64>::new(plan, 0)?;
    parameters::initialise(&mut reference, config.seed)?;
    parameters::initialise(subject, config.seed)?;
    let batch = Batcher::full_length(config)?.step(1);
    let mut pair = Pair { reference: &mut reference, subject };
    pair.walk(&feeding, &batch, 1e-3, |pair, op, values| {
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
                line.passed &= deviation.error <= INTEGER_TOLERANCE;
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
