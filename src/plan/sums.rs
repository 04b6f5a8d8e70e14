//! Which ops' partial sums are added up together.
//!
//! A launch costs the time in which the device runs empty, so that the sums of one op after the other (weights and biases
//! of products, of norms) would cost more than they compute. They wait for each other instead, and what they wait with is
//! memory: the partial sums of a group live until its last op.

use crate::tensor::{Element, Role, TensorId, TensorInfo};

use super::PlanBuilder;

/// Partial sums that wait at a time are at most this part of the numbers that are activations or gradients of a
/// micro-batch (by number, as they are f32 in any precision), or so many bytes: they do not grow with it, and where it is
/// small there is room for them.
const SHARE: u64 = 120;
const ROOM: u64 = 32 << 20;

/// Ops, in order and of one phase, whose partial sums may be added up after the last of them: nothing between reads
/// their targets, or adds to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumGroup {
    /// Indices of ops that have sums; two at least.
    pub ops: Vec<usize>,
}

impl SumGroup {
    pub fn first(&self) -> usize {
        self.ops[0]
    }

    pub fn last(&self) -> usize {
        self.ops[self.ops.len() - 1]
    }
}

/// The groups of all ops, in order.
pub(super) fn groups(builder: &PlanBuilder) -> Vec<SumGroup> {
    let counts = |tensor: &&TensorInfo| matches!(tensor.role, Role::Activation | Role::ActivationGradient);
    let numbers: u64 = builder.tensors.iter().filter(counts).map(|tensor| tensor.elements() as u64).sum();
    let most = ROOM.max(numbers / SHARE * Element::Float.bytes());
    let mut groups = Vec::new();
    let mut open = Open::default();
    for (index, op) in builder.ops.iter().enumerate() {
        let touches = op.tensors.iter().any(|used| open.targets.contains(&used.tensor));
        let ends = open.ops.last().is_some_and(|&last| builder.ops[last].phase != op.phase);
        if touches || ends {
            open.close(&mut groups);
        }
        let Some(sums) = op.op.sums() else { continue };
        let info = builder.info(sums.partials);
        let bytes = info.elements() as u64 * info.element.bytes();
        if open.bytes + bytes > most {
            open.close(&mut groups);
        }
        open.ops.push(index);
        open.targets.extend(sums.targets.iter().map(|target| target.tensor));
        open.bytes += bytes;
    }
    open.close(&mut groups);
    groups
}

/// A group that may still grow.
#[derive(Default)]
struct Open {
    ops: Vec<usize>,
    targets: Vec<TensorId>,
    bytes: u64,
}

impl Open {
    fn close(&mut self, groups: &mut Vec<SumGroup>) {
        let Open { ops, .. } = std::mem::take(self);
        if ops.len() > 1 {
            groups.push(SumGroup { ops });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::{Epilogue, Form, MatMul};
    use crate::tensor::{Extent, Rows};

    /// Weight gradients `a` and `b` in some order, each in so many parts; the groups, and where each tensor of partial
    /// sums lies.
    fn grouped(order: &str, parts: usize) -> (Vec<SumGroup>, Vec<usize>) {
        let mut builder = PlanBuilder::new();
        let rows = Rows::of(Extent::Tokens, 64);
        let [x, y] = ["x", "y"].map(|name| builder.activation(name, rows, 8));
        let [a, b] = ["a", "b"].map(|name| builder.exact(name, Rows::fixed(8), 8));
        let mut partials = Vec::new();
        for name in order.chars() {
            let c = if name == 'a' { a } else { b };
            let scratch = builder.scratch("partials", Rows::fixed(parts), 72);
            partials.push(scratch);
            let product = MatMul {
                form: Form::Tn,
                a: x.into(),
                b: y.into(),
                c: c.into(),
                rows,
                n: 8,
                inner: 8,
                epilogue: Epilogue::None,
                bias_gradient: None,
                partials: Some((scratch, parts)),
            };
            builder.push("weights", product);
        }
        let plan = builder.build(&[]).unwrap();
        let places = partials.into_iter().map(|id| plan.placement(id).buffer).collect();
        (plan.sum_groups, places)
    }

    #[test]
    fn what_waits_is_a_small_part_of_memory() {
        assert_eq!(grouped("ab", 1 << 16).0, []);
        assert_eq!(grouped("ab", 1 << 15).0, [SumGroup { ops: vec![0, 1] }]);
    }

    #[test]
    fn targets_that_differ_are_added_to_together() {
        let (groups, places) = grouped("ab", 3);
        assert_eq!(groups, [SumGroup { ops: vec![0, 1] }]);
        assert_ne!(places[0], places[1]);
    }

    #[test]
    fn the_same_target_ends_a_group() {
        let (groups, places) = grouped("aba", 3);
        assert_eq!(groups, [SumGroup { ops: vec![0, 1] }]);
        assert_eq!(places[0], places[2]);
        assert_eq!(grouped("aab", 3).0, [SumGroup { ops: vec![1, 2] }]);
    }
}
