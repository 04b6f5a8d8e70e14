//! `--explain`: the plan of a step in words and numbers, without training anything.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::device::Device;
use crate::gpu::Capabilities;
use crate::gpu::launches::{self, Launches};
use crate::plan::explain::Summary;
use crate::plan::{Phase, Plan};
use crate::store::Stores;
use crate::tensor::Extents;

use super::config::{Leg, Surroundings, TrainConfig, describe_phases};
use super::examples::full_extents;
use super::feeding::PHASES;
use super::run::Options;

/// Pieces of a model that is explained without a store.
const EXPLAINED_VOCABULARY: u64 = 32_000;

/// A plan in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    #[serde(flatten)]
    pub summary: Summary,
    /// Of one run of each phase, and of a whole step: on the GPU asked for, else on a desktop's; nothing where no GPU can
    /// take the plan.
    pub launches: BTreeMap<&'static str, Launches>,
}

/// What is explained: the plan of a run or of one of its phases, or those of all phases.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    One(Box<Explained>),
    Phases { phases: Vec<Explained> },
}

/// The plans of steps as text and as numbers; needs no store.
pub fn explain(options: &Options) -> Result<(String, Answer)> {
    let (settings, _) = options.sources.settings()?;
    let vocab_size = if options.stores.is_empty() {
        settings.whole("model.vocab_size").unwrap_or(EXPLAINED_VOCABULARY) as usize
    } else {
        Stores::open(&options.stores)?.first().vocab_size()
    };
    let device = Device::new(&options.device, options.threads)?.with_memory_limit(options.memory_limit);
    let config = TrainConfig::resolve(settings, Surroundings { vocab_size, room: device.room() })?;
    let room = config.check(device.room(), false).err();
    let room = room.map_or_else(String::new, |refused| format!("does not fit: {refused:#}\n"));
    let legs = config.legs()?;
    if legs.len() == 1 || options.sources.phase.is_some() {
        let (text, explained) = explain_plan(&options.sources.asked(&config)?, &device)?;
        return Ok((text + &room, Answer::One(Box::new(explained))));
    }
    let (lines, mut text, mut phases) = (describe_phases(&legs), String::new(), Vec::new());
    for Leg { steps, config } in &legs {
        let (explained, numbers) = explain_plan(config, &device)?;
        let line = match lines.get(config.phase.number) {
            Some(line) if steps.start == config.phase.first => line.clone(),
            _ => format!("steps {} to {}", steps.start + 1, steps.end),
        };
        text += &format!("{line}\n\n{explained}\n");
        phases.push(numbers);
    }
    Ok((text + &room, Answer::Phases { phases }))
}

/// One plan: that of a phase, or of a run that has none.
fn explain_plan(config: &TrainConfig, device: &Device) -> Result<(String, Explained)> {
    let plan = config.plan()?.plan;
    if device.is_gpu() {
        plan.suits_gpu()?;
    }
    let extents = full_extents(config);
    let parts = plan.parameters.iter().flat_map(|parameter| &parameter.parts);
    let parameters: usize = parts.map(|part| part.elements()).sum();
    let micro_batches = config.batch_size.div_ceil(config.micro_batch);
    let capabilities = device.gpu().map_or_else(Capabilities::desktop, |gpu| gpu.capabilities.clone());
    let launches = match plan.suits_gpu() {
        Ok(()) => launches_of_step(&plan, &capabilities, &extents, micro_batches)?,
        Err(_) => BTreeMap::new(),
    };
    let text = format!(
        "{}{}parameters: {:.2} million; a step is {micro_batches} micro-batches of {} sequences; {:.1} MFLOP a token at length {}\n",
        plan.explain(&extents),
        describe_launches(&launches),
        parameters as f64 / 1e6,
        config.micro_batch,
        config.model.training_flops_per_token(config.max_length, config.slots(), config.trained) / 1e6,
        config.max_length
    );
    Ok((text, Explained { summary: plan.summary(&extents), launches }))
}

/// Kernels of a run of each phase, and of a step of full micro-batches.
fn launches_of_step(
    plan: &Plan,
    capabilities: &Capabilities,
    extents: &Extents,
    micro_batches: usize,
) -> Result<BTreeMap<&'static str, Launches>> {
    let mut all = BTreeMap::new();
    let mut step = Launches::default();
    for phase in PHASES {
        let (name, runs) = match phase {
            Phase::Clear => ("clear", 1),
            Phase::Micro => ("micro", micro_batches),
            Phase::Update => ("update", 1),
        };
        let launches = launches::launches(plan, phase, capabilities, extents)?;
        (0..runs).for_each(|_| step += launches);
        all.insert(name, launches);
    }
    all.insert("step", step);
    Ok(all)
}

/// A line; nothing where there are none.
fn describe_launches(launches: &BTreeMap<&'static str, Launches>) -> String {
    let of = |phase| launches.get(phase).copied().unwrap_or_default();
    let Launches { dispatches, barriers } = of("step");
    if dispatches == 0 {
        return String::new();
    }
    let [clear, micro, update] = ["clear", "micro", "update"].map(|phase| of(phase).dispatches);
    format!(
        "kernels on a GPU: {clear} to clear, {micro} a micro-batch, {update} an update; {dispatches} a step, \
         {barriers} of them behind a barrier\n"
    )
}
