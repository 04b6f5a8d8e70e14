//! The memory of a plan on a GPU.

use anyhow::{Context, Result};

use crate::files::size;
use crate::plan::Plan;
use crate::tensor::TensorId;

use super::handle::Handle;
use super::sizes::tenant;

/// A part of a device buffer: buffer, byte offset, bytes.
pub(super) type Part<'a> = (&'a wgpu::Buffer, u64, u64);

/// Where a tensor lies, in whole words.
pub(super) fn part<'a>(plan: &Plan, buffers: &'a [wgpu::Buffer], tensor: TensorId) -> Part<'a> {
    let (element, place) = (plan.info(tensor).element, plan.placement(tensor));
    let bytes = element.bytes() * place.length as u64;
    (&buffers[place.buffer], element.bytes() * place.offset as u64, bytes.next_multiple_of(4))
}

/// The buffers of a plan, not cleared.
///
/// # Errors
/// A buffer that the device has no memory for, named by the largest tensor in it.
pub(super) fn make_buffers(gpu: &Handle, plan: &Plan) -> Result<Vec<wgpu::Buffer>> {
    let mut made = 0;
    let mut buffers = Vec::with_capacity(plan.buffers.len());
    for (index, info) in plan.buffers.iter().enumerate() {
        let bytes = info.bytes();
        let buffer = gpu.guarded(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("plan"),
                size: bytes,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        buffers.push(buffer.with_context(|| {
            format!(
                "allocating {} for {} after {} of {}: try a smaller micro_batch",
                size(bytes),
                tenant(plan, index),
                size(made),
                size(plan.bytes())
            )
        })?);
        made += bytes;
    }
    Ok(buffers)
}
