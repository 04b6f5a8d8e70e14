//! How many lanes a subgroup has in kernels on cooperative matrices, where the adapter names a range.
//!
//! WebGPU has no way to ask for a size, and RADV on RDNA names 32 to 64: a tiny kernel that looks like ours says which
//! it gets. A driver might choose by kernel; `selftest` compares every kernel that was chosen with the reference.

use anyhow::{Result, bail};
use wgpu::BufferUsages;

use super::handle::Handle;
use super::readback::read_now;
use super::shader;

/// Threads of a workgroup: those of our products.
const THREADS: u32 = 256;
const WORDS: u64 = 3;

/// The size that the driver gives to a kernel with matrices of the largest size there is; none where the kernel does not
/// compile, or finds that a workgroup is not whole subgroups of one size: such kernels are then not for this device.
///
/// # Errors
/// A device that was lost, or does not answer.
pub fn probe(gpu: &Handle) -> Result<Option<u32>> {
    let matrix = gpu.capabilities.cooperative.last().copied().unwrap_or(0);
    let source = shader::assemble("probe_lanes", &[("MATRIX", matrix), ("THREADS", THREADS)], &[])?;
    let Ok((buffer, commands)) = gpu.guarded(|| record(gpu, &source.text)) else { return Ok(None) };
    gpu.queue.submit([commands]);
    let words = read_now(gpu, (&buffer, 0, 4 * WORDS))?;
    let [lanes, subgroups, product] = words[..] else { bail!("{} words of a probe", words.len()) };
    Ok((lanes * subgroups == THREADS && product == matrix).then_some(lanes))
}

fn record(gpu: &Handle, text: &str) -> (wgpu::Buffer, wgpu::CommandBuffer) {
    let label = Some("probe_lanes");
    let source = wgpu::ShaderSource::Wgsl(text.into());
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label,
        size: 4 * WORDS,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 1, resource: buffer.as_entire_binding() }],
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    (buffer, encoder.finish())
}
