//! Uploads that travel with their own submission.
//!
//! A run copies its data from a mapped buffer, by commands recorded before its dispatches, so that no run in flight sees
//! what was meant for the next. Each submission has a buffer of its own; their number bounds the submissions in flight.

use std::borrow::Cow;

use anyhow::{Context, Result};

use super::handle::{Handle, Mapping};

/// Submissions that may be on their way. With three, one a phase, an H100 stood idle while the host recorded: 2.7 ms of a
/// step of `small`; with twelve it did not (docs/benchmarks/2026-11-27-h100.md). A step has one for each micro-batch.
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
    /// Bytes that runs not yet submitted have taken of the next.
    used: u64,
}

/// Data on its way into a buffer: target, byte offset in it, bytes.
pub(super) type Copy<'a> = (&'a wgpu::Buffer, u64, Cow<'a, [u8]>);

impl Uploads {
    /// `bytes`: what a run usually uploads; more makes a buffer grow once.
    pub fn new(gpu: &Handle, bytes: u64) -> Result<Self> {
        let slots = (0..IN_FLIGHT).map(|_| Slot::new(gpu, bytes)).collect::<Result<_>>()?;
        Ok(Uploads { slots, next: 0, used: 0 })
    }

    /// Whether as much may be recorded before the next submission.
    pub fn fits(&self, bytes: u64) -> bool {
        self.used == 0 || self.used + bytes <= self.slots[self.next].buffer.size()
    }

    /// Bytes that data takes: mapped ranges start at multiples of 8.
    pub fn bytes(data: usize) -> u64 {
        (data as u64).next_multiple_of(8)
    }

    /// Records the copies, which must fit. Waits while too many submissions are in flight. Call `unmap` before the
    /// submission and `submitted` after it.
    pub fn record(
        &mut self,
        gpu: &Handle,
        encoder: &mut wgpu::CommandEncoder,
        copies: &[Copy<'_>],
    ) -> Result<()> {
        let slot = &mut self.slots[self.next];
        if self.used == 0 {
            slot.make_ready(gpu)?;
            let total: u64 = copies.iter().map(|(_, _, data)| Self::bytes(data.len())).sum();
            if total > slot.buffer.size() {
                *slot = Slot::new(gpu, total)?;
            }
        }
        for (target, at, data) in copies.iter().filter(|(_, _, data)| !data.is_empty()) {
            let bytes = data.len() as u64;
            let mut view = slot.buffer.get_mapped_range_mut(self.used..self.used + bytes)?;
            view.copy_from_slice(data);
            drop(view);
            encoder.copy_buffer_to_buffer(&slot.buffer, self.used, target, *at, bytes);
            self.used += Self::bytes(data.len());
        }
        Ok(())
    }

    /// Ends what is recorded: the buffer belongs to the device until its submission is done.
    pub fn unmap(&self) {
        if self.used > 0 {
            self.slots[self.next].buffer.unmap();
        }
    }

    /// Maps the buffer again as soon as its submission is done.
    pub fn submitted(&mut self, submission: wgpu::SubmissionIndex) {
        if std::mem::take(&mut self.used) == 0 {
            return;
        }
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
