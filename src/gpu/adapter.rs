//! Adapters: finding them, and what each can do.

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use wgpu::{Backends, DeviceType, Features};

use crate::plan::DeviceMemory;

use super::memory::memory;

const COOPERATIVE: Features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// Features that are asked for where they are present. Only immediates are indispensable.
pub(super) const WANTED: Features = Features::IMMEDIATES
    .union(Features::SUBGROUP)
    .union(Features::SUBGROUP_BARRIER)
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
    pub subgroup_barriers: bool,
    pub subgroup_sizes: [u32; 2],
    /// Where these differ: the size that kernels on cooperative matrices get, as found when the device was opened.
    pub probed_lanes: Option<u32>,
    pub half: bool,
    /// Sizes of cooperative matrices that multiply f16 and sum in f32.
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
    /// When the adapter was found; nothing where the driver does not say.
    pub memory: Option<DeviceMemory>,
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
            subgroup_barriers: false,
            subgroup_sizes: [4, 128],
            probed_lanes: None,
            half: false,
            cooperative: Vec::new(),
            timestamps: false,
            workgroup_memory: 16 << 10,
            invocations: 256,
            storage_buffers: 8,
            workgroups: 65_535,
            binding_bytes: 128 << 20,
            buffer_bytes: 256 << 20,
            memory: None,
        }
    }

    /// What discrete GPUs have through Vulkan: for what is said of a GPU where none is asked for.
    pub fn desktop() -> Self {
        Capabilities {
            half: true,
            workgroup_memory: 32 << 10,
            storage_buffers: 1 << 16,
            binding_bytes: 2 << 30,
            buffer_bytes: 2 << 30,
            ..Self::baseline()
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
            subgroup_barriers: features.contains(Features::SUBGROUP_BARRIER),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            probed_lanes: None,
            half: features.contains(Features::SHADER_F16),
            cooperative: cooperative_sizes(adapter),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroups: limits.max_compute_workgroups_per_dimension,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            memory: memory(adapter),
        }
    }

    /// What is left for a plan without f16.
    pub fn without_half(&self) -> Self {
        Capabilities { half: false, cooperative: Vec::new(), ..self.clone() }
    }

    /// Lanes of a subgroup in kernels on cooperative matrices, where they are known.
    pub fn lanes(&self) -> Option<u32> {
        let [smallest, largest] = self.subgroup_sizes;
        if smallest == largest { Some(smallest) } else { self.probed_lanes }
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
    pub(super) inner: wgpu::Adapter,
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
