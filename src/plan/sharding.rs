//! Ranks that train one model together: each has all parameters and computes gradients of all, but only its own range of
//! the moments, and updates only that. What travels between them, and where it lies, is said here; who carries it is
//! `device::ranked`.

use std::collections::HashMap;
use std::ops::Range;

use crate::tensor::{Role, TensorId};

use super::flat::{ALIGNMENT, alias, layout, trained};
use super::{Parameter, PlanBuilder};

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
    /// Of the elements of the flat buffers, rank `r` has `bounds[r]..bounds[r + 1]`.
    pub bounds: Vec<usize>,
    /// What is updated of them, in order: only that travels.
    pub trained: Vec<Range<usize>>,
    /// The whole flat buffers, and this rank's range of them.
    pub values: TensorId,
    pub gradients: TensorId,
    pub own_values: TensorId,
    pub own_gradients: TensorId,
    /// Partial sums of the norm of all gradients, and which are whose.
    pub partials: Option<(TensorId, Vec<usize>)>,
    /// Gradients and moments of parameters, of which a rank has a piece.
    pieces: HashMap<TensorId, Piece>,
}

/// A parameter's gradient or moment that several ranks have pieces of.
#[derive(Clone, Debug)]
pub struct Piece {
    /// This rank's, if it has one.
    pub own: Option<TensorId>,
    /// Of the tensor's elements, rank `r` has `bounds[r]..bounds[r + 1]`.
    pub bounds: Vec<usize>,
}

impl Sharding {
    /// This rank's range of the flat buffers.
    pub fn own(&self) -> Range<usize> {
        self.bounds[self.rank]..self.bounds[self.rank + 1]
    }

    pub fn piece(&self, tensor: TensorId) -> Option<&Piece> {
        self.pieces.get(&tensor)
    }

    /// Whether all there is travels.
    pub fn is_whole(&self) -> bool {
        self.bounds.last().is_some_and(|&all| self.trained == [0..all])
    }

    /// The bounds among the elements that travel, packed without those that do not.
    pub fn travelling(&self) -> Vec<usize> {
        let before = |bound: usize| {
            let part = |run: &Range<usize>| run.end.min(bound).saturating_sub(run.start);
            self.trained.iter().map(part).sum()
        };
        self.bounds.iter().map(|&bound| before(bound)).collect()
    }

    /// What travels of `within`, as ranges from its beginning.
    pub fn trained_within(&self, within: &Range<usize>) -> Vec<Range<usize>> {
        let part = |run: &Range<usize>| {
            let (start, end) = (run.start.max(within.start), run.end.min(within.end));
            (start < end).then(|| start - within.start..end - within.start)
        };
        self.trained.iter().filter_map(part).collect()
    }
}

impl PlanBuilder {
    /// From here on the plan is one rank's of several. Call it when all parameters are declared; alone it changes nothing.
    pub fn shard(&mut self, shard: Shard) {
        let Shard { rank, ranks } = shard;
        if ranks < 2 {
            return;
        }
        let (offsets, kinds) = layout(self);
        let elements = kinds.last().map_or(0, |kind| kind.elements.end);
        let bound = |rank: usize| (elements / ALIGNMENT * rank / ranks) * ALIGNMENT;
        let bounds: Vec<usize> = (0..=ranks).map(bound).collect();
        let (first, own) = (bounds[rank], bounds[rank + 1] - bounds[rank]);
        let mut whole =
            |name: &str, role, offset, elements| alias(self, name.to_owned(), role, offset, elements);
        let mut sharding = Sharding {
            rank,
            values: whole("all.values", Role::Parameter, 0, elements),
            gradients: whole("all.gradients", Role::Gradient, 0, elements),
            own_values: whole("own.values", Role::Parameter, first, own),
            own_gradients: whole("own.gradients", Role::Gradient, first, own),
            partials: None,
            trained: trained(self),
            bounds,
            pieces: HashMap::new(),
        };
        for (parameter, offset) in self.parameters.clone().iter().zip(offsets) {
            self.divide(&mut sharding, parameter, offset);
        }
        self.sharding = Some(sharding);
    }

    /// Declares this rank's pieces of a parameter's gradient and moments.
    fn divide(&mut self, sharding: &mut Sharding, parameter: &Parameter, offset: usize) {
        let elements = parameter.rows * parameter.columns;
        let within = |&bound: &usize| bound.clamp(offset, offset + elements) - offset;
        let bounds: Vec<usize> = sharding.bounds.iter().map(within).collect();
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
