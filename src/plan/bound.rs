//! What a dispatch binds, by what its op declares.

use anyhow::{Context, Result, bail, ensure};

use crate::ops::{Binding, Candidate, Dispatch, Touch};
use crate::tensor::{Element, TensorId};

use super::Plan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// A tensor at a binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub tensor: TensorId,
    pub element: Element,
    pub access: Access,
    /// How the op as a whole touches it.
    pub touch: Touch,
}

impl Bound {
    /// What a pipeline knows of the binding.
    pub fn slot(&self) -> (Element, Access) {
        (self.element, self.access)
    }
}

impl Plan {
    /// Ways to compute an op on a GPU, best first.
    ///
    /// # Errors
    /// What the op needs and its kernels do not have, by name.
    pub fn candidates(&self, op: usize) -> Result<Vec<Candidate>> {
        self.check_limits(op)?;
        Ok(self.ops[op].op.candidates())
    }

    /// Fails where GPU kernels cannot take what an op of the plan needs, by name. Touches no device.
    pub fn suits_gpu(&self) -> Result<()> {
        (0..self.ops.len()).try_for_each(|op| self.check_limits(op))
    }

    fn check_limits(&self, op: usize) -> Result<()> {
        let planned = &self.ops[op];
        for limit in planned.op.limits() {
            ensure!(limit.is_kept(), "{} ({}): {limit}", planned.label, planned.op.name());
        }
        Ok(())
    }

    /// The bindings of a dispatch of an op, in order.
    ///
    /// # Errors
    /// A tensor that the op does not declare, or reads back without having written it, by name.
    pub fn bound(&self, op: usize, dispatch: &Dispatch) -> Result<Vec<Bound>> {
        dispatch.bindings.iter().map(|&binding| self.bind(op, dispatch, binding)).collect()
    }

    fn bind(&self, op: usize, dispatch: &Dispatch, binding: Binding) -> Result<Bound> {
        let (planned, tensor) = (&self.ops[op], binding.tensor());
        let name =
            || self.tensors.get(tensor.0 as usize).map_or("a tensor of another plan", |info| &info.name);
        let place = || {
            format!(
                "{} ({}): shaders/{}.wgsl binds {}",
                planned.label,
                planned.op.name(),
                dispatch.shader,
                name()
            )
        };
        let declared = planned.tensors.iter().find(|used| used.tensor == tensor);
        let touch = declared.with_context(|| format!("{}, which the op does not declare", place()))?.touch;
        let access = match (binding, touch) {
            (Binding::ReadBack(_), Touch::Read) => {
                bail!("{} to read it back, but the op does not write it", place())
            }
            (Binding::ReadBack(_), _) | (Binding::Declared(_), Touch::Read) => Access::Read,
            (Binding::Declared(_), _) => Access::ReadWrite,
        };
        Ok(Bound { tensor, element: self.info(tensor).element, access, touch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Attention;
    use crate::ops::tensor_use::{read, write};
    use crate::ops::{CpuOp, Describe, Grid, Kernels, Kind, Memory, Scalar, TensorUse, bind};
    use crate::plan::PlanBuilder;
    use crate::tensor::{Dropout, Extent, Role, Rows};

    /// An op that reads `x`, writes `y`, and binds what it is told to.
    struct Odd {
        x: TensorId,
        y: TensorId,
        binds: Vec<Binding>,
    }

    impl Describe for Odd {
        fn name(&self) -> &'static str {
            "odd"
        }

        fn tensors(&self) -> Vec<TensorUse> {
            vec![read("x", self.x, Kind::Exact, (4, 1)), write("y", self.y, Kind::Exact, (4, 1))]
        }
    }

    impl<S: Scalar> CpuOp<S> for Odd {
        fn run(&self, _: &Memory<'_, S>) {}
    }

    impl Kernels for Odd {
        fn candidates(&self) -> Vec<Candidate> {
            let dispatch = Dispatch {
                shader: "gelu",
                constants: vec![],
                bindings: self.binds.clone(),
                immediates: Default::default(),
                grid: Grid(vec![]),
            };
            Candidate::only("odd", dispatch)
        }
    }

    fn bound(binds: impl FnOnce([TensorId; 3]) -> Vec<Binding>) -> Result<Vec<Bound>> {
        let mut builder = PlanBuilder::new();
        let [x, y, z] = ["x", "y", "z"].map(|name| builder.exact(name, Rows::fixed(4), 1));
        builder.push("here", Odd { x, y, binds: binds([x, y, z]) });
        let plan = builder.build(&[])?;
        plan.bound(0, &plan.candidates(0)?[0].dispatches[0])
    }

    #[test]
    fn access_follows_from_the_declaration() {
        let access = |bound: Vec<Bound>| bound.iter().map(|binding| binding.access).collect::<Vec<_>>();
        assert_eq!(access(bound(|[x, y, _]| bind([x, y])).unwrap()), [Access::Read, Access::ReadWrite]);
        assert_eq!(access(bound(|[_, y, _]| vec![Binding::ReadBack(y)]).unwrap()), [Access::Read]);
    }

    #[test]
    fn what_the_op_does_not_declare_is_an_error_by_name() {
        let error = bound(|[x, _, z]| bind([x, z])).unwrap_err().to_string();
        assert_eq!(error, "here (odd): shaders/gelu.wgsl binds z, which the op does not declare");
        let error = bound(|[x, ..]| vec![Binding::ReadBack(x)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "here (odd): shaders/gelu.wgsl binds x to read it back, but the op does not write it"
        );
    }

    #[test]
    fn limits_of_kernels_are_errors_by_name() {
        let mut builder = PlanBuilder::new();
        let (tokens, sequences) = (Rows::of(Extent::Tokens, 8), Rows::of(Extent::Sequences, 2));
        let qkv = builder.activation("qkv", tokens, 3 * 512);
        let starts = builder.tensor("starts", Rows::fixed(3), 1, Element::Uint, Role::Batch);
        let context = builder.activation("context", tokens, 512);
        let log_sum_exp = builder.exact("log_sum_exp", tokens, 2);
        let (max_length, heads, head_size, dropout) = (8, 2, 256, Dropout::off());
        let op = Attention {
            qkv,
            starts,
            context,
            log_sum_exp,
            tokens,
            sequences,
            max_length,
            heads,
            head_size,
            dropout,
        };
        builder.push("layer.0.attention", op);
        let plan = builder.build(&[]).unwrap();
        let expected = "layer.0.attention (attention): 256 columns of a head are more than the 128 that GPU kernels \
                        take: take more heads, or --device cpu";
        assert_eq!(plan.candidates(0).err().unwrap().to_string(), expected);
    }
}
