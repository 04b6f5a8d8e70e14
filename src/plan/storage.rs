//! Where tensors lie: flat buffers for parameters, coloured buffers for what lives within a micro-batch.

use std::collections::HashMap;

use anyhow::{Result, bail};

use crate::ops::memory::Placement;
use crate::tensor::{Element, Role, TensorId, TensorInfo};

use super::flat::layout;
use super::{Parameter, PlanBuilder, SumGroup};

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
        let (offsets, kinds) = layout(builder);
        let elements = kinds.last().map_or(0, |kind| kind.elements.end);
        // Of moments that ranks share there are some.
        let shared = |role: Role| {
            builder.sharding.as_ref().filter(|_| matches!(role, Role::FirstMoment | Role::SecondMoment))
        };
        let mut flat = HashMap::new();
        if !builder.parameters.is_empty() {
            for role in [Role::Parameter, Role::Gradient, Role::FirstMoment, Role::SecondMoment] {
                // A plan without backward ops has neither gradients nor moments.
                let mut tensors = builder.tensors.iter().zip(&self.lifetimes);
                let used = tensors.any(|(tensor, life)| tensor.role == role && life.is_some());
                if !used && role != Role::Parameter && builder.sharding.is_none() {
                    continue;
                }
                flat.insert(role, self.buffers.len());
                let elements = shared(role).map_or(elements, |sharding| sharding.moments().max(1));
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
            let length = info.elements();
            let offset = match shared(info.role) {
                Some(sharding) => sharding.among_moments(&(offset..offset + length)),
                None => Some(offset),
            };
            if let (Some(&buffer), Some(offset)) = (flat.get(&info.role), offset) {
                self.placements[tensor.0 as usize] = Placement { buffer, offset, length };
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
