//! Where tensors lie: flat buffers for parameters, coloured buffers for what lives within a micro-batch.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Result, bail};

use crate::ops::memory::Placement;
use crate::tensor::{Element, Role, Rows, TensorId, TensorInfo};

use super::{Parameter, PlanBuilder, SumGroup};

/// Every tensor of a flat buffer starts at a multiple of 256 bytes: the strictest alignment WebGPU asks of
/// a storage binding.
const ALIGNMENT: usize = 64;

/// One buffer of device memory.
#[derive(Clone, Debug)]
pub struct BufferInfo {
    pub elements: usize,
    pub element: Element,
    /// The role of what lies in it; `Activation` for all coloured buffers.
    pub role: Role,
}

impl BufferInfo {
    /// Bytes on the GPU, in whole words.
    pub fn bytes(&self) -> u64 {
        (self.elements as u64 * self.element.bytes()).next_multiple_of(4)
    }
}

/// A range of the flat parameter buffers: the same elements of values, gradients and moments.
#[derive(Clone, Copy, Debug)]
pub struct ParameterRange {
    pub value: TensorId,
    pub gradient: TensorId,
    pub first_moment: TensorId,
    pub second_moment: TensorId,
    pub elements: usize,
    pub decays: bool,
    /// Factor on the learning rate.
    pub rate: f32,
}

/// A tensor that is a range of a flat buffer.
pub(super) struct Alias {
    tensor: TensorId,
    offset: usize,
}

/// Parameters that the optimiser treats alike, side by side in the flat buffers.
struct Kind {
    decays: bool,
    rate: f32,
    elements: Range<usize>,
    /// Of these, what is updated: all, or runs of neighbours.
    trained: Vec<Range<usize>>,
}

/// Offsets of the parameters, by index, and the kinds in order: those that decay first, then by where a learning
/// rate is first met.
fn flat_layout(builder: &PlanBuilder) -> (Vec<usize>, Vec<Kind>) {
    let mut offsets = vec![0; builder.parameters.len()];
    let mut kinds: Vec<Kind> = Vec::new();
    for decays in [true, false] {
        for parameter in builder.parameters.iter().filter(|parameter| parameter.decays == decays) {
            let rate = parameter.rate;
            if !kinds.iter().any(|kind| kind.decays == decays && kind.rate == rate) {
                kinds.push(Kind { decays, rate, elements: 0..0, trained: Vec::new() });
            }
        }
    }
    let mut end = 0;
    for kind in &mut kinds {
        let start = end;
        for (index, parameter) in builder.parameters.iter().enumerate() {
            if parameter.decays == kind.decays && parameter.rate == kind.rate {
                offsets[index] = end;
                let elements = (parameter.rows * parameter.columns).next_multiple_of(ALIGNMENT);
                match kind.trained.last_mut().filter(|before| before.end == end) {
                    _ if !parameter.trains => {}
                    Some(before) => before.end += elements,
                    None => kind.trained.push(end..end + elements),
                }
                end += elements;
            }
        }
        kind.elements = start..end;
    }
    (offsets, kinds)
}

pub(super) fn parameter_ranges(builder: &mut PlanBuilder, limit: usize) -> Vec<ParameterRange> {
    let limit = limit / ALIGNMENT * ALIGNMENT;
    let (_, kinds) = flat_layout(builder);
    let mut ranges = Vec::new();
    let trained = |kind: Kind| kind.trained.into_iter().map(move |range| (kind.decays, kind.rate, range));
    for (decays, rate, Range { start, end }) in kinds.into_iter().flat_map(trained) {
        for offset in (start..end).step_by(limit) {
            let elements = limit.min(end - offset);
            let mut alias = |role| {
                let tensor = TensorId(builder.tensors.len() as u32);
                builder.tensors.push(TensorInfo {
                    name: format!("parameters.{}", ranges.len()),
                    rows: Rows::fixed(elements),
                    columns: 1,
                    element: Element::Float,
                    role,
                });
                builder.aliases.push(Alias { tensor, offset });
                tensor
            };
            let range = ParameterRange {
                value: alias(Role::Parameter),
                gradient: alias(Role::Gradient),
                first_moment: alias(Role::FirstMoment),
                second_moment: alias(Role::SecondMoment),
                elements,
                decays,
                rate,
            };
            ranges.push(range);
        }
    }
    ranges
}

/// First and last op that touches each tensor; partial sums and their targets live until those of their group are added
/// up.
fn lifetimes(builder: &PlanBuilder, sums: &[SumGroup]) -> Vec<Option<(usize, usize)>> {
    let mut lifetimes = vec![None; builder.tensors.len()];
    for (index, op) in builder.ops.iter().enumerate() {
        for id in op.tensors.iter().map(|used| used.tensor) {
            let life = &mut lifetimes[id.0 as usize];
            let first = life.map_or(index, |(first, _)| first);
            *life = Some((first, index));
        }
    }
    for group in sums {
        for sums in group.ops.iter().filter_map(|&op| builder.ops[op].op.sums()) {
            let targets = sums.targets.iter().map(|target| target.tensor);
            for id in targets.chain([sums.partials]) {
                if let Some((_, last)) = &mut lifetimes[id.0 as usize] {
                    *last = group.last().max(*last);
                }
            }
        }
    }
    lifetimes
}

/// A shared buffer: its index, element type, and the lives (first and last op) of the tensors in it.
type Colour = (usize, Element, Vec<(usize, usize)>);

pub(super) fn assign(
    builder: &PlanBuilder,
    sums: &[SumGroup],
    keep: &[TensorId],
) -> Result<(Vec<BufferInfo>, Vec<Placement>)> {
    let mut memory = Assignment {
        builder,
        lifetimes: lifetimes(builder, sums),
        buffers: Vec::new(),
        placements: vec![NOWHERE; builder.tensors.len()],
    };
    memory.flat();
    let shared = memory.own(keep);
    memory.colour(shared);
    check(builder, &memory.placements)?;
    Ok((memory.buffers, memory.placements))
}

const NOWHERE: Placement = Placement { buffer: usize::MAX, offset: 0, length: 0 };

/// Memory as far as it is assigned.
struct Assignment<'a> {
    builder: &'a PlanBuilder,
    lifetimes: Vec<Option<(usize, usize)>>,
    buffers: Vec<BufferInfo>,
    placements: Vec<Placement>,
}

impl Assignment<'_> {
    /// A new buffer for a tensor; its index.
    fn buffer(&mut self, info: &TensorInfo, role: Role) -> usize {
        self.buffers.push(BufferInfo { elements: info.elements().max(1), element: info.element, role });
        self.buffers.len() - 1
    }

    /// Parameters, gradients and moments: four flat buffers of one layout.
    fn flat(&mut self) {
        let builder = self.builder;
        let (offsets, kinds) = flat_layout(builder);
        let elements = kinds.last().map_or(0, |kind| kind.elements.end);
        let mut flat = HashMap::new();
        if !builder.parameters.is_empty() {
            for role in [Role::Parameter, Role::Gradient, Role::FirstMoment, Role::SecondMoment] {
                // A plan without backward ops has neither gradients nor moments.
                let mut tensors = builder.tensors.iter().zip(&self.lifetimes);
                let used = tensors.any(|(tensor, life)| tensor.role == role && life.is_some());
                if !used && role != Role::Parameter {
                    continue;
                }
                flat.insert(role, self.buffers.len());
                self.buffers.push(BufferInfo { elements, element: Element::Float, role });
            }
        }
        let of_parameters = builder.parameters.iter().zip(offsets).flat_map(|(parameter, offset)| {
            let Parameter { value, gradient, first_moment, second_moment, .. } = parameter;
            [value, gradient, first_moment, second_moment].map(|&tensor| (tensor, offset))
        });
        let of_ranges = builder.aliases.iter().map(|alias| (alias.tensor, alias.offset));
        for (tensor, offset) in of_parameters.chain(of_ranges) {
            let info = builder.info(tensor);
            if let Some(&buffer) = flat.get(&info.role) {
                self.placements[tensor.0 as usize] = Placement { buffer, offset, length: info.elements() };
            }
        }
    }

    /// A buffer each for what outlives the micro-batch, or is read from outside; returns the rest that is used.
    fn own(&mut self, keep: &[TensorId]) -> Vec<usize> {
        let builder = self.builder;
        let mut shared = Vec::new();
        for (index, info) in builder.tensors.iter().enumerate() {
            let of_parameters = info.role <= Role::SecondMoment;
            if self.placements[index] != NOWHERE || of_parameters {
                continue;
            }
            let transient = matches!(info.role, Role::Activation | Role::ActivationGradient | Role::Scratch);
            if transient && !keep.contains(&TensorId(index as u32)) {
                if self.lifetimes[index].is_some() {
                    shared.push(index);
                }
                continue;
            }
            let buffer = self.buffer(info, info.role);
            self.placements[index] = Placement { buffer, offset: 0, length: info.elements() };
        }
        shared
    }

    /// Places tensors by lifetime: the largest first, each into the first buffer that is free all its life.
    fn colour(&mut self, mut tensors: Vec<usize>) {
        let builder = self.builder;
        tensors.sort_by_key(|&index| (std::cmp::Reverse(builder.tensors[index].elements()), index));
        let mut colours: Vec<Colour> = Vec::new();
        for index in tensors {
            let info = &builder.tensors[index];
            let Some((first, last)) = self.lifetimes[index] else { continue };
            let free = colours.iter_mut().find(|(_, element, lives)| {
                *element == info.element && lives.iter().all(|&(start, end)| last < start || end < first)
            });
            let buffer = match free {
                Some((buffer, _, lives)) => {
                    lives.push((first, last));
                    *buffer
                }
                None => {
                    let buffer = self.buffer(info, Role::Activation);
                    colours.push((buffer, info.element, vec![(first, last)]));
                    buffer
                }
            };
            self.placements[index] = Placement { buffer, offset: 0, length: info.elements() };
        }
    }
}

/// Proves what executors rely on: in every op, what is written overlaps nothing else the op touches, and what
/// is only read does not lie in a buffer the op writes (wgpu tracks usage by whole buffers).
fn check(builder: &PlanBuilder, placements: &[Placement]) -> Result<()> {
    for op in &builder.ops {
        let place = |id: TensorId| placements[id.0 as usize];
        let name = |id: TensorId| builder.info(id).name.clone();
        let written: Vec<TensorId> = op.results().chain(op.scratch()).collect();
        for (index, &a) in written.iter().enumerate() {
            for read in op.reads() {
                if place(a).buffer == place(read).buffer {
                    bail!("plan: {} reads {} and writes {} in one buffer", op.label, name(read), name(a));
                }
            }
            for &b in &written[index + 1..] {
                let (a_at, b_at) = (place(a), place(b));
                let apart =
                    a_at.offset + a_at.length <= b_at.offset || b_at.offset + b_at.length <= a_at.offset;
                if a_at.buffer == b_at.buffer && !apart {
                    bail!("plan: {} writes {} and {} in one place", op.label, name(a), name(b));
                }
            }
        }
        for id in op.tensors.iter().map(|used| used.tensor) {
            if place(id).buffer == usize::MAX {
                bail!("plan: {} uses {}, which lies nowhere", op.label, name(id));
            }
        }
    }
    Ok(())
}
