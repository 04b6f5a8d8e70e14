//! Uploads that travel with their own submission.
//!
//! A run copies its data from a mapped buffer of its own, by commands recorded before its dispatches, so that
//! no run in flight sees what was meant for the next. The number of these buffers bounds the runs in flight.

use std::borrow::Cow;

use anyhow::{Context, Result};

use super::handle::{Handle, Mapping};

/// Runs that may be submitted and not yet done. With three, an H100 stood idle while the host recorded: 2.7 ms of a step
/// of `small`; with twelve it did not (docs/benchmarks/2026-11-27-h100.md). A run is a phase: three or more a step.
const IN_FLIGHT: usize = 12;

struct Slot {
    buffer: wgpu::Buffer,
    /// The last submission that used the buffer, and the mapping after it; none where it was made mapped.
    in_flight: Option<(wgpu::SubmissionIndex, Mapping)>,
}

/// A ring of upload buffers.
pub(super) struct Uploads {
    slots: Vec<Slot>,
    next: usize,
}

/// Data on its way into a buffer: target, byte offset in it, bytes.
pub(super) type Copy<'a> = (&'a wgpu::Buffer, u64, Cow<'a, [u8]>);

impl Uploads {
    /// `bytes`: what a run usually uploads; more makes a buffer grow once.
    pub fn new(gpu: &Handle, bytes: u64) -> Result<Self> {
        let slots = (0..IN_FLIGHT).map(|_| Slot::new(gpu, bytes)).collect::<Result<_>>()?;
        Ok(Uploads { slots, next: 0 })
    }

    /// Records the copies. Waits while too many runs are in flight. Call `submitted` after the submission.
    pub fn record(
        &mut self,
        gpu: &Handle,
        encoder: &mut wgpu::CommandEncoder,
        copies: &[Copy<'_>],
    ) -> Result<()> {
        let slot = &mut self.slots[self.next];
        slot.make_ready(gpu)?;
        let total: u64 = copies.iter().map(|(_, _, data)| data.len() as u64).sum();
        if total > slot.buffer.size() {
            *slot = Slot::new(gpu, total)?;
        }
        let mut offset = 0;
        for (target, at, data) in copies.iter().filter(|(_, _, data)| !data.is_empty()) {
            let bytes = data.len() as u64;
            let mut view = slot.buffer.get_mapped_range_mut(offset..offset + bytes)?;
            view.copy_from_slice(data);
            drop(view);
            encoder.copy_buffer_to_buffer(&slot.buffer, offset, target, *at, bytes);
            // Mapped ranges start at multiples of 8.
            offset += bytes.next_multiple_of(8);
        }
        slot.buffer.unmap();
        Ok(())
    }

    /// Maps the buffer again as soon as its submission is done.
    pub fn submitted(&mut self, submission: wgpu::SubmissionIndex) {
        let slot = &mut self.slots[self.next];
        let mapping = Mapping::start(&slot.buffer, wgpu::MapMode::Write);
        slot.in_flight = Some((submission, mapping));
        self.next = (self.next + 1) % IN_FLIGHT;
    }
}

impl Slot {
    fn new(gpu: &Handle, bytes: u64) -> Result<Self> {
        let buffer = gpu
            .guarded(|| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("uploads"),
                    size: bytes.next_multiple_of(256) + 1024,
                    usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                })
            })
            .context("making an upload buffer")?;
        Ok(Slot { buffer, in_flight: None })
    }

    fn make_ready(&mut self, gpu: &Handle) -> Result<()> {
        match self.in_flight.take() {
            Some((submission, mapping)) => gpu.wait(submission, &mapping),
            None => Ok(()),
        }
    }
}
