//! What runs a plan: the interface of the executors.

use std::ops::{AddAssign, Range, Sub};

use anyhow::{Result, bail};

use crate::tensor::{StepValues, TensorId};

use super::{Identity, Parameter, Plan};

/// Data for a tensor of role `Batch`, written before the ops run.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    pub tensor: TensorId,
    pub data: Data<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    Uint(&'a [u32]),
    Float(&'a [f32]),
}

/// Something that runs a plan. Both executors implement it; everything above them knows only this.
pub trait Executor {
    fn plan(&self) -> &Plan;

    /// Uploads, then runs the ops `ops` of the plan in order. May return before they are done.
    fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()>;

    /// How many ops go into a `run` where it must be possible to stop between: all of a phase on a device that is only
    /// given its work, few where the caller does it.
    fn ops_at_once(&self) -> usize {
        usize::MAX
    }

    /// Call before the last micro-batch of a step is run: what backward is done with may then be sent to other ranks.
    fn before_last_micro_batch(&mut self) {}

    /// As `run`, one op at a time, all done on return: in which seconds each ran, since the first began. On a GPU by its
    /// own clock where it has one.
    fn timed(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<Range<f64>>>;

    /// The same, seconds of each.
    fn profile(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<f64>> {
        let spans = self.timed(ops, values, uploads)?;
        Ok(spans.into_iter().map(|span| span.end - span.start).collect())
    }

    /// Waits until everything submitted so far is done.
    fn finish(&mut self) -> Result<()>;

    /// How the op with this index is computed: the strategy of its kernels.
    fn strategy(&self, op: usize) -> &'static str;

    /// Whether its kernels round operands that are f32 to f16 (`tolerances::HALF_OPERANDS`).
    fn rounds_operands(&self, _op: usize) -> bool {
        false
    }

    /// Overwrites a float tensor from its first element on.
    fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()>;

    /// Overwrites an integer tensor from its first element on.
    fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()>;

    /// All elements of a float tensor, after everything submitted so far.
    fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>>;

    /// All elements of an integer tensor.
    fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>>;

    /// Queues a copy of the given `Metric` tensors as they are after what was submitted so far.
    fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()>;

    /// The oldest queued copy that has arrived, as raw words a tensor; waits for it if `wait` is set.
    /// `None` where nothing is queued, or nothing has arrived yet.
    fn poll(&mut self, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>>;

    /// What runs this.
    fn identity(&self) -> Identity;

    /// What this executor has given to its device so far; nothing where it is no device apart.
    fn submitted(&self) -> Submitted {
        Submitted::default()
    }
}

/// Work given to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    pub dispatches: u64,
    pub submissions: u64,
}

impl Sub for Submitted {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Submitted {
            dispatches: self.dispatches - other.dispatches,
            submissions: self.submissions - other.submissions,
        }
    }
}

impl AddAssign for Submitted {
    fn add_assign(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.submissions += other.submissions;
    }
}

/// Parameters and both their moments, in the memory of the host: on their way from one executor to another that has as
/// many, of the same names and shapes.
pub struct Carried(Vec<(Parameter, [Vec<f32>; 3])>);

impl Carried {
    /// Copies what the executor holds.
    pub fn of(executor: &mut dyn Executor) -> Result<Self> {
        let parameters = executor.plan().parameters.clone().into_iter();
        let read = |parameter: Parameter| {
            let values = executor.read(parameter.value)?;
            let moments = [executor.read(parameter.first_moment)?, executor.read(parameter.second_moment)?];
            let [first, second] = moments;
            Ok((parameter, [values, first, second]))
        };
        parameters.map(read).collect::<Result<_>>().map(Carried)
    }

    /// Writes it into another executor.
    ///
    /// # Errors
    /// A parameter that is not there.
    pub fn put(&self, executor: &mut dyn Executor) -> Result<()> {
        for ours in executor.plan().parameters.clone() {
            let named = |theirs: &Parameter| {
                theirs.parts.iter().map(|part| &part.name).eq(ours.parts.iter().map(|part| &part.name))
            };
            let found = self.0.iter().find(|(theirs, _)| named(theirs));
            let name = ours.parts.first().map_or("a parameter", |part| &part.name);
            let Some((_, [values, first, second])) = found else {
                bail!("{name} is not in the plan before it; please report this")
            };
            executor.write(ours.value, values)?;
            executor.write(ours.first_moment, first)?;
            executor.write(ours.second_moment, second)?;
        }
        Ok(())
    }
}

/// Copies parameters between executors of plans of one model.
pub fn copy_parameters(from: &mut dyn Executor, to: &mut dyn Executor) -> Result<()> {
    let theirs = from.plan().parameters.clone();
    let ours = to.plan().parameters.clone();
    for (from_parameter, to_parameter) in theirs.iter().zip(&ours) {
        let values = from.read(from_parameter.value)?;
        to.write(to_parameter.value, &values)?;
    }
    Ok(())
}
