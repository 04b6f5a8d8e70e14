//! `--device`: what may be asked for, the executor it leads to, and what it can do at most.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::cpu::CpuExecutor;
use crate::gpu::tuning::device_of;
use crate::gpu::{Capabilities, Gpu, GpuExecutor, Options, Tuning, adapters, capabilities, strategies};
use crate::ops::loss_scaling;
use crate::plan::{Executor, Plan};
use crate::ranks::{Ranks, Travel};

mod peaks;
mod ranked;
mod room;

pub use peaks::Peaks;
pub use room::Room;

use ranked::RankedExecutor;

/// What a build without the feature `gpu` says where one is asked for.
pub const NO_GPU: &str = "this inazuma was built without GPUs (feature `gpu`): use --device cpu";

/// The argument of `--device`: `auto`, `cpu`, `gpu`, `gpu:N`, or a part of an adapter's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest hardware GPU, else the CPU executor.
    #[default]
    Auto,
    Cpu,
    /// The fastest hardware GPU, or the only adapter there is.
    Gpu,
    /// The adapter with this number in `inazuma devices`.
    Index(usize),
    /// The first adapter with this in its name.
    Name(String),
    /// The hardware GPU with this number, the fastest first and round again, else the CPU executor: what `auto` is for the
    /// processes of one machine.
    Card(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected auto, cpu, gpu, gpu:N or a part of an adapter's name".into()),
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "gpu" => Ok(DeviceChoice::Gpu),
            _ => match text.strip_prefix("gpu:") {
                Some(number) => number
                    .parse()
                    .map(DeviceChoice::Index)
                    .map_err(|_| format!("\"{number}\" is not the number of an adapter")),
                None => Ok(DeviceChoice::Name(text.to_owned())),
            },
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Gpu => f.write_str("gpu"),
            DeviceChoice::Index(n) => write!(f, "gpu:{n}"),
            DeviceChoice::Name(name) => f.write_str(name),
            DeviceChoice::Card(_) => f.write_str("auto"),
        }
    }
}

impl DeviceChoice {
    /// The index of the adapter to use; `None` means the CPU executor.
    pub fn resolve(&self, adapters: &[Capabilities]) -> Result<Option<usize>> {
        let wants_gpu = !matches!(self, DeviceChoice::Auto | DeviceChoice::Card(_) | DeviceChoice::Cpu);
        ensure!(cfg!(feature = "gpu") || !wants_gpu, NO_GPU);
        match self {
            DeviceChoice::Auto => Ok(capabilities::best_hardware(adapters)),
            DeviceChoice::Card(number) => Ok(capabilities::hardware(adapters, *number)),
            DeviceChoice::Cpu => Ok(None),
            DeviceChoice::Gpu => capabilities::any_gpu(adapters).map(Some),
            DeviceChoice::Index(n) if *n < adapters.len() => Ok(Some(*n)),
            DeviceChoice::Index(n) => {
                anyhow::bail!("there is no gpu:{n}, only {} adapters (see inazuma devices)", adapters.len())
            }
            DeviceChoice::Name(name) => capabilities::by_name(adapters, name).map(Some),
        }
    }
}

/// Opens the adapter of a choice; `None` means the CPU executor.
pub fn open_gpu(choice: &DeviceChoice) -> Result<Option<Arc<Gpu>>> {
    if *choice == DeviceChoice::Cpu {
        return Ok(None);
    }
    let adapters = adapters();
    let capabilities: Vec<Capabilities> = adapters.iter().map(|a| a.capabilities.clone()).collect();
    match choice.resolve(&capabilities).with_context(|| format!("--device {choice}"))? {
        Some(index) => Gpu::open(&adapters[index]).map(Some),
        None => Ok(None),
    }
}

/// Where plans run: opened once, it makes executors for any number of plans.
pub struct Device {
    gpu: Option<Arc<Gpu>>,
    threads: usize,
    room: Room,
    /// Who shares the work, and how gradients travel.
    ranks: Ranks,
    travel: Travel,
}

impl Device {
    /// Opens the adapter of a choice. `threads` is for the CPU executor; 0 means one for each core.
    pub fn new(choice: &DeviceChoice, threads: usize) -> Result<Self> {
        let gpu = open_gpu(choice)?;
        if let Some(gpu) = &gpu
            && let Some(tuning) = Tuning::cached(&gpu.capabilities)?
        {
            gpu.prefer(Arc::new(tuning));
        }
        let room = gpu.as_ref().map_or_else(Room::processor, Room::gpu);
        Ok(Device { gpu, threads, room, ranks: Ranks::default(), travel: Travel::default() })
    }

    /// The device of one rank of several, whose executors exchange with the others: where several are on one machine,
    /// `auto` is a card for each, and they divide the cores.
    pub fn of_rank(choice: &DeviceChoice, threads: usize, ranks: &Ranks, travel: Travel) -> Result<Self> {
        if !ranks.are_several() {
            return Device::new(choice, threads);
        }
        let card = DeviceChoice::Card(ranks.local().0);
        let choice = if *choice == DeviceChoice::Auto { &card } else { choice };
        let threads = if threads == 0 { ranks.threads() } else { threads };
        Ok(Device { ranks: ranks.clone(), travel, ..Device::new(choice, threads)? })
    }

    /// Takes at most so many bytes for plans, where a number is given, as if there were no more.
    pub fn with_memory_limit(self, bytes: Option<u64>) -> Self {
        let room = match bytes {
            Some(bytes) => self.room.limited(bytes),
            None => self.room,
        };
        Device { room, ..self }
    }

    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    pub fn is_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    pub fn is_hardware_gpu(&self) -> bool {
        self.gpu.as_ref().is_some_and(|gpu| !gpu.capabilities.software)
    }

    /// What it had room for when it was opened.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The open adapter; `None` is the CPU executor.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }

    /// Makes executors from here on use the kernels that a run recorded, if it was on this device: what was tuned
    /// since would round otherwise.
    pub fn reuse_kernels(&self, record: &Path) -> Result<()> {
        let Some(gpu) = &self.gpu else { return Ok(()) };
        let text = match fs::read_to_string(record) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", record.display())),
        };
        let recorded = Tuning::parse(&text).with_context(|| record.display().to_string())?;
        if recorded.device == device_of(&gpu.capabilities) {
            gpu.prefer(Arc::new(recorded));
        }
        Ok(())
    }

    /// Which kernels an executor of this device uses, to be recorded in a run; the CPU executor has no choice.
    pub fn kernels_of(&self, executor: &dyn Executor) -> Option<Tuning> {
        let gpu = self.gpu.as_ref()?;
        let plan = executor.plan();
        let strategy = |op| (plan.signature(op), executor.strategy(op).to_owned());
        let strategies = (0..plan.ops.len()).map(strategy).collect();
        Some(Tuning { device: device_of(&gpu.capabilities), strategies })
    }

    /// The same of a plan for which there is no executor yet.
    pub fn kernels_for(&self, plan: &Plan) -> Result<Option<Tuning>> {
        let Some(gpu) = &self.gpu else { return Ok(None) };
        let strategies = strategies(gpu, plan)?.into_iter().enumerate();
        let strategies = strategies.map(|(op, strategy)| (plan.signature(op), strategy.to_owned())).collect();
        Ok(Some(Tuning { device: device_of(&gpu.capabilities), strategies }))
    }

    /// An executor for the plan, its loss scaling as a run begins with it.
    pub fn open(&self, plan: Plan) -> Result<Box<dyn Executor>> {
        ensure!(
            self.is_gpu() || !plan.is_half(),
            "half precision needs a GPU: the CPU executor computes in f32 (use precision f32, or --device gpu)"
        );
        let (loss_scale, is_shared) = (plan.loss_scale, plan.sharding.is_some());
        let mut executor: Box<dyn Executor> = match &self.gpu {
            Some(gpu) => Box::new(GpuExecutor::new(gpu.clone(), plan, Options::default())?),
            None => Box::new(CpuExecutor::<f32>::new(plan, self.threads)?),
        };
        if is_shared {
            executor = Box::new(RankedExecutor::new(executor, self.ranks.clone(), self.travel)?);
        }
        if let Some(state) = loss_scale {
            executor.write(state, &loss_scaling::FIRST_STATE)?;
        }
        Ok(executor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for text in ["auto", "cpu", "gpu", "gpu:3", "Radeon VII"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert!("gpu:x".parse::<DeviceChoice>().is_err());
        assert!("".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn auto_never_takes_a_software_adapter() {
        let lavapipe = Capabilities { software: true, kind: "software", ..Capabilities::baseline() };
        let only = std::slice::from_ref(&lavapipe);
        assert_eq!(DeviceChoice::Auto.resolve(only).unwrap(), None);
        assert_eq!(DeviceChoice::Gpu.resolve(only).unwrap(), Some(0));
        assert!(DeviceChoice::Index(1).resolve(only).is_err());
        let all = [lavapipe, Capabilities::baseline(), Capabilities::baseline()];
        assert_eq!(DeviceChoice::Auto.resolve(&all).unwrap(), Some(1));
        // Processes of one machine take a card each, and share them where they are more.
        let card = |number| DeviceChoice::Card(number).resolve(&all).unwrap();
        assert_eq!([0, 1, 2, 3].map(card), [1, 2, 1, 2].map(Some));
        assert_eq!(DeviceChoice::Card(1).resolve(&all[..1]).unwrap(), None);
    }
}
