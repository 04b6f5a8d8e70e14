//! Copies of tensors to the host, without stalling the device.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};

use super::buffers::Part;
use super::handle::{Handle, Mapping};

/// A copy that was recorded.
pub(super) struct Recorded {
    tag: u64,
    buffer: wgpu::Buffer,
    /// Words of each tensor in the order asked for.
    words: Vec<usize>,
}

struct Request {
    recorded: Recorded,
    mapping: Mapping,
    submission: wgpu::SubmissionIndex,
}

/// Queued copies, oldest first, and the buffers that wait to be used again.
#[derive(Default)]
pub(super) struct Readback {
    queue: VecDeque<Request>,
    spare: Vec<wgpu::Buffer>,
}

impl Readback {
    /// Records a copy of `parts`, as they are after everything recorded so far. Call `submitted` after the submission.
    pub fn record(
        &mut self,
        gpu: &Handle,
        encoder: &mut wgpu::CommandEncoder,
        tag: u64,
        parts: &[Part<'_>],
    ) -> Result<Recorded> {
        let bytes: u64 = parts.iter().map(|part| part.2).sum();
        let fitting = self.spare.iter().position(|buffer| buffer.size() >= bytes);
        let buffer = match fitting {
            Some(index) => self.spare.swap_remove(index),
            None => gpu.guarded(|| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("readback"),
                    size: bytes.next_multiple_of(256).max(256),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })?,
        };
        let mut offset = 0;
        for &(source, at, bytes) in parts {
            encoder.copy_buffer_to_buffer(source, at, &buffer, offset, bytes);
            offset += bytes;
        }
        Ok(Recorded { tag, buffer, words: parts.iter().map(|part| part.2 as usize / 4).collect() })
    }

    /// Queues a copy that was submitted.
    pub fn submitted(&mut self, recorded: Recorded, submission: wgpu::SubmissionIndex) {
        let mapping = Mapping::start(&recorded.buffer, wgpu::MapMode::Read);
        self.queue.push_back(Request { recorded, mapping, submission });
    }

    /// The oldest copy if it has arrived (or, if `wait`, as soon as it has).
    pub fn poll(&mut self, gpu: &Handle, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        let Some(oldest) = self.queue.front() else { return Ok(None) };
        if wait {
            gpu.wait(oldest.submission.clone(), &oldest.mapping)?;
        } else {
            let polled = gpu.device.poll(wgpu::PollType::Poll);
            gpu.check()?;
            polled.context("asking the device for results")?;
            if oldest.mapping.pending() {
                return Ok(None);
            }
            gpu.check()?;
            if !oldest.mapping.ready() {
                bail!("{}: results could not be read back", gpu.capabilities.name);
            }
        }
        let Some(Request { recorded: request, .. }) = self.queue.pop_front() else { return Ok(None) };
        let view = request.buffer.get_mapped_range(..)?;
        let mut bytes: &[u8] = &view;
        let mut tensors = Vec::with_capacity(request.words.len());
        for words in request.words {
            let (head, tail) = bytes.split_at(4 * words);
            tensors.push(bytemuck::pod_collect_to_vec(head));
            bytes = tail;
        }
        drop(view);
        request.buffer.unmap();
        self.spare.push(request.buffer);
        Ok(Some((request.tag, tensors)))
    }
}

/// One part of a buffer, waited for, in pieces that keep the staging memory small.
pub(super) fn read_now(gpu: &Handle, (buffer, offset, bytes): Part<'_>) -> Result<Vec<u32>> {
    const PIECE: u64 = 64 << 20;
    let mut readback = Readback::default();
    let mut words = Vec::with_capacity(bytes as usize / 4);
    let mut done = 0;
    while done < bytes {
        let piece = PIECE.min(bytes - done);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let recorded = readback.record(gpu, &mut encoder, 0, &[(buffer, offset + done, piece)])?;
        let submission = gpu.queue.submit([encoder.finish()]);
        readback.submitted(recorded, submission);
        gpu.check()?;
        let (_, mut tensors) = readback.poll(gpu, true)?.context("a copy that was just queued")?;
        words.append(&mut tensors[0]);
        done += piece;
    }
    Ok(words)
}
