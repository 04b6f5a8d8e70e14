//! The device's own clock: how long each op of a profiled run took.

use std::ops::Range;

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

    /// When every pass began and ended, in ticks; waits for the device.
    pub fn read(&self, gpu: &Handle) -> Result<Vec<u64>> {
        let words = read_now(gpu, (&self.buffer, 0, 16 * self.passes as u64))?;
        Ok(words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect())
    }
}

/// Stamps of passes as seconds since the first.
pub(super) fn spans(stamps: &[u64], tick: f64) -> Vec<Range<f64>> {
    let first = stamps.first().copied().unwrap_or_default();
    let seconds = |ticks: u64, since: u64| ticks.saturating_sub(since) as f64 * tick;
    // A device that was reset between two stamps would give nonsense: never negative times.
    let spans = stamps.chunks_exact(2).map(|ends| (seconds(ends[0], first), seconds(ends[1], ends[0])));
    spans.map(|(start, length)| start..start + length).collect()
}
