//! The flat buffers of parameters, gradients and moments: where each parameter lies in them, and the ranges that the
//! optimiser takes.

use std::ops::Range;

use crate::tensor::{Element, Role, Rows, TensorId, TensorInfo};

use super::PlanBuilder;

/// Every tensor of a flat buffer starts at a multiple of 256 bytes: the strictest alignment WebGPU asks of
/// a storage binding.
pub(super) const ALIGNMENT: usize = 64;

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
    pub tensor: TensorId,
    pub offset: usize,
}

/// Parameters that the optimiser treats alike, side by side in the flat buffers.
pub(super) struct Kind {
    decays: bool,
    rate: f32,
    pub elements: Range<usize>,
    /// Of these, what is updated: all, or runs of neighbours.
    trained: Vec<Range<usize>>,
}

/// Offsets of the parameters, by index, and the kinds in order: those that decay first, then by where a learning
/// rate is first met.
pub(super) fn layout(builder: &PlanBuilder) -> (Vec<usize>, Vec<Kind>) {
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

/// Declares a tensor that is a range of the flat buffer of a role.
pub(super) fn alias(
    builder: &mut PlanBuilder,
    name: String,
    role: Role,
    offset: usize,
    elements: usize,
) -> TensorId {
    let tensor = TensorId(builder.tensors.len() as u32);
    let rows = Rows::fixed(elements);
    builder.tensors.push(TensorInfo { name, rows, columns: 1, element: Element::Float, role });
    builder.aliases.push(Alias { tensor, offset });
    tensor
}

/// A range that the optimiser takes at once.
struct Span {
    decays: bool,
    rate: f32,
    elements: Range<usize>,
}

/// What is trained of `within`, in ranges of at most `limit` elements and one kind.
fn spans(builder: &PlanBuilder, limit: usize, within: &[Range<usize>]) -> Vec<Span> {
    let limit = limit / ALIGNMENT * ALIGNMENT;
    let mut spans = Vec::new();
    for Kind { decays, rate, trained, .. } in layout(builder).1 {
        for (range, within) in trained.iter().flat_map(|range| within.iter().map(move |part| (range, part))) {
            let (start, end) = (range.start.max(within.start), range.end.min(within.end));
            for offset in (start..end).step_by(limit) {
                spans.push(Span { decays, rate, elements: offset..offset + limit.min(end - offset) });
            }
        }
    }
    spans
}

/// All of the flat buffers, however long they are.
fn everything() -> Vec<Range<usize>> {
    std::iter::once(0..usize::MAX).collect()
}

/// What is updated, in runs of neighbours.
pub(super) fn trained(builder: &PlanBuilder) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in layout(builder).1.into_iter().flat_map(|kind| kind.trained) {
        match runs.last_mut().filter(|before| before.end == range.start) {
            Some(before) => before.end = range.end,
            None => runs.push(range),
        }
    }
    runs
}

impl PlanBuilder {
    /// Ranges of the flat parameter buffers, for ops that treat all parameters alike: each at most `limit` elements, of
    /// one kind of decay and one learning rate; of what is this rank's, where several share the moments. Declare all
    /// parameters first.
    pub fn parameter_ranges(&mut self, limit: usize) -> Vec<ParameterRange> {
        let own = self.sharding.as_ref().map_or_else(everything, |sharding| sharding.slices(sharding.rank));
        let spans = spans(self, limit, &own);
        let mut range = |(number, span): (usize, &Span)| {
            let Range { start, end } = span.elements;
            let mut alias = |role| alias(self, format!("parameters.{number}"), role, start, end - start);
            ParameterRange {
                value: alias(Role::Parameter),
                gradient: alias(Role::Gradient),
                first_moment: alias(Role::FirstMoment),
                second_moment: alias(Role::SecondMoment),
                elements: end - start,
                decays: span.decays,
                rate: span.rate,
            }
        };
        spans.iter().enumerate().map(&mut range).collect()
    }

    /// The gradients of these ranges, or, where ranks share the moments, of all that is trained: every rank computes
    /// these.
    pub fn gradients(&mut self, ranges: &[ParameterRange], limit: usize) -> Vec<(TensorId, usize)> {
        if self.sharding.is_none() {
            return ranges.iter().map(|range| (range.gradient, range.elements)).collect();
        }
        let all = spans(self, limit, &everything()).into_iter().enumerate();
        let mut gradient = |(number, span): (usize, Span)| {
            let Range { start, end } = span.elements;
            (alias(self, format!("gradients.{number}"), Role::Gradient, start, end - start), end - start)
        };
        all.map(&mut gradient).collect()
    }

    /// Where the numbers of each rank lie among those that ranges have `per` so many elements of: rank `r` has those from
    /// the `r`-th to the one before the next. One rank has all unless they share the moments.
    pub fn numbers_by_rank(&self, limit: usize, per: impl Fn(usize) -> usize) -> Vec<usize> {
        let count = |within: Vec<Range<usize>>| {
            spans(self, limit, &within).iter().map(|span| per(span.elements.len())).sum::<usize>()
        };
        let parts: Vec<Vec<Range<usize>>> = match &self.sharding {
            None => vec![everything()],
            Some(sharding) => (0..sharding.ranks).map(|rank| sharding.slices(rank)).collect(),
        };
        let mut bounds = vec![0];
        parts.into_iter().for_each(|part| bounds.push(bounds[bounds.len() - 1] + count(part)));
        bounds
    }
}
