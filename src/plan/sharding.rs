//! Ranks that train one model together: each has all parameters and computes gradients of all, but only its own part of
//! the moments, and updates only that. What travels between them, and where it lies, is said here; who carries it is
//! `device::ranked`.
//!
//! The flat buffers are cut into groups, and each group into a slice for each rank: gradients of a group are sent as soon
//! as backward is done with it.

use std::collections::HashMap;
use std::ops::Range;

use crate::tensor::{Role, TensorId};

use super::flat::{ALIGNMENT, alias, layout, trained};
use super::{Parameter, Phase, Plan, PlanBuilder};

/// Groups that are aimed at: more would be smaller messages, and end no sooner, as a table of words is one.
const GROUPS: usize = 8;

/// Which rank a plan is for, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub ranks: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { rank: 0, ranks: 1 }
    }
}

/// Where what the ranks exchange lies.
#[derive(Clone, Debug)]
pub struct Sharding {
    pub rank: usize,
    pub ranks: usize,
    /// Of the flat buffers, in order.
    pub groups: Vec<Group>,
    /// Partial sums of the norm of all gradients, and which are whose.
    pub partials: Option<(TensorId, Vec<usize>)>,
    /// Gradients and moments of parameters, of which a rank has a piece.
    pieces: HashMap<TensorId, Piece>,
}

/// Whole parameters, one after the other in the flat buffers.
#[derive(Clone, Debug)]
pub struct Group {
    /// Of the elements of the flat buffers, rank `r` has `bounds[r]..bounds[r + 1]`.
    pub bounds: Vec<usize>,
    /// What is updated of them, counted from the group's first: only that travels.
    pub trained: Vec<Range<usize>>,
    /// All of it, and this rank's slice.
    pub values: TensorId,
    pub gradients: TensorId,
    pub own_values: TensorId,
    pub own_gradients: TensorId,
}

/// A parameter's gradient or moment that several ranks have pieces of.
#[derive(Clone, Debug)]
pub struct Piece {
    /// This rank's, if it has one.
    pub own: Option<TensorId>,
    /// Of the tensor's elements, rank `r` has `bounds[r]..bounds[r + 1]`.
    pub bounds: Vec<usize>,
}

impl Group {
    /// Its place in the flat buffers.
    pub fn range(&self) -> Range<usize> {
        self.bounds[0]..self.bounds[self.bounds.len() - 1]
    }

    /// The slice of a rank, counted from the group's first element.
    pub fn slice(&self, rank: usize) -> Range<usize> {
        self.bounds[rank] - self.bounds[0]..self.bounds[rank + 1] - self.bounds[0]
    }

    /// Whether all of it travels.
    pub fn is_whole(&self) -> bool {
        matches!(&self.trained[..], [all] if *all == (0..self.range().len()))
    }

    /// The bounds among the elements that travel, packed without those that do not.
    pub fn travelling(&self) -> Vec<usize> {
        let before = |bound: &usize| {
            let part = |run: &Range<usize>| run.end.min(bound - self.bounds[0]).saturating_sub(run.start);
            self.trained.iter().map(part).sum()
        };
        self.bounds.iter().map(before).collect()
    }

    /// What travels of a rank's slice, counted from the slice's first element.
    pub fn trained_of(&self, rank: usize) -> Vec<Range<usize>> {
        let slice = self.slice(rank);
        let part = |run: &Range<usize>| {
            let (start, end) = (run.start.max(slice.start), run.end.min(slice.end));
            (start < end).then(|| start - slice.start..end - slice.start)
        };
        self.trained.iter().filter_map(part).collect()
    }
}

impl Sharding {
    /// A rank's slices of the flat buffers.
    pub fn slices(&self, rank: usize) -> Vec<Range<usize>> {
        self.groups.iter().map(|group| group.bounds[rank]..group.bounds[rank + 1]).collect()
    }

    /// Elements of each moment that this rank has: its slices, one after the other.
    pub fn moments(&self) -> usize {
        self.slices(self.rank).iter().map(Range::len).sum()
    }

    /// Where elements of the flat buffers lie among this rank's moments, if it has them.
    pub fn among_moments(&self, elements: &Range<usize>) -> Option<usize> {
        let mut before = 0;
        for slice in self.slices(self.rank) {
            if slice.start <= elements.start && elements.end <= slice.end {
                return Some(before + elements.start - slice.start);
            }
            before += slice.len();
        }
        None
    }

    pub fn piece(&self, tensor: TensorId) -> Option<&Piece> {
        self.pieces.get(&tensor)
    }
}

impl Plan {
    /// Groups in the order in which backward ends with them, and the op before which each may be fetched. The order must be
    /// that of every rank, so it is of the ops that write their gradients; partial sums wait for others, and for which depends
    /// on how many sequences a micro-batch has.
    pub fn groups_in_order(&self) -> Vec<(usize, usize)> {
        let micro = self.phase(Phase::Micro);
        let writers = |group: &Group| -> Vec<usize> {
            let (place, range) = (self.placement(group.gradients), group.range());
            let inside = |tensor: TensorId| {
                let other = self.placement(tensor);
                let (start, end) = (other.offset, other.offset + other.length);
                other.buffer == place.buffer && start < range.end && range.start < end
            };
            micro.clone().filter(|&op| self.ops[op].results().any(inside)).collect()
        };
        let summed = |op: usize| {
            let sums = self.sum_groups.iter().filter(|sums| sums.ops.contains(&op));
            sums.map(|sums| sums.last()).max().unwrap_or(op).max(op) + 1
        };
        let groups = self.sharding.iter().flat_map(|sharding| &sharding.groups);
        let mut order: Vec<(Option<usize>, usize, usize)> = groups
            .enumerate()
            .map(|(number, group)| {
                let writers = writers(group);
                let done = writers.iter().copied().map(summed).max().unwrap_or(micro.start);
                (writers.last().copied(), number, done)
            })
            .collect();
        order.sort_by_key(|&(last, number, _)| (last, number));
        let mut at = micro.start;
        order
            .into_iter()
            .map(|(_, number, done)| {
                at = at.max(done);
                (at, number)
            })
            .collect()
    }
}

/// Where the groups end: with a parameter, each at least as large as all divided by [`GROUPS`], but for the last.
fn ends(mut parameters: Vec<Range<usize>>) -> Vec<usize> {
    parameters.sort_by_key(|range| range.start);
    let all = parameters.last().map_or(0, |range| range.end);
    let (mut start, mut ends) = (0, Vec::new());
    for Range { end, .. } in parameters {
        if end - start >= all.div_ceil(GROUPS) || end == all {
            ends.push(end);
            start = end;
        }
    }
    ends
}

impl PlanBuilder {
    /// From here on the plan is one rank's of several. Call it when all parameters are declared; alone it changes nothing.
    pub fn shard(&mut self, shard: Shard) {
        let Shard { rank, ranks } = shard;
        if ranks < 2 {
            return;
        }
        let (offsets, _) = layout(self);
        let place = |(parameter, &offset): (&Parameter, &usize)| {
            offset..offset + (parameter.rows * parameter.columns).next_multiple_of(ALIGNMENT)
        };
        let places: Vec<Range<usize>> = self.parameters.iter().zip(&offsets).map(place).collect();
        let trained = trained(self);
        let mut sharding =
            Sharding { rank, ranks, groups: Vec::new(), partials: None, pieces: HashMap::new() };
        let mut start = 0;
        for end in ends(places.clone()) {
            let group = self.group(start..end, &trained, shard);
            sharding.groups.push(group);
            start = end;
        }
        for (parameter, place) in self.parameters.clone().iter().zip(places) {
            self.divide(&mut sharding, parameter, place.start);
        }
        self.sharding = Some(sharding);
    }

    fn group(&mut self, range: Range<usize>, trained: &[Range<usize>], shard: Shard) -> Group {
        let bound = |rank: usize| range.start + range.len() / ALIGNMENT * rank / shard.ranks * ALIGNMENT;
        let bounds: Vec<usize> = (0..=shard.ranks).map(bound).collect();
        let (first, own) = (bounds[shard.rank], bounds[shard.rank + 1] - bounds[shard.rank]);
        let inside = |run: &Range<usize>| {
            let (start, end) = (run.start.max(range.start), run.end.min(range.end));
            (start < end).then(|| start - range.start..end - range.start)
        };
        let mut declare =
            |name: &str, role, offset, elements| alias(self, name.into(), role, offset, elements);
        Group {
            values: declare("group.values", Role::Parameter, range.start, range.len()),
            gradients: declare("group.gradients", Role::Gradient, range.start, range.len()),
            own_values: declare("own.values", Role::Parameter, first, own),
            own_gradients: declare("own.gradients", Role::Gradient, first, own),
            trained: trained.iter().filter_map(inside).collect(),
            bounds,
        }
    }

    /// Declares this rank's pieces of a parameter's gradient and moments.
    fn divide(&mut self, sharding: &mut Sharding, parameter: &Parameter, offset: usize) {
        let elements = parameter.rows * parameter.columns;
        let Some(group) = sharding.groups.iter().find(|group| group.range().contains(&offset)) else {
            return;
        };
        let within = |&bound: &usize| bound.clamp(offset, offset + elements) - offset;
        let bounds: Vec<usize> = group.bounds.iter().map(within).collect();
        let (start, end) = (bounds[sharding.rank], bounds[sharding.rank + 1]);
        let Parameter { gradient, first_moment, second_moment, .. } = *parameter;
        for tensor in [gradient, first_moment, second_moment] {
            let role = self.info(tensor).role;
            let name = format!("own.{}", self.info(tensor).name);
            let own = (start < end).then(|| alias(self, name, role, offset + start, end - start));
            sharding.pieces.insert(tensor, Piece { own, bounds: bounds.clone() });
        }
    }

    /// Which rank the plan is for: 0 where there is one.
    pub fn rank(&self) -> usize {
        self.sharding.as_ref().map_or(0, |sharding| sharding.rank)
    }

    /// Says where the partial sums of the norm lie, and which are whose; of interest where ranks share the moments.
    pub fn share_partials(&mut self, partials: TensorId, bounds: Vec<usize>) {
        if let Some(sharding) = &mut self.sharding {
            sharding.partials = Some((partials, bounds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Initial, ParameterKind};

    fn plan(rank: usize, ranks: usize, frozen: bool) -> Plan {
        let mut builder = builder(frozen);
        builder.shard(Shard { rank, ranks });
        builder.parameter_ranges(256);
        builder.build(&[]).unwrap()
    }

    fn builder(frozen: bool) -> PlanBuilder {
        let mut builder = PlanBuilder::new();
        for (index, rows) in [500, 3, 70, 1, 64, 130, 7].into_iter().enumerate() {
            builder.trains(!frozen || index != 2);
            let kind = if rows < 8 { ParameterKind::Bias } else { ParameterKind::Weight };
            builder.parameter(&[(format!("p{index}"), rows)], 3, kind, Initial::Zero);
        }
        builder
    }

    /// Every element is one rank's, in one group; pieces of a parameter make it up; moments lie side by side.
    #[test]
    fn slices_are_a_partition() {
        for (ranks, frozen) in [(2, false), (3, true), (7, false), (64, true)] {
            let mut owners = Vec::new();
            for rank in 0..ranks {
                let plan = plan(rank, ranks, frozen);
                let sharding = plan.sharding.as_ref().unwrap();
                let mut moments = 0;
                for slice in sharding.slices(rank) {
                    assert!(slice.start % ALIGNMENT == 0 && slice.end % ALIGNMENT == 0);
                    assert_eq!(sharding.among_moments(&slice).filter(|_| !slice.is_empty()), {
                        (!slice.is_empty()).then_some(moments)
                    });
                    moments += slice.len();
                    owners.extend(slice);
                }
                assert_eq!(sharding.moments(), moments);
                for group in &sharding.groups {
                    let packed = group.travelling();
                    let own: usize = group.trained_of(rank).iter().map(Range::len).sum();
                    assert_eq!(packed[rank + 1] - packed[rank], own);
                    assert!(group.is_whole() || frozen);
                }
                for parameter in &plan.parameters {
                    let piece = sharding.piece(parameter.first_moment).unwrap();
                    assert_eq!(piece.bounds[ranks], parameter.rows * parameter.columns);
                    let length = piece.own.map_or(0, |own| plan.info(own).elements());
                    assert_eq!(length, piece.bounds[rank + 1] - piece.bounds[rank]);
                }
            }
            owners.sort_unstable();
            let all = owners.len();
            owners.dedup();
            assert_eq!((owners.len(), owners.last()), (all, Some(&(all - 1))));
        }
    }

    #[test]
    fn alone_a_plan_is_what_it_was() {
        let mut plain = builder(false);
        plain.parameter_ranges(256);
        let (alone, plain) = (plan(0, 1, false), plain.build(&[]).unwrap());
        assert!(alone.sharding.is_none());
        assert_eq!(alone.tensors.len(), plain.tensors.len());
        assert!(plan(0, 2, false).tensors.len() > plain.tensors.len());
    }
}
