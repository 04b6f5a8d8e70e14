//! Adapters: finding them, what each can do, and opening one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wgpu::{Backends, DeviceType, Features};

use crate::ops::Candidate;

use super::pipelines::{Pipeline, PipelineCache, PipelineKey};
use super::{Tuning, selector};

const COOPERATIVE: Features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// Features that are asked for where they are present. Only immediates are indispensable.
const WANTED: Features = Features::IMMEDIATES
    .union(Features::SUBGROUP)
    .union(Features::SHADER_F16)
    .union(COOPERATIVE)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(Features::PIPELINE_CACHE);

/// Bytes of `var<immediate>` every kernel may use.
pub const IMMEDIATE_BYTES: u32 = 128;

/// What an adapter is and can do, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub name: String,
    /// Name and version of the driver.
    pub driver: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Runs on the processor (lavapipe, WARP): used only when asked for.
    pub software: bool,
    pub immediates: bool,
    pub subgroups: bool,
    pub subgroup_sizes: [u32; 2],
    pub half: bool,
    /// Sizes of cooperative matrices that multiply halves and sum in f32.
    pub cooperative: Vec<u32>,
    pub timestamps: bool,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    pub invocations: u32,
    pub storage_buffers: u32,
    /// Workgroups in one dimension of a dispatch.
    pub workgroups: u32,
    /// Bytes a storage binding may cover, and bytes of one buffer.
    pub binding_bytes: u64,
    pub buffer_bytes: u64,
}

impl Capabilities {
    /// What WebGPU guarantees everywhere: for tests of the selector.
    pub fn baseline() -> Self {
        Capabilities {
            name: "baseline".into(),
            driver: String::new(),
            backend: "vulkan".into(),
            kind: "other",
            software: false,
            immediates: true,
            subgroups: false,
            subgroup_sizes: [4, 128],
            half: false,
            cooperative: Vec::new(),
            timestamps: false,
            workgroup_memory: 16 << 10,
            invocations: 256,
            storage_buffers: 8,
            workgroups: 65_535,
            binding_bytes: 128 << 20,
            buffer_bytes: 256 << 20,
        }
    }

    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let driver = format!("{} {}", info.driver, info.driver_info);
        Capabilities {
            kind: match info.device_type {
                DeviceType::DiscreteGpu => "discrete",
                DeviceType::IntegratedGpu => "integrated",
                DeviceType::VirtualGpu => "virtual",
                DeviceType::Cpu => "software",
                DeviceType::Other => "other",
            },
            software: info.device_type == DeviceType::Cpu,
            name: info.name,
            driver: driver.trim().to_owned(),
            backend: info.backend.to_str().to_owned(),
            immediates: features.contains(Features::IMMEDIATES)
                && limits.max_immediate_size >= IMMEDIATE_BYTES,
            subgroups: features.contains(Features::SUBGROUP),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            half: features.contains(Features::SHADER_F16),
            cooperative: cooperative_sizes(adapter),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroups: limits.max_compute_workgroups_per_dimension,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
        }
    }

    /// What is left for a plan without halves.
    pub fn without_half(&self) -> Self {
        Capabilities { half: false, cooperative: Vec::new(), ..self.clone() }
    }

    /// How promising the kind of adapter is: lower is faster.
    fn rank(&self) -> u32 {
        match self.kind {
            "discrete" => 0,
            "integrated" => 1,
            "virtual" => 2,
            "other" => 3,
            _ => 4,
        }
    }
}

fn cooperative_sizes(adapter: &wgpu::Adapter) -> Vec<u32> {
    if !adapter.features().contains(COOPERATIVE) {
        return Vec::new();
    }
    let usable = |p: &wgpu::CooperativeMatrixProperties| {
        p.ab_type == wgpu::CooperativeScalarType::F16
            && p.cr_type == wgpu::CooperativeScalarType::F32
            && p.m_size == p.n_size
            && p.n_size == p.k_size
    };
    let found = adapter.cooperative_matrix_properties();
    let mut sizes: Vec<u32> = found.iter().filter(|p| usable(p)).map(|p| p.m_size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// An adapter that has not been opened.
#[derive(Clone, Debug)]
pub struct Adapter {
    inner: wgpu::Adapter,
    pub capabilities: Capabilities,
}

/// All adapters of this machine, in the order `gpu:N` counts them.
pub fn adapters() -> Vec<Adapter> {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let instance = INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = backends;
        wgpu::Instance::new(descriptor)
    });
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    found.into_iter().map(|inner| Adapter { capabilities: Capabilities::of(&inner), inner }).collect()
}

/// The fastest hardware adapter that can run our kernels, by its index.
pub fn best_hardware(adapters: &[Capabilities]) -> Option<usize> {
    let usable = |c: &Capabilities| c.immediates && !c.software;
    (0..adapters.len()).filter(|&n| usable(&adapters[n])).min_by_key(|&n| adapters[n].rank())
}

/// The adapter of `--device gpu`: hardware, else the only one there is.
pub fn any_gpu(adapters: &[Capabilities]) -> Result<usize> {
    match (best_hardware(adapters), adapters) {
        (Some(index), _) => Ok(index),
        (None, [only]) if only.immediates => Ok(0),
        (None, []) => bail!("no GPU found: install a Vulkan driver, or use --device cpu"),
        (None, _) => bail!("no hardware GPU found; choose an adapter by gpu:N (see inazuma devices)"),
    }
}

/// The first adapter with `part` in its name, whatever the case; hardware before software.
pub fn by_name(adapters: &[Capabilities], part: &str) -> Result<usize> {
    let part = part.to_lowercase();
    let named =
        |c: &Capabilities| c.name.to_lowercase().contains(&part) || c.driver.to_lowercase().contains(&part);
    let found = (0..adapters.len()).filter(|&n| named(&adapters[n])).min_by_key(|&n| adapters[n].rank());
    found.with_context(|| {
        let names: Vec<&str> = adapters.iter().map(|c| c.name.as_str()).collect();
        let known = if names.is_empty() { "no adapters".to_owned() } else { names.join(", ") };
        format!("no adapter is called \"{part}\" (found: {known}); auto, cpu, gpu and gpu:N also work")
    })
}

/// An open device. Executors share it, and with it the compiled pipelines.
pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub capabilities: Capabilities,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    /// Where the driver keeps compiled kernels, if it can.
    pub(super) pipeline_cache: Option<PipelineCache>,
    /// Kernels to prefer over what the selector would take.
    tuning: Mutex<Arc<Tuning>>,
    /// The first error nobody waited for.
    error: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens the adapter with all limits it offers.
    pub fn open(adapter: &Adapter) -> Result<Arc<Gpu>> {
        let capabilities = adapter.capabilities.clone();
        if !capabilities.immediates {
            bail!("{} cannot run our kernels: no immediates of {IMMEDIATE_BYTES} bytes", capabilities.name);
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("inazuma"),
            required_features: adapter.inner.features() & WANTED,
            required_limits: adapter.inner.limits(),
            // SAFETY: of the experimental features we ask for cooperative matrices alone; what uses them is tested.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.inner.request_device(&descriptor))
            .with_context(|| format!("opening {}", capabilities.name))?;
        let error = Arc::new(Mutex::new(None));
        let record = |error: &Arc<Mutex<Option<String>>>, message: String| {
            let mut first = error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            first.get_or_insert(message);
        };
        let shared = error.clone();
        device.on_uncaptured_error(Arc::new(move |error| record(&shared, one_line(&error.to_string()))));
        let shared = error.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device ends in this callback too: that is no error.
            if reason != wgpu::DeviceLostReason::Destroyed {
                record(&shared, format!("the device was lost: {}", one_line(&message)));
            }
        });
        let pipeline_cache = PipelineCache::open(&device, &adapter.inner);
        Ok(Arc::new(Gpu {
            device,
            queue,
            capabilities,
            pipelines: Mutex::default(),
            pipeline_cache,
            tuning: Mutex::default(),
            error,
        }))
    }

    /// Executors made from here on prefer these kernels.
    pub fn prefer(&self, tuning: Arc<Tuning>) {
        *self.tuning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tuning;
    }

    /// What executors prefer.
    pub fn preferred(&self) -> Arc<Tuning> {
        self.tuning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The preferred kernels of an op, where there are any.
    pub(super) fn tuned(
        &self,
        signature: &str,
        candidates: &[Candidate],
        capabilities: &Capabilities,
    ) -> Option<Candidate> {
        let tuning = self.preferred();
        selector::named(candidates, capabilities, tuning.strategies.get(signature)?)
    }

    /// Fails where the device has reported an error since the last call.
    pub fn check(&self) -> Result<()> {
        let mut error = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match error.take() {
            Some(message) => bail!("{}: {message}", self.capabilities.name),
            None => Ok(()),
        }
    }

    /// Runs `f` and turns what the device complains of meanwhile into an error.
    pub fn guarded<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let internal = self.device.push_error_scope(Internal);
        let memory = self.device.push_error_scope(OutOfMemory);
        let validation = self.device.push_error_scope(Validation);
        let result = f();
        let errors = [validation.pop(), memory.pop(), internal.pop()].map(Pop::wait);
        match errors.into_iter().flatten().next() {
            Some(wgpu::Error::OutOfMemory { .. }) => bail!("out of device memory"),
            Some(error) => bail!("{}", one_line(&error.to_string())),
            None => Ok(result),
        }
    }

    /// Waits until everything up to `submission` is done, and so is the mapping asked for after it.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex, mapping: &Mapping) -> Result<()> {
        let waiting = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let polled = self.device.poll(waiting);
        self.check()?;
        polled.context("waiting for the device")?;
        // The callback of the mapping may be in the hands of another thread that polled at the same time.
        let since = Instant::now();
        while mapping.pending() && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_micros(50));
        }
        if !mapping.ready() {
            bail!("{}: a buffer could not be mapped", self.capabilities.name);
        }
        Ok(())
    }
}

/// How far the mapping of a buffer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping(Arc<AtomicU8>);

impl Mapping {
    const READY: u8 = 1;
    const FAILED: u8 = 2;

    /// Asks for the whole buffer; the mapping follows the submissions before it.
    pub fn start(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Self {
        let mapping = Mapping::default();
        let state = mapping.0.clone();
        buffer.map_async(mode, .., move |result| {
            state.store(if result.is_ok() { Self::READY } else { Self::FAILED }, Ordering::Release);
        });
        mapping
    }

    pub fn pending(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub fn ready(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::READY
    }
}

trait Pop {
    fn wait(self) -> Option<wgpu::Error>;
}

impl<F: Future<Output = Option<wgpu::Error>>> Pop for F {
    fn wait(self) -> Option<wgpu::Error> {
        pollster::block_on(self)
    }
}

pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: &'static str) -> Capabilities {
        Capabilities { name: name.into(), kind, software: kind == "software", ..Capabilities::baseline() }
    }

    #[test]
    fn hardware_first_and_software_only_when_asked_for() {
        let lavapipe = adapter("llvmpipe (LLVM 15.0.6, 256 bits)", "software");
        let [small, large] = [adapter("Graphics 620", "integrated"), adapter("Radeon VII", "discrete")];
        let all = [lavapipe.clone(), small.clone(), large];
        assert_eq!(best_hardware(&all), Some(2));
        assert_eq!(any_gpu(&all).unwrap(), 2);
        assert_eq!(by_name(&all, "LLVMpipe").unwrap(), 0);
        assert_eq!(by_name(&all, "graphics").unwrap(), 1);
        assert!(by_name(&all, "geforce").unwrap_err().to_string().contains("Radeon VII"));
        assert_eq!(best_hardware(std::slice::from_ref(&lavapipe)), None);
        assert_eq!(any_gpu(std::slice::from_ref(&lavapipe)).unwrap(), 0);
        assert!(any_gpu(&[lavapipe.clone(), lavapipe]).is_err());
        assert!(any_gpu(&[]).is_err());
        let old = Capabilities { immediates: false, ..small };
        assert_eq!(best_hardware(&[old]), None);
    }
}
