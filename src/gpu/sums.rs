//! The dispatches that add partial sums up: of one op, or of all ops of a group.

use std::ops::Range;

use anyhow::{Result, ensure};
use bytemuck::{Pod, Zeroable};

use crate::ops::immediates::immediates;
use crate::ops::{Count, Dispatch, Grid, PartialSums, Touch};
use crate::plan::{Access, Plan};
use crate::tensor::{Element, TensorId};

use super::Capabilities;

/// Columns that a workgroup of `shaders/sum_partials.wgsl` adds up.
const COLUMNS: usize = 64;

/// Storage bindings must begin at multiples of so many elements.
const ALIGNMENT: usize = 64;

/// Tensors that one dispatch reads at most: more make no difference, and each number of them is a pipeline.
const TENSORS: usize = 64;

/// Columns of partial sums that are added to one target.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Segment {
    /// Workgroups of this segment and of those before it.
    pub end: u32,
    /// Which of the dispatch's tensors.
    pub tensor: u32,
    pub parts: u32,
    pub columns: u32,
    /// First of the columns that are added.
    pub first: u32,
    pub elements: u32,
    /// Where in the targets they are added.
    pub to: u32,
}

immediates! {
    struct Immediates {
        segments: u32,
    }
}

/// A dispatch over several tensors of partial sums whose targets lie in one buffer.
#[derive(Clone, Debug)]
pub struct SumDispatch {
    /// At bindings 1, 2, …; the targets follow, then the segments.
    pub tensors: Vec<TensorId>,
    /// Buffer of the targets, and the elements of it that are bound.
    pub buffer: usize,
    pub targets: Range<usize>,
    pub segments: Vec<Segment>,
}

/// What adds up the partial sums of these ops, in as few dispatches as the adapter's limits allow.
///
/// # Errors
/// An op that does not declare its partial sums or their targets, by name.
pub fn dispatches(plan: &Plan, ops: &[usize], capabilities: &Capabilities) -> Result<Vec<SumDispatch>> {
    let mut dispatches = Vec::new();
    for &op in ops {
        let Some(sums) = plan.ops[op].op.sums() else { continue };
        declared(plan, op, &sums)?;
        for target in &sums.targets {
            let place = plan.placement(target.tensor);
            let first = place.offset + target.at;
            let elements = first..first + target.elements;
            let takes = |dispatch: &&mut SumDispatch| {
                dispatch.takes(sums.partials, place.buffer, &elements, capabilities)
            };
            match dispatches.last_mut().filter(takes) {
                Some(dispatch) => dispatch.add(&sums, target.first, elements),
                None => {
                    let start = elements.start / ALIGNMENT * ALIGNMENT;
                    let mut dispatch = SumDispatch {
                        tensors: Vec::new(),
                        buffer: place.buffer,
                        targets: start..start,
                        segments: Vec::new(),
                    };
                    dispatch.add(&sums, target.first, elements);
                    dispatches.push(dispatch);
                }
            }
        }
    }
    Ok(dispatches)
}

fn declared(plan: &Plan, op: usize, sums: &PartialSums) -> Result<()> {
    let planned = &plan.ops[op];
    let touches = |tensor, touch| {
        let mut declared = planned.tensors.iter();
        let known = declared.any(|used| used.tensor == tensor && used.touch == touch);
        known && plan.info(tensor).element == Element::Float
    };
    let targets = sums.targets.iter().all(|target| touches(target.tensor, Touch::Accumulate));
    ensure!(
        targets && touches(sums.partials, Touch::Scratch),
        "{} ({}): partial sums, or their targets, that it does not declare",
        planned.label,
        planned.op.name()
    );
    Ok(())
}

impl SumDispatch {
    /// Whether one target more fits the adapter.
    fn takes(
        &self,
        partials: TensorId,
        buffer: usize,
        elements: &Range<usize>,
        capabilities: &Capabilities,
    ) -> bool {
        // Two bindings are those of the targets and the segments.
        let most = TENSORS.min(capabilities.storage_buffers as usize - 2);
        let span = self.span(elements);
        buffer == self.buffer
            && (self.tensors.len() < most || self.tensors.contains(&partials))
            && span.len() as u64 * Element::Float.bytes() <= capabilities.binding_bytes
    }

    /// The targets with these elements among them. Where they begin earlier, the segments move.
    fn span(&self, elements: &Range<usize>) -> Range<usize> {
        let start = elements.start / ALIGNMENT * ALIGNMENT;
        self.targets.start.min(start)..self.targets.end.max(elements.end)
    }

    fn add(&mut self, sums: &PartialSums, first: usize, elements: Range<usize>) {
        let tensor = self.tensors.iter().position(|&tensor| tensor == sums.partials);
        let tensor = tensor.unwrap_or_else(|| {
            self.tensors.push(sums.partials);
            self.tensors.len() - 1
        });
        let span = self.span(&elements);
        let moved = (self.targets.start - span.start) as u32;
        self.segments.iter_mut().for_each(|segment| segment.to += moved);
        self.targets = span;
        let before = self.segments.last().map_or(0, |segment| segment.end);
        self.segments.push(Segment {
            end: before + elements.len().div_ceil(COLUMNS) as u32,
            tensor: tensor as u32,
            parts: sums.parts as u32,
            columns: sums.columns as u32,
            first: first as u32,
            elements: elements.len() as u32,
            to: (elements.start - self.targets.start) as u32,
        });
    }

    /// The launch; its bindings are not those of an op.
    pub fn dispatch(&self) -> Dispatch {
        let workgroups = self.segments.last().map_or(0, |segment| segment.end as usize);
        Dispatch {
            shader: "sum_partials",
            constants: vec![("TENSORS", self.tensors.len() as u32)],
            bindings: Vec::new(),
            immediates: Immediates { segments: self.segments.len() as u32 }.into(),
            grid: Grid(vec![Count::Fixed(workgroups)]),
        }
    }

    /// Element and access of every binding.
    pub fn slots(&self) -> Vec<(Element, Access)> {
        let mut slots = vec![(Element::Float, Access::Read); self.tensors.len()];
        slots.extend([(Element::Float, Access::ReadWrite), (Element::Uint, Access::Read)]);
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::SumTarget;

    fn sums(partials: u32, elements: usize) -> PartialSums {
        let target = SumTarget { tensor: TensorId(9), at: 0, first: 0, elements };
        PartialSums { partials: TensorId(partials), parts: 3, columns: elements, targets: vec![target] }
    }

    /// A target before the first moves those that are there, so that all are counted from where the binding begins.
    #[test]
    fn targets_are_counted_from_the_first() {
        let mut dispatch = SumDispatch { tensors: vec![], buffer: 0, targets: 960..960, segments: vec![] };
        dispatch.add(&sums(0, 70), 0, 1000..1070);
        dispatch.add(&sums(1, 10), 0, 200..210);
        assert_eq!(dispatch.targets, 192..1070);
        let found: Vec<_> = dispatch.segments.iter().map(|s| (s.end, s.tensor, s.to)).collect();
        assert_eq!(found, [(2, 0, 808), (3, 1, 8)]);
        assert_eq!(dispatch.dispatch().grid.most(), 3);
    }

    #[test]
    fn limits_of_the_adapter_end_a_dispatch() {
        let mut dispatch = SumDispatch { tensors: vec![], buffer: 0, targets: 0..0, segments: vec![] };
        for tensor in 0..6 {
            let elements = 64 * tensor as usize..64 * tensor as usize + 8;
            assert!(dispatch.takes(TensorId(tensor), 0, &elements, &Capabilities::baseline()));
            dispatch.add(&sums(tensor, 8), 0, elements);
        }
        let baseline = Capabilities::baseline();
        assert!(!dispatch.takes(TensorId(6), 0, &(640..648), &baseline));
        assert!(dispatch.takes(TensorId(5), 0, &(640..648), &baseline));
        assert!(!dispatch.takes(TensorId(5), 1, &(640..648), &baseline));
        assert!(!dispatch.takes(TensorId(5), 0, &(40 << 20..41 << 20), &baseline));
    }
}
