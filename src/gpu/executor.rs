//! Runs a plan on a GPU: everything is made with the executor, a run only records and submits.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use half::f16;

use crate::ops::memory::Placement;
use crate::plan::{Data, Executor, Identity, Plan, Submitted, Upload};
use crate::tensor::{Element, Extents, Role, StepValues, TensorId};

use super::Gpu;
use super::buffers::{Part, make_buffers, part};
use super::choice::{Options, choose};
use super::kernels::Kernels;
use super::readback::{Readback, read_now};
use super::timestamps::{self, Clock, spans};
use super::uploads::{Copy, Uploads};

/// A run of so many ops is worth a submission of its own: the device begins with it while the next is recorded.
const LARGE: usize = 64;

/// What is recorded and not yet submitted: each submission costs the host more than it costs to record a phase.
struct Pending {
    encoder: wgpu::CommandEncoder,
    /// Whether there is a large run in it.
    large: bool,
}

/// The GPU executor.
pub struct GpuExecutor {
    gpu: Arc<Gpu>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    uniform: wgpu::Buffer,
    kernels: Kernels,
    pending: Option<Pending>,
    uploads: Uploads,
    readback: Readback,
    submitted: Submitted,
}

impl GpuExecutor {
    /// Allocates all memory of the plan, compiles its kernels and makes their bind groups.
    pub fn new(gpu: Arc<Gpu>, plan: Plan, options: Options) -> Result<Self> {
        let chosen = choose(&gpu, &plan, options)?;
        let buffers = make_buffers(&gpu, &plan)?;
        let uniform = gpu.guarded(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("step"),
                size: size_of::<StepValues>() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let batch: usize =
            plan.tensors.iter().filter(|t| t.role == Role::Batch).map(|t| t.elements() + 1).sum();
        let uploads = Uploads::new(&gpu, 4 * batch as u64)?;
        let kernels = Kernels::new(&gpu, &plan, &buffers, &uniform, &chosen, options.checked)?;
        let (readback, submitted, pending) = (Readback::default(), Submitted::default(), None);
        Ok(GpuExecutor { gpu, plan, buffers, uniform, kernels, pending, uploads, readback, submitted })
    }

    /// The strategy chosen for each op, in order.
    pub fn strategies(&self) -> Vec<&'static str> {
        self.kernels.strategies()
    }

    /// The place of a tensor that holds integers, or floats of either size.
    fn place(&self, tensor: TensorId, integers: bool, elements: usize) -> Result<Placement> {
        let (info, place) = (self.plan.info(tensor), self.plan.placement(tensor));
        if place.buffer >= self.buffers.len() || (info.element == Element::Uint) != integers {
            bail!("tensor {} holds no elements of this type", info.name);
        }
        if elements > place.length {
            bail!("{elements} elements do not fit into {} ({})", info.name, place.length);
        }
        // An odd number of f16 ends within a word: only at the end of the tensor is nothing behind it.
        if info.element == Element::Half && elements % 2 == 1 && elements < place.length {
            bail!("{elements} elements of half precision end within a word of {}", info.name);
        }
        Ok(place)
    }

    fn part(&self, tensor: TensorId) -> Part<'_> {
        part(&self.plan, &self.buffers, tensor)
    }

    /// Floats as the tensor holds them, in whole words.
    fn encode<'a>(&self, tensor: TensorId, data: &'a [f32]) -> Cow<'a, [u8]> {
        if self.plan.info(tensor).element == Element::Float {
            return bytemuck::cast_slice(data).into();
        }
        let mut rounded: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
        rounded.resize(data.len().next_multiple_of(2), f16::ZERO);
        rounded.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    /// Records the uploads and, after them, what `record` does, which returns the number of kernels launched.
    fn record(
        &mut self,
        values: &StepValues,
        uploads: &[Upload<'_>],
        record: impl FnOnce(&Self, &mut wgpu::CommandEncoder) -> Result<usize>,
    ) -> Result<()> {
        let of_upload = |upload: &Upload<'_>| match upload.data {
            Data::Uint(data) => Uploads::bytes(size_of_val(data)),
            Data::Float(data) => Uploads::bytes(size_of_val(data)),
        };
        let bytes = Uploads::bytes(size_of_val(values)) + uploads.iter().map(of_upload).sum::<u64>();
        if !self.uploads.fits(bytes) {
            self.flush()?;
        }
        let mut copies: Vec<Copy<'_>> = vec![(&self.uniform, 0, bytemuck::bytes_of(values).into())];
        for upload in uploads {
            let (place, bytes) = match upload.data {
                Data::Uint(data) => {
                    (self.place(upload.tensor, true, data.len())?, bytemuck::cast_slice(data).into())
                }
                Data::Float(data) => {
                    (self.place(upload.tensor, false, data.len())?, self.encode(upload.tensor, data))
                }
            };
            copies.push((&self.buffers[place.buffer], self.part(upload.tensor).1, bytes));
        }
        let mut pending = self.pending.take().unwrap_or_else(|| Pending::new(&self.gpu));
        self.uploads.record(&self.gpu, &mut pending.encoder, &copies)?;
        if let Some(tensor) = self.plan.loss_scale {
            let (buffer, offset, _) = self.part(tensor);
            let target = std::mem::offset_of!(StepValues, loss_scale) as u64;
            pending.encoder.copy_buffer_to_buffer(buffer, offset, &self.uniform, target, 4);
        }
        let launched = record(self, &mut pending.encoder);
        self.pending = Some(pending);
        self.submitted.dispatches += launched? as u64;
        Ok(())
    }

    fn submit(&mut self, pending: Pending) -> wgpu::SubmissionIndex {
        self.uploads.unmap();
        let submission = self.gpu.queue.submit([pending.encoder.finish()]);
        self.uploads.submitted(submission.clone());
        self.submitted.submissions += 1;
        submission
    }

    /// Submits what is recorded.
    fn flush(&mut self) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            self.submit(pending);
        }
        self.gpu.check()
    }

    /// When an op ran by the host's clock, submission and waiting included.
    fn by_the_wall_clock(&mut self, op: usize, values: &StepValues, begun: Instant) -> Result<Range<f64>> {
        self.finish()?;
        let start = begun.elapsed().as_secs_f64();
        self.run(op..op + 1, values, &[])?;
        self.finish()?;
        Ok(start..begun.elapsed().as_secs_f64())
    }

    fn record_ops(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        ops: Range<usize>,
        extents: &Extents,
    ) -> Result<usize> {
        self.kernels.record(pass, ops, extents, self.gpu.capabilities.workgroups as usize)
    }
}

impl Pending {
    fn new(gpu: &Gpu) -> Self {
        Pending { encoder: gpu.device.create_command_encoder(&Default::default()), large: false }
    }
}

impl Executor for GpuExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()> {
        let large = ops.len() >= LARGE;
        if large && self.pending.as_ref().is_some_and(|pending| pending.large) {
            self.flush()?;
        }
        let extents = values.extents();
        self.record(values, uploads, |executor, encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            executor.record_ops(&mut pass, ops, &extents)
        })?;
        if let Some(pending) = &mut self.pending {
            pending.large |= large;
        }
        Ok(())
    }

    fn timed(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<Range<f64>>> {
        let extents = values.extents();
        if !self.gpu.capabilities.timestamps {
            self.record(values, uploads, |_, _| Ok(0))?;
            let begun = Instant::now();
            return ops.map(|op| self.by_the_wall_clock(op, values, begun)).collect();
        }
        let mut stamps = Vec::with_capacity(2 * ops.len());
        let mut uploads = uploads;
        for first in ops.clone().step_by(timestamps::OPS) {
            let part = first..ops.end.min(first + timestamps::OPS);
            let clock = Clock::new(&self.gpu, part.len())?;
            self.record(values, uploads, |executor, encoder| {
                let mut launched = 0;
                for (index, op) in part.clone().enumerate() {
                    let mut pass = encoder.begin_compute_pass(&clock.pass(index));
                    launched += executor.record_ops(&mut pass, op..op + 1, &extents)?;
                }
                clock.resolve(encoder);
                Ok(launched)
            })?;
            self.flush()?;
            stamps.extend(clock.read(&self.gpu)?);
            uploads = &[];
        }
        Ok(spans(&stamps, 1e-9 * f64::from(self.gpu.queue.get_timestamp_period())))
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let waited = self.gpu.device.poll(wgpu::PollType::wait_indefinitely());
        self.gpu.check()?;
        waited.context("waiting for the device").map(|_| ())
    }

    fn strategy(&self, op: usize) -> &'static str {
        self.kernels.strategy(op)
    }

    fn rounds_operands(&self, op: usize) -> bool {
        self.kernels.rounds_operands(op)
    }

    fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()> {
        self.place(tensor, false, data.len())?;
        // Lands before the next submission and after the last, which is what callers expect.
        self.flush()?;
        let (buffer, offset, _) = self.part(tensor);
        self.gpu.queue.write_buffer(buffer, offset, &self.encode(tensor, data));
        self.gpu.check()
    }

    fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()> {
        self.place(tensor, true, data.len())?;
        self.flush()?;
        let (buffer, offset, _) = self.part(tensor);
        self.gpu.queue.write_buffer(buffer, offset, bytemuck::cast_slice(data));
        self.gpu.check()
    }

    fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
        let place = self.place(tensor, false, 0)?;
        self.flush()?;
        let words = read_now(&self.gpu, self.part(tensor))?;
        if self.plan.info(tensor).element == Element::Float {
            return Ok(bytemuck::cast_vec(words));
        }
        let elements = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
        Ok(elements.take(place.length).map(|bits| f16::from_bits(bits).to_f32()).collect())
    }

    fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>> {
        self.place(tensor, true, 0)?;
        self.flush()?;
        read_now(&self.gpu, self.part(tensor))
    }

    fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()> {
        let mut parts = Vec::with_capacity(tensors.len());
        for &tensor in tensors {
            self.place(tensor, self.plan.info(tensor).element == Element::Uint, 0)?;
            parts.push(part(&self.plan, &self.buffers, tensor));
        }
        let mut pending = self.pending.take().unwrap_or_else(|| Pending::new(&self.gpu));
        let recorded = self.readback.record(&self.gpu, &mut pending.encoder, tag, &parts);
        let submission = self.submit(pending);
        self.readback.submitted(recorded?, submission);
        self.gpu.check()
    }

    fn poll(&mut self, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        self.readback.poll(&self.gpu, wait)
    }

    fn identity(&self) -> Identity {
        let c = &self.gpu.capabilities;
        let [name, backend, driver] = [&c.name, &c.backend, &c.driver].map(String::clone);
        Identity::Gpu { name, kind: c.kind, backend, driver }
    }

    fn submitted(&self) -> Submitted {
        self.submitted
    }
}
