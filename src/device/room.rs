//! What a device has room for, and how much of it is taken where nobody says: plain data, so that tests make one up.

use std::sync::Arc;

use anyhow::Result;

use crate::cpu;
use crate::files::size;
use crate::gpu::{Capabilities, Gpu, check_plan};
use crate::plan::{DeviceMemory, Plan};

/// Tokens that keep a GPU busy: products with tiles for hundreds of compute units.
const GPU_TOKENS: usize = 8192;

/// Tokens whose activations stay near a processor's caches; more gain nothing there.
const CPU_TOKENS: usize = 2048;

/// Logits over the vocabulary at once, in bytes: on a processor, and on a GPU unless it has more than 256 times as much
/// memory. (512 rows of 32,000 pieces instead of 262 made a step of `small` 1.3 ms of 53 shorter on an H100.)
const CPU_LOGITS: u64 = 32 << 20;
const GPU_LOGITS: u64 = 64 << 20;
const MEMORY_BY_LOGITS: u64 = 256;

/// The limits and the memory of a device.
#[derive(Clone, Default)]
pub struct Room {
    /// None is the processor.
    adapter: Option<Capabilities>,
    /// The adapter where it is open: kernels may have been tuned on it.
    gpu: Option<Arc<Gpu>>,
    /// Nothing where nobody tells.
    memory: Option<DeviceMemory>,
}

impl Room {
    /// A processor of any memory, for what makes no plan.
    pub fn unlimited() -> Self {
        Room::default()
    }

    /// The processor of this machine.
    pub fn processor() -> Self {
        Room { memory: cpu::memory(), ..Room::default() }
    }

    /// An adapter that is not open.
    pub fn adapter(capabilities: Capabilities) -> Self {
        Room { memory: capabilities.memory, adapter: Some(capabilities), gpu: None }
    }

    /// An open adapter; a software adapter has the machine's memory, whatever it says.
    pub fn gpu(gpu: &Arc<Gpu>) -> Self {
        let room = Room { gpu: Some(gpu.clone()), ..Room::adapter(gpu.capabilities.clone()) };
        if gpu.capabilities.software { room.with_memory(cpu::memory()) } else { room }
    }

    pub fn with_memory(self, memory: Option<DeviceMemory>) -> Self {
        Room { memory, ..self }
    }

    /// The same with at most so much memory.
    pub fn limited(self, bytes: u64) -> Self {
        let memory = self.memory.unwrap_or(DeviceMemory { total: bytes, free: bytes });
        let limited = DeviceMemory { total: memory.total.min(bytes), free: memory.free.min(bytes) };
        self.with_memory(Some(limited))
    }

    /// Whether it refuses nothing.
    pub fn is_unlimited(&self) -> bool {
        self.adapter.is_none() && self.memory.is_none()
    }

    pub fn memory(&self) -> Option<DeviceMemory> {
        self.memory
    }

    /// Bytes a storage binding may cover.
    fn binding_bytes(&self) -> u64 {
        self.adapter.as_ref().map_or(u64::MAX, |adapter| adapter.binding_bytes)
    }

    fn name(&self) -> &str {
        self.adapter.as_ref().map_or("this machine", |adapter| &adapter.name)
    }

    /// Whether its memory is its own: not the system's, as that of processors, integrated GPUs and software adapters.
    fn has_own_memory(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| !matches!(adapter.kind, "integrated" | "software"))
    }

    /// Whether it is faster the more it is given at once, and has memory of its own for it.
    pub fn gains_by_more(&self) -> bool {
        self.has_own_memory() && self.memory.is_some()
    }

    /// Tokens at a time that fill it.
    pub fn tokens(&self) -> usize {
        if self.adapter.is_some() { GPU_TOKENS } else { CPU_TOKENS }
    }

    /// Bytes that a plan takes where nobody says: four fifths of a card's own memory, half of what others live in too,
    /// and no more than is free. The rest is for evaluation, uploads, kernels, and whatever else the card does.
    pub fn usual_bytes(&self) -> Option<u64> {
        let share = |total: u64| if self.has_own_memory() { total / 5 * 4 } else { total / 2 };
        self.memory.map(|memory| share(memory.total).min(memory.free))
    }

    /// Bytes that a plan may take: what is free on a GPU; on a processor all there is, as what is free there grows when
    /// it is wanted.
    pub fn most_bytes(&self) -> Option<u64> {
        let grows = self.adapter.as_ref().is_none_or(|adapter| adapter.software);
        self.memory.map(|memory| if grows { memory.total } else { memory.free })
    }

    /// Bytes of logits over the vocabulary that are alive at once.
    pub fn logits_bytes(&self) -> u64 {
        let Some(adapter) = &self.adapter else { return CPU_LOGITS };
        if adapter.software {
            return CPU_LOGITS.min(adapter.binding_bytes);
        }
        let spare =
            self.memory.filter(|_| self.has_own_memory()).map_or(0, |memory| memory.total / MEMORY_BY_LOGITS);
        GPU_LOGITS.max(spare).min(self.binding_bytes())
    }

    /// Why the device cannot hold these plans at once in so many bytes, if it cannot. Nothing is allocated.
    pub fn refusal(&self, plans: &[&Plan], most: Option<u64>) -> Option<anyhow::Error> {
        let bytes: u64 = plans.iter().map(|plan| plan.bytes()).sum();
        if let (Some(most), Some(memory)) = (most, self.memory)
            && bytes > most
        {
            let [needed, there, free, total] = [bytes, most, memory.free, memory.total].map(size);
            let name = self.name();
            // Three digits may be the same.
            let more = match needed == there {
                true => format!(", {} bytes too few", bytes - most),
                false => String::new(),
            };
            return Some(anyhow::anyhow!(
                "the plan needs {needed} of memory, and {name} has {there} for it{more} ({free} free of {total})"
            ));
        }
        let adapter = self.adapter.as_ref()?;
        plans.iter().find_map(|plan| check_plan(adapter, self.gpu.as_deref(), plan).err())
    }

    /// The first of these that fits in what is usual, or the last if that fits at all; else why it does not.
    pub fn first_that_fits<T>(
        &self,
        sizes: impl IntoIterator<Item = usize>,
        make: impl Fn(usize) -> Result<(Plan, T)>,
    ) -> Result<(Plan, T)> {
        let mut refused = anyhow::anyhow!("no sizes to choose from");
        let mut sizes = sizes.into_iter().peekable();
        while let Some(size) = sizes.next() {
            let (plan, rest) = make(size)?;
            let most = if sizes.peek().is_some() { self.usual_bytes() } else { self.most_bytes() };
            match self.refusal(&[&plan], most) {
                None => return Ok((plan, rest)),
                Some(refusal) => refused = refusal,
            }
        }
        Err(refused)
    }
}
