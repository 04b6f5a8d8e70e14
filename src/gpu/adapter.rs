//! Adapters: finding them, and asking what each can do.

use std::sync::OnceLock;

use wgpu::{Backends, DeviceType, Features};

use super::capabilities::{Capabilities, IMMEDIATE_BYTES};
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

fn capabilities(adapter: &wgpu::Adapter) -> Capabilities {
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
        immediates: features.contains(Features::IMMEDIATES) && limits.max_immediate_size >= IMMEDIATE_BYTES,
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
    found.into_iter().map(|inner| Adapter { capabilities: capabilities(&inner), inner }).collect()
}
