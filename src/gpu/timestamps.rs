//! The device's own clock: how long each op of a profiled run took.

use anyhow::Result;

use super::handle::Handle;
use super::readback::read_now;

/// Ops of one clock: a query set holds 4,096 time stamps, two for each op.
pub(super) const OPS: usize = 2048;

/// Two time stamps for each of up to [`OPS`] passes.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    buffer: wgpu::Buffer,
    passes: usize,
}

impl Clock {
    /// The device must have time stamps.
    pub fn new(gpu: &Handle, passes: usize) -> Result<Self> {
        gpu.guarded(|| Clock {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * passes as u32,
            }),
            buffer: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: 16 * passes as u64,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            passes,
        })
    }

    /// A pass that is timed as number `index`.
    pub fn pass(&self, index: usize) -> wgpu::ComputePassDescriptor<'_> {
        wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(2 * index as u32),
                end_of_pass_write_index: Some(2 * index as u32 + 1),
            }),
        }
    }

    /// To be recorded after the passes.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2 * self.passes as u32, &self.buffer, 0);
    }

    /// Seconds of every pass; waits for the device.
    pub fn read(&self, gpu: &Handle) -> Result<Vec<f64>> {
        let words = read_now(gpu, (&self.buffer, 0, 16 * self.passes as u64))?;
        let tick = 1e-9 * f64::from(gpu.queue.get_timestamp_period());
        let stamps: Vec<u64> =
            words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        // A device that was reset between two stamps would give nonsense: never negative times.
        Ok(stamps.chunks_exact(2).map(|ends| ends[1].saturating_sub(ends[0]) as f64 * tick).collect())
    }
}
