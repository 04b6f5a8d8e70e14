//! What a run will take before it begins: memory, time, disk, passes over the text.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::device::{Device, DeviceChoice, Peaks};
use crate::interop::checkpoint::Keep;
use crate::plan::Plan;
use crate::store::examples::EpochIndex;
use crate::store::{Stores, WeightedPath};
use crate::train::config::{Leg, Sources, Surroundings, TrainConfig};
use crate::train::examples::full_extents;

use super::step;

pub mod ranks;
pub mod shares;
pub mod speed;
#[cfg(test)]
mod table;
mod text;

pub use shares::{Asked, Ranks};

/// Pieces of a model that is estimated without a store.
const VOCABULARY: u64 = 32_000;

/// Steps that are measured, after one that warms up.
const MEASURED: usize = 3;

/// Seconds that a measurement may take where nobody asks for it.
const PATIENCE: f64 = 20.0;

/// Share of the device's measured peak that a step is taken to reach where it is not measured. No device has it for a
/// property: it is a round number that is said beside what follows from it.
pub const SHARE: f64 = 0.3;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub sources: Sources,
    pub stores: Vec<WeightedPath>,
    pub device: DeviceChoice,
    pub threads: usize,
    pub memory_limit: Option<u64>,
    /// Whether steps are measured; nothing: where it takes no longer than twenty seconds.
    pub measure: Option<bool>,
    pub share: f64,
    /// Of a step of the phase with most to compute, where it is known: nothing is measured then.
    pub step_seconds: Option<f64>,
    /// Several devices that share the work.
    pub ranks: Option<Asked>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Of the largest plan of a step.
    pub bytes: u64,
    pub bytes_by_role: BTreeMap<String, u64>,
    pub micro_batch: usize,
    pub vocabulary_chunk: usize,
    /// Of the device, where it says.
    pub device_bytes: Option<u64>,
    pub device_free_bytes: Option<u64>,
    /// Why the device cannot hold it, if it cannot.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Time {
    /// `measured` with some steps on this device, `given`, or `assumed`: from FLOPs and a share of its measured peak.
    pub how: &'static str,
    pub measured_steps: usize,
    pub seconds: f64,
    /// Of the mean step.
    pub step_seconds: f64,
    pub positions_per_second: f64,
    pub model_flops_per_second: f64,
    pub peak_flops_per_second: f64,
    /// Of the peak.
    pub share: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub checkpoint_bytes: u64,
    /// Checkpoints that stay at the end, and the one that is written beside them.
    pub checkpoints: u64,
    pub run_bytes: u64,
    pub store_bytes: Option<u64>,
    /// Of each fine-tuned model.
    pub fine_tuned_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    pub device: String,
    pub steps: u64,
    pub batch_size: usize,
    pub max_length: usize,
    pub parameters: u64,
    /// Sequences × length of all steps; real text fills a part of it.
    pub positions: f64,
    pub memory: Memory,
    pub time: Time,
    pub disk: Disk,
    /// Passes over the text, with one store.
    pub epochs: Option<f64>,
    /// The same run on several devices; all else is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Ranks>,
}

/// Estimates; nothing is written anywhere.
///
/// # Errors
/// A configuration or store that `pretrain` would refuse, too, or a device that cannot be opened.
pub fn run(options: &Options) -> Result<Estimate> {
    let (settings, notes) = options.sources.settings()?;
    notes.iter().for_each(|note| note!("{note}"));
    let stores = if options.stores.is_empty() { None } else { Some(Stores::open(&options.stores)?) };
    let vocab_size = match &stores {
        Some(stores) => stores.first().vocab_size(),
        None => settings.whole("model.vocab_size").unwrap_or(VOCABULARY) as usize,
    };
    let device = Device::new(&options.device, options.threads)?.with_memory_limit(options.memory_limit);
    let surroundings = Surroundings { vocab_size, room: device.room() };
    let config = TrainConfig::resolve(settings.clone(), surroundings)?;
    let legs = config.legs()?;
    let own_legs =
        options.ranks.as_ref().map(|asked| asked.own_legs(settings, surroundings, &legs)).transpose()?;
    let (memory, plan) = memory(&config, &legs, &device)?;
    let disk = disk(&config, &plan, &options.stores)?;
    let parts = plan.parameters.iter().flat_map(|parameter| &parameter.parts);
    let parameters: u64 = parts.map(|part| part.elements() as u64).sum();
    drop(plan);
    let fits = memory.refused.is_none();
    let time = time(options, &legs, &device, fits)?;
    let ranks = match (&options.ranks, &own_legs) {
        (Some(asked), Some(own)) => Some(asked.estimate(&legs, own, &device, time.model_flops_per_second)?),
        _ => None,
    };
    let epochs = match (&stores, options.stores.len()) {
        (Some(stores), 1) => Some(epochs(stores, &config, &legs)?),
        _ => None,
    };
    let device = device.gpu().map_or_else(|| "the processor".to_owned(), |gpu| gpu.capabilities.name.clone());
    let positions = legs.iter().map(|leg| steps(leg) * leg.config.positions_per_step()).sum();
    let (batch_size, max_length) = (config.batch_size, config.max_length);
    let steps = config.steps;
    Ok(Estimate {
        device,
        steps,
        batch_size,
        max_length,
        parameters,
        positions,
        memory,
        time,
        disk,
        epochs,
        ranks,
    })
}

fn steps(leg: &Leg) -> f64 {
    leg.steps.end.saturating_sub(leg.steps.start) as f64
}

/// The largest plan of all legs, and its configuration.
fn largest(legs: &[Leg]) -> Result<(Plan, &TrainConfig)> {
    let mut largest: Option<(Plan, &TrainConfig)> = None;
    for leg in legs {
        let plan = leg.config.plan()?.plan;
        if largest.as_ref().is_none_or(|(other, _)| other.bytes() < plan.bytes()) {
            largest = Some((plan, &leg.config));
        }
    }
    largest.context("a run of no steps")
}

/// Of the leg whose plan is largest, and that plan.
fn memory(config: &TrainConfig, legs: &[Leg], device: &Device) -> Result<(Memory, Plan)> {
    let (plan, of) = largest(legs)?;
    let summary = plan.summary(&full_extents(of));
    let room = device.room();
    let memory = Memory {
        bytes: summary.bytes,
        bytes_by_role: summary.bytes_by_role,
        micro_batch: of.micro_batch,
        vocabulary_chunk: of.vocabulary_chunk,
        device_bytes: room.memory().map(|memory| memory.total),
        device_free_bytes: room.memory().map(|memory| memory.free),
        refused: config.check(room, false).err().map(|error| format!("{error:#}")),
    };
    Ok((memory, plan))
}

/// FLOPs of a step of full sequences.
fn flops(config: &TrainConfig) -> f64 {
    let each = config.model.training_flops_per_token(config.max_length, config.slots(), config.trained);
    each * config.positions_per_step()
}

/// Measured with steps of the leg that has most to compute; the others compute as much a second.
fn time(options: &Options, legs: &[Leg], device: &Device, fits: bool) -> Result<Time> {
    let peak = Peaks::multiply_adds(device)?;
    let all: f64 = legs.iter().map(|leg| steps(leg) * flops(&leg.config)).sum();
    let work = |leg: &&Leg| steps(leg) * flops(&leg.config);
    let main = legs.iter().max_by(|a, b| work(a).total_cmp(&work(b))).context("a run of no steps")?;
    let expected = (MEASURED + 1) as f64 * flops(&main.config) / (options.share * peak);
    let measures = options.step_seconds.is_none() && fits && options.measure.unwrap_or(expected <= PATIENCE);
    let rate = if let Some(seconds) = options.step_seconds {
        flops(&main.config) / seconds
    } else if measures {
        let mut sources = Sources { phase: Some(main.config.phase.number + 1), ..options.sources.clone() };
        if legs.len() == 1 {
            // What was found for the memory that the run may have, not for all there is.
            sources.set.push(format!("micro_batch={}", main.config.micro_batch));
            sources.set.push(format!("vocabulary_chunk={}", main.config.vocabulary_chunk));
        }
        let report = step::run(&step::Options {
            stores: options.stores.clone(),
            sources,
            device: options.device.clone(),
            threads: options.threads,
            steps: MEASURED,
            ..step::Options::default()
        })?;
        flops(&main.config) / (1e-3 * report.step_ms)
    } else {
        options.share * peak
    };
    let (seconds, count) = (all / rate, legs.iter().map(steps).sum::<f64>().max(1.0));
    let positions: f64 = legs.iter().map(|leg| steps(leg) * leg.config.positions_per_step()).sum();
    Ok(Time {
        how: match (options.step_seconds, measures) {
            (Some(_), _) => "given",
            (None, true) => "measured",
            (None, false) => "assumed",
        },
        measured_steps: if measures { MEASURED } else { 0 },
        seconds,
        step_seconds: seconds / count,
        positions_per_second: positions / seconds,
        model_flops_per_second: rate,
        peak_flops_per_second: peak,
        share: rate / peak,
    })
}

fn disk(config: &TrainConfig, plan: &Plan, stores: &[WeightedPath]) -> Result<Disk> {
    let parts = || plan.parameters.iter().flat_map(|parameter| &parameter.parts);
    let of = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        parts().filter(|part| wanted(&part.name)).map(|part| 4 * part.elements() as u64).sum()
    };
    let (all, generator) = (of(&|_| true), of(&|name| name.starts_with("generator")));
    // Values and both moments.
    let checkpoint_bytes = 3 * all;
    let Keep { newest, every } = config.keep();
    let made = config.steps.div_ceil(config.checkpoint_every.max(1));
    let kept = match (newest as u64, every) {
        (0, _) => made,
        (newest, 0) => newest.min(made),
        (newest, every) => (newest + config.steps / every).min(made),
    };
    let checkpoints = kept.max(1) + 1;
    let mut store_bytes = (!stores.is_empty()).then_some(0);
    for store in stores {
        *store_bytes.get_or_insert(0) += length(&store.path)?;
    }
    Ok(Disk {
        checkpoint_bytes,
        checkpoints,
        run_bytes: checkpoints * checkpoint_bytes,
        store_bytes,
        fine_tuned_bytes: all - generator,
    })
}

/// Bytes of a file, or of the files in a folder.
fn length(path: &Path) -> Result<u64> {
    let cannot = || format!("cannot read {}", path.display());
    let metadata = path.metadata().with_context(cannot)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).with_context(cannot)? {
        bytes += entry.with_context(cannot)?.metadata().with_context(cannot)?.len();
    }
    Ok(bytes)
}

/// Passes over the examples that the store makes at each length.
fn epochs(stores: &Stores, config: &TrainConfig, legs: &[Leg]) -> Result<f64> {
    let mut passes = 0.0;
    for leg in legs {
        let examples = EpochIndex::count(stores.first(), config.seed, 0, leg.config.max_length)?;
        passes += steps(leg) * leg.config.batch_size as f64 / (examples as f64).max(1.0);
    }
    Ok(passes)
}

#[cfg(test)]
mod tests;
