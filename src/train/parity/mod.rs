//! One training step from a golden, compared with what an independent implementation computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use safetensors::tensor::TensorView;

use crate::batch::MaskedExample;
use crate::device::DeviceChoice;
use crate::interop::weights;
use crate::tensor::Precision;
use crate::tolerances::StepTolerances;

mod compare;
pub(crate) mod golden;
mod report;
mod step;

use compare::compare;
pub use golden::Golden;
pub use report::Report;
use step::Step;

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
    let mut step = Step::open(&golden, &sequences, options)?;
    step.forward_and_backward()?;
    step.gradients()?;
    step.update()?;
    let identity = step.executor.identity();
    let tolerances = match options.precision {
        Precision::F16 => StepTolerances::HALF,
        Precision::F32 if identity.is_cpu() => StepTolerances::CPU,
        Precision::F32 => StepTolerances::GPU,
    };
    let report = compare(&golden, &step.computed, identity.to_string(), &tolerances)?;
    if let Some(target) = &options.write {
        write(target, &golden, &step.computed)?;
    }
    Ok(report)
}

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
        .map(|(name, kind, shape, bytes)| Ok((name.as_str(), TensorView::new(*kind, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    weights::write_views(path, views, None).map(drop)
}
