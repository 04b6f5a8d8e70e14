//! The kernels of a plan's ops, ready to be recorded.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::ops::{Dispatch, Grid};
use crate::plan::Plan;
use crate::tensor::Extents;

use super::Gpu;
use super::buffers::{Part, part};
use super::choice::{Chosen, fold};
use super::pipelines::{Pipeline, Slot};
use super::sums::{self, SumDispatch};

/// A dispatch with everything that does not vary from step to step.
struct Kernel {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    immediates: Vec<u32>,
    grid: Grid,
}

/// The kernels of an op, and the strategy they come from.
struct OpKernels {
    strategy: &'static str,
    /// They round operands that are f32 to f16.
    rounds: bool,
    kernels: Vec<Kernel>,
    /// Those that add its partial sums up, where they do not wait for others.
    sums: Vec<Kernel>,
    /// The group with which they may wait.
    group: Option<usize>,
}

/// Those that add up the partial sums of several ops.
struct GroupKernels {
    first: usize,
    last: usize,
    sums: Vec<Kernel>,
}

/// All kernels of a plan.
pub(super) struct Kernels {
    ops: Vec<OpKernels>,
    groups: Vec<GroupKernels>,
}

impl Kernels {
    /// Compiles what was chosen and makes its bind groups.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        buffers: &[wgpu::Buffer],
        uniform: &wgpu::Buffer,
        chosen: &[Chosen],
        checked: bool,
    ) -> Result<Self> {
        let sums = AllSums::new(gpu, plan)?;
        let of_ops = chosen.iter().flat_map(|chosen| &chosen.dispatches);
        let of_ops = of_ops.map(|(dispatch, bound)| (dispatch, bound.iter().map(|b| b.slot()).collect()));
        let of_sums: Vec<(Dispatch, Vec<Slot>)> =
            sums.iter().map(|sums| (sums.dispatch(), sums.slots())).collect();
        let of_sums = of_sums.iter().map(|(dispatch, slots)| (dispatch, slots.clone()));
        gpu.pipelines.compile_all(gpu, of_ops.chain(of_sums), checked)?;

        let table = sums.table(gpu)?;
        let maker = Maker { gpu, plan, buffers, uniform, checked };
        let mut places = sums.places().into_iter();
        let mut add_up = |dispatches: &[SumDispatch]| -> Result<Vec<Kernel>> {
            let with_places = dispatches.iter().zip(&mut places);
            with_places.map(|(sums, place)| maker.sum(sums, &table, place)).collect()
        };
        let mut ops = Vec::with_capacity(chosen.len());
        for (op, &Chosen { strategy, rounds, ref dispatches }) in chosen.iter().enumerate() {
            let kernels = dispatches.iter().map(|(dispatch, bound)| {
                let slots: Vec<Slot> = bound.iter().map(|binding| binding.slot()).collect();
                let parts = bound.iter().map(|binding| part(plan, buffers, binding.tensor));
                let place = || format!("{}: kernel {}", plan.ops[op].label, dispatch.shader);
                maker.kernel(dispatch, &slots, parts).with_context(place)
            });
            let kernels = kernels.collect::<Result<_>>()?;
            let group = plan.sum_groups.iter().position(|group| group.ops.contains(&op));
            ops.push(OpKernels { strategy, rounds, kernels, sums: add_up(&sums.alone[op])?, group });
        }
        let mut groups = Vec::with_capacity(plan.sum_groups.len());
        for (group, together) in plan.sum_groups.iter().zip(&sums.together) {
            let (first, last) = (group.first(), group.last());
            groups.push(GroupKernels { first, last, sums: add_up(together)? });
        }
        Ok(Kernels { ops, groups })
    }

    pub fn strategy(&self, op: usize) -> &'static str {
        self.ops[op].strategy
    }

    pub fn rounds_operands(&self, op: usize) -> bool {
        self.ops[op].rounds
    }

    pub fn strategies(&self) -> Vec<&'static str> {
        self.ops.iter().map(|op| op.strategy).collect()
    }

    /// Records the kernels of these ops; how many there were to launch. Partial sums wait for those of their group where
    /// all of it is recorded.
    pub fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        ops: Range<usize>,
        extents: &Extents,
        most_workgroups: usize,
    ) -> Result<usize> {
        let mut recorder = Recorder { pass, extents, most_workgroups, pipeline: None, launched: 0 };
        for op in ops.clone() {
            let OpKernels { kernels, sums, group, .. } = &self.ops[op];
            recorder.record(kernels)?;
            let group = group.map(|group| &self.groups[group]);
            match group.filter(|group| ops.contains(&group.first) && ops.contains(&group.last)) {
                Some(group) if group.last == op => recorder.record(&group.sums)?,
                Some(_) => {}
                None => recorder.record(sums)?,
            }
        }
        Ok(recorder.launched)
    }
}

/// Records kernels into a pass.
struct Recorder<'a, 'p> {
    pass: &'a mut wgpu::ComputePass<'p>,
    extents: &'a Extents,
    most_workgroups: usize,
    /// The one that is set.
    pipeline: Option<&'a Arc<Pipeline>>,
    launched: usize,
}

impl<'a> Recorder<'a, '_> {
    fn record(&mut self, kernels: &'a [Kernel]) -> Result<()> {
        for kernel in kernels {
            let workgroups = kernel.grid.workgroups(self.extents);
            if workgroups == 0 {
                continue;
            }
            let [x, y] = fold(workgroups, self.most_workgroups)?;
            if !self.pipeline.is_some_and(|last| Arc::ptr_eq(last, &kernel.pipeline)) {
                self.pass.set_pipeline(&kernel.pipeline.pipeline);
                self.pipeline = Some(&kernel.pipeline);
            }
            self.pass.set_bind_group(0, &kernel.bind_group, &[]);
            if !kernel.immediates.is_empty() {
                self.pass.set_immediates(0, bytemuck::cast_slice(&kernel.immediates));
            }
            self.pass.dispatch_workgroups(x, y, 1);
            self.launched += 1;
        }
        Ok(())
    }
}

/// The sums of every op alone, and of every group together.
struct AllSums {
    alone: Vec<Vec<SumDispatch>>,
    together: Vec<Vec<SumDispatch>>,
}

impl AllSums {
    fn new(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        let of = |ops: &[usize]| sums::dispatches(plan, ops, &gpu.capabilities);
        Ok(AllSums {
            alone: (0..plan.ops.len()).map(|op| of(&[op])).collect::<Result<_>>()?,
            together: plan.sum_groups.iter().map(|group| of(&group.ops)).collect::<Result<_>>()?,
        })
    }

    fn iter(&self) -> impl Iterator<Item = &SumDispatch> {
        self.alone.iter().chain(&self.together).flatten()
    }

    /// Where the segments of each lie in the table: byte offset and bytes.
    fn places(&self) -> Vec<(u64, u64)> {
        let mut end: u64 = 0;
        let mut place = |sums: &SumDispatch| {
            let bytes = size_of_val(&sums.segments[..]) as u64;
            let start = end.next_multiple_of(256);
            end = start + bytes;
            (start, bytes)
        };
        self.iter().map(&mut place).collect()
    }

    /// A buffer with the segments of all.
    fn table(&self, gpu: &Gpu) -> Result<wgpu::Buffer> {
        let places = self.places();
        let size = places.last().map_or(256, |(start, bytes)| start + bytes).next_multiple_of(256);
        let buffer = gpu.guarded(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("sums"),
                size,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: true,
            })
        })?;
        let mut bytes = vec![0; size as usize];
        for (sums, (start, length)) in self.iter().zip(places) {
            let place = start as usize..(start + length) as usize;
            bytes[place].copy_from_slice(bytemuck::cast_slice(&sums.segments));
        }
        let mut view = buffer.get_mapped_range_mut(..)?;
        view.copy_from_slice(&bytes);
        drop(view);
        buffer.unmap();
        Ok(buffer)
    }
}

/// What kernels are made with.
struct Maker<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    buffers: &'a [wgpu::Buffer],
    uniform: &'a wgpu::Buffer,
    checked: bool,
}

impl Maker<'_> {
    fn kernel<'b>(
        &self,
        dispatch: &Dispatch,
        slots: &[Slot],
        parts: impl Iterator<Item = Part<'b>>,
    ) -> Result<Kernel> {
        let pipeline = self.gpu.pipelines.get(dispatch, slots, self.checked)?;
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: self.uniform.as_entire_binding() }];
        for (index, (buffer, offset, bytes)) in parts.enumerate() {
            let size = wgpu::BufferSize::new(bytes);
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
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

    /// `place` is that of its segments in the table.
    fn sum(&self, sums: &SumDispatch, table: &wgpu::Buffer, place: (u64, u64)) -> Result<Kernel> {
        let partials = sums.tensors.iter().map(|&tensor| part(self.plan, self.buffers, tensor));
        let [start, elements] = [sums.targets.start, sums.targets.len()].map(|n| 4 * n as u64);
        let targets = (&self.buffers[sums.buffer], start, elements);
        let parts = partials.chain([targets, (table, place.0, place.1)]);
        self.kernel(&sums.dispatch(), &sums.slots(), parts).context("partial sums")
    }
}
