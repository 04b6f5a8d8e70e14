//! Runs a plan on a GPU: everything is made with the executor, a run only records and submits.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use half::f16;

use crate::ops::memory::Placement;
use crate::ops::{Dispatch, Grid};
use crate::plan::{Bound, Data, Executor, Identity, Plan, Upload};
use crate::tensor::{Element, Extents, Role, StepValues, TensorId};

use super::Gpu;
use super::buffers::make_buffers;
use super::choice::{Chosen, Options, choose, fold};
use super::pipelines::Pipeline;
use super::readback::{Readback, read_now};
use super::timestamps::{self, Clock};
use super::uploads::{Copy, Uploads};

/// A dispatch with everything that does not vary from step to step.
struct Kernel {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    immediates: Vec<u32>,
    grid: Grid,
}

/// The GPU executor.
pub struct GpuExecutor {
    gpu: Arc<Gpu>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    uniform: wgpu::Buffer,
    /// The kernels of every op, and the strategy they come from.
    kernels: Vec<(&'static str, Vec<Kernel>)>,
    /// Of every op, whether its kernels round operands that are f32 to f16.
    rounds: Vec<bool>,
    uploads: Uploads,
    readback: Readback,
}

impl GpuExecutor {
    /// Allocates all memory of the plan, compiles its kernels and makes their bind groups.
    pub fn new(gpu: Arc<Gpu>, plan: Plan, options: Options) -> Result<Self> {
        if plan.is_half() && !gpu.capabilities.half {
            bail!("{} has no half precision (SHADER_F16): use precision f32", gpu.capabilities.name);
        }
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
        let dispatches = chosen.iter().flat_map(|chosen| &chosen.dispatches);
        gpu.pipelines.compile_all(&gpu, dispatches, options.checked)?;
        let (kernels, readback) = (Vec::with_capacity(chosen.len()), Readback::default());
        let rounds = chosen.iter().map(|chosen| chosen.rounds).collect();
        let mut executor = GpuExecutor { gpu, plan, buffers, uniform, kernels, rounds, uploads, readback };
        for (index, Chosen { strategy, dispatches, .. }) in chosen.iter().enumerate() {
            let kernels = dispatches.iter().map(|(dispatch, bound)| {
                let place = || format!("{}: kernel {}", executor.plan.ops[index].label, dispatch.shader);
                executor.kernel(dispatch, bound, options.checked).with_context(place)
            });
            let kernels = kernels.collect::<Result<_>>()?;
            executor.kernels.push((*strategy, kernels));
        }
        Ok(executor)
    }

    /// The strategy chosen for each op, in order.
    pub fn strategies(&self) -> Vec<&'static str> {
        self.kernels.iter().map(|(strategy, _)| *strategy).collect()
    }

    fn kernel(&self, dispatch: &Dispatch, bound: &[Bound], checked: bool) -> Result<Kernel> {
        let pipeline = self.gpu.pipelines.get(dispatch, bound, checked)?;
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: self.uniform.as_entire_binding() }];
        for (index, binding) in bound.iter().enumerate() {
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffers[self.plan.placement(binding.tensor).buffer],
                offset: self.offset(binding.tensor),
                size: wgpu::BufferSize::new(self.bytes(binding.tensor)),
            });
            entries.push(wgpu::BindGroupEntry { binding: index as u32 + 1, resource });
        }
        let bind_group = self.gpu.guarded(|| {
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.shader),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        let (immediates, grid) = (dispatch.immediates.words.clone(), dispatch.grid.clone());
        Ok(Kernel { pipeline, bind_group, immediates, grid })
    }

    /// Where a tensor begins in its buffer, in bytes.
    fn offset(&self, tensor: TensorId) -> u64 {
        self.plan.info(tensor).element.bytes() * self.plan.placement(tensor).offset as u64
    }

    /// Bytes of a tensor, in whole words.
    fn bytes(&self, tensor: TensorId) -> u64 {
        let bytes = self.plan.info(tensor).element.bytes() * self.plan.placement(tensor).length as u64;
        bytes.next_multiple_of(4)
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

    fn part(&self, tensor: TensorId) -> (&wgpu::Buffer, u64, u64) {
        let buffer = &self.buffers[self.plan.placement(tensor).buffer];
        (buffer, self.offset(tensor), self.bytes(tensor))
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

    /// Submits the uploads and what `record` records after them.
    fn submit(
        &mut self,
        values: &StepValues,
        uploads: &[Upload<'_>],
        record: impl FnOnce(&Self, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
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
            copies.push((&self.buffers[place.buffer], self.offset(upload.tensor), bytes));
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.uploads.record(&self.gpu, &mut encoder, &copies)?;
        if let Some(tensor) = self.plan.loss_scale {
            let (buffer, offset, _) = self.part(tensor);
            let target = std::mem::offset_of!(StepValues, loss_scale) as u64;
            encoder.copy_buffer_to_buffer(buffer, offset, &self.uniform, target, 4);
        }
        let recorded = record(self, &mut encoder);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        self.uploads.submitted(submission);
        recorded?;
        self.gpu.check()
    }

    /// Seconds of an op by the host's clock, submission and waiting included.
    fn by_the_wall_clock(&mut self, op: usize, values: &StepValues) -> Result<f64> {
        self.finish()?;
        let since = Instant::now();
        self.run(op..op + 1, values, &[])?;
        self.finish()?;
        Ok(since.elapsed().as_secs_f64())
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, ops: Range<usize>, extents: &Extents) -> Result<()> {
        let mut pipeline: Option<&Arc<Pipeline>> = None;
        for kernel in self.kernels[ops].iter().flat_map(|(_, kernels)| kernels) {
            let workgroups = kernel.grid.workgroups(extents);
            if workgroups == 0 {
                continue;
            }
            let [x, y] = fold(workgroups, self.gpu.capabilities.workgroups as usize)?;
            if !pipeline.is_some_and(|last| Arc::ptr_eq(last, &kernel.pipeline)) {
                pass.set_pipeline(&kernel.pipeline.pipeline);
                pipeline = Some(&kernel.pipeline);
            }
            pass.set_bind_group(0, &kernel.bind_group, &[]);
            if !kernel.immediates.is_empty() {
                pass.set_immediates(0, bytemuck::cast_slice(&kernel.immediates));
            }
            pass.dispatch_workgroups(x, y, 1);
        }
        Ok(())
    }
}

impl Executor for GpuExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()> {
        let extents = values.extents();
        self.submit(values, uploads, |executor, encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            executor.record(&mut pass, ops, &extents)
        })
    }

    fn profile(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<f64>> {
        let extents = values.extents();
        if !self.gpu.capabilities.timestamps {
            self.submit(values, uploads, |_, _| Ok(()))?;
            return ops.map(|op| self.by_the_wall_clock(op, values)).collect();
        }
        let mut seconds = Vec::with_capacity(ops.len());
        let mut uploads = uploads;
        for first in ops.clone().step_by(timestamps::OPS) {
            let part = first..ops.end.min(first + timestamps::OPS);
            let clock = Clock::new(&self.gpu, part.len())?;
            self.submit(values, uploads, |executor, encoder| {
                for (index, op) in part.clone().enumerate() {
                    let mut pass = encoder.begin_compute_pass(&clock.pass(index));
                    executor.record(&mut pass, op..op + 1, &extents)?;
                }
                clock.resolve(encoder);
                Ok(())
            })?;
            seconds.extend(clock.read(&self.gpu)?);
            uploads = &[];
        }
        Ok(seconds)
    }

    fn finish(&mut self) -> Result<()> {
        let waited = self.gpu.device.poll(wgpu::PollType::wait_indefinitely());
        self.gpu.check()?;
        waited.context("waiting for the device").map(|_| ())
    }

    fn strategy(&self, op: usize) -> &'static str {
        self.kernels[op].0
    }

    fn rounds_operands(&self, op: usize) -> bool {
        self.rounds[op]
    }

    fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()> {
        let place = self.place(tensor, false, data.len())?;
        let buffer = &self.buffers[place.buffer];
        // Lands before the next submission and after the last, which is what callers expect.
        self.gpu.queue.write_buffer(buffer, self.offset(tensor), &self.encode(tensor, data));
        self.gpu.check()
    }

    fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()> {
        let place = self.place(tensor, true, data.len())?;
        let buffer = &self.buffers[place.buffer];
        self.gpu.queue.write_buffer(buffer, self.offset(tensor), bytemuck::cast_slice(data));
        self.gpu.check()
    }

    fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
        let place = self.place(tensor, false, 0)?;
        let words = read_now(&self.gpu, self.part(tensor))?;
        if self.plan.info(tensor).element == Element::Float {
            return Ok(bytemuck::cast_vec(words));
        }
        let elements = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
        Ok(elements.take(place.length).map(|bits| f16::from_bits(bits).to_f32()).collect())
    }

    fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>> {
        self.place(tensor, true, 0)?;
        read_now(&self.gpu, self.part(tensor))
    }

    fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()> {
        let mut parts = Vec::with_capacity(tensors.len());
        for &tensor in tensors {
            self.place(tensor, self.plan.info(tensor).element == Element::Uint, 0)?;
            let buffer = &self.buffers[self.plan.placement(tensor).buffer];
            parts.push((buffer, self.offset(tensor), self.bytes(tensor)));
        }
        self.readback.request(&self.gpu, tag, &parts)
    }

    fn poll(&mut self, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        self.readback.poll(&self.gpu, wait)
    }

    fn identity(&self) -> Identity {
        let c = &self.gpu.capabilities;
        let [name, backend, driver] = [&c.name, &c.backend, &c.driver].map(String::clone);
        Identity::Gpu { name, kind: c.kind, backend, driver }
    }
}
