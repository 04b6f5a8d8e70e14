//! A training step as one plan: ops in order over named tensors, built once.
//!
//! Three phases: `Clear` once a step, `Micro` once per micro-batch (forward and backward), `Update` once
//! (norm, clip, Adam). Executors run ranges of ops; memory is assigned here, before the first step.

use std::ops::Range;

use anyhow::{Error, Result, bail};

use crate::ops::matmul::FILL;
use crate::ops::memory::Placement;
use crate::ops::{Op, TensorUse, Touch};
use crate::tensor::{Element, Extents, Precision, Role, Rows, TensorId, TensorInfo};

mod bound;
mod check;
mod executor;
pub mod explain;
mod flat;
mod identity;
mod in_flight;
mod memory;
mod planned_op;
mod products;
mod sharding;
mod storage;
mod sums;

pub use bound::{Access, Bound};
pub use executor::{Carried, Data, Executor, Submitted, Upload, copy_parameters};
pub use flat::ParameterRange;
pub use identity::Identity;
pub use in_flight::{IN_FLIGHT, InFlight};
pub use memory::DeviceMemory;
pub use planned_op::PlannedOp;
pub use sharding::{Group, Shard, Sharding};
pub use storage::BufferInfo;
pub use sums::SumGroup;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Clear,
    Micro,
    Update,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    Zero,
    One,
    /// Truncated normal, redrawn beyond two standard deviations.
    TruncatedNormal(f64),
    /// Uniform within ±√(6/(in+out)), of the parameter's own shape `[out, in]`.
    GlorotUniform,
}

/// What a parameter is for: a norm's and a bias's are vectors, and weight decay leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A matrix or a table.
    Weight,
    Bias,
    /// Weight or bias of a norm.
    Norm,
}

impl ParameterKind {
    fn decays(self) -> bool {
        self == ParameterKind::Weight
    }

    fn is_vector(self) -> bool {
        self != ParameterKind::Weight
    }
}

/// A named part of a parameter: some of its rows. Fused parameters (query, key, value) have several.
#[derive(Clone, Debug)]
pub struct Part {
    /// The Hugging Face name with its network's prefix (docs/spec.md §6).
    pub name: String,
    pub first_row: usize,
    /// Shape under that name: `[rows, columns]`, or `[rows]` for a vector.
    pub shape: Vec<usize>,
}

impl Part {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A parameter with its gradient and moments: four tensors of one shape.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub value: TensorId,
    pub gradient: TensorId,
    pub first_moment: TensorId,
    pub second_moment: TensorId,
    pub parts: Vec<Part>,
    pub decays: bool,
    /// Factor on the learning rate (layer-wise decay in fine-tuning; 1 in pre-training).
    pub rate: f32,
    /// Whether the plan updates it: what is fixed lies where it would, with its moments, and nothing touches these.
    pub trains: bool,
    pub initial: Initial,
    /// Shape of all parts together.
    pub rows: usize,
    pub columns: usize,
}

/// Collects tensors and ops; [`PlanBuilder::build`] makes the plan.
pub struct PlanBuilder {
    tensors: Vec<TensorInfo>,
    parameters: Vec<Parameter>,
    ops: Vec<PlannedOp>,
    aliases: Vec<flat::Alias>,
    sharding: Option<Sharding>,
    phase: Option<Phase>,
    scope: Vec<String>,
    rate: f32,
    trains: bool,
    precision: Precision,
    fill: usize,
    loss_scale: Option<TensorId>,
    /// What was wrong with the first op that was wrong.
    error: Option<Error>,
}

impl Default for PlanBuilder {
    fn default() -> Self {
        PlanBuilder {
            tensors: Vec::new(),
            parameters: Vec::new(),
            ops: Vec::new(),
            aliases: Vec::new(),
            sharding: None,
            phase: None,
            scope: Vec::new(),
            rate: 1.0,
            trains: true,
            precision: Precision::F32,
            fill: FILL,
            loss_scale: None,
            error: None,
        }
    }
}

impl PlanBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a tensor.
    pub fn tensor(
        &mut self,
        name: &str,
        rows: Rows,
        columns: usize,
        element: Element,
        role: Role,
    ) -> TensorId {
        let name = self.scoped(name);
        let id = TensorId(self.tensors.len() as u32);
        self.tensors.push(TensorInfo { name, rows, columns, element, role });
        id
    }

    /// How the activations and their gradients declared from here on are kept.
    pub fn precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// An activation in the plan's precision.
    pub fn activation(&mut self, name: &str, rows: Rows, columns: usize) -> TensorId {
        self.tensor(name, rows, columns, self.element(), Role::Activation)
    }

    /// An activation that is f32 in any precision: statistics, logits, losses.
    pub fn exact(&mut self, name: &str, rows: Rows, columns: usize) -> TensorId {
        self.tensor(name, rows, columns, Element::Float, Role::Activation)
    }

    /// The gradient of an activation, in the plan's precision.
    pub fn gradient(&mut self, name: &str, rows: Rows, columns: usize) -> TensorId {
        self.tensor(name, rows, columns, self.element(), Role::ActivationGradient)
    }

    /// The gradient of what `exact` declares.
    pub fn exact_gradient(&mut self, name: &str, rows: Rows, columns: usize) -> TensorId {
        self.tensor(name, rows, columns, Element::Float, Role::ActivationGradient)
    }

    /// What a single op works with, f32 in any precision.
    pub fn scratch(&mut self, name: &str, rows: Rows, columns: usize) -> TensorId {
        self.tensor(name, rows, columns, Element::Float, Role::Scratch)
    }

    fn element(&self) -> Element {
        match self.precision {
            Precision::F32 => Element::Float,
            Precision::F16 => Element::Half,
        }
    }

    /// Whether any tensor declared so far is kept in half precision.
    pub fn is_half(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.element == Element::Half)
    }

    /// Executors take `StepValues::loss_scale` from the first element of this tensor.
    pub fn loss_scale(&mut self, tensor: TensorId) {
        self.loss_scale = Some(tensor);
    }

    /// Declares a parameter of `parts` named row ranges, `columns` wide (1 for biases and norms).
    pub fn parameter(
        &mut self,
        parts: &[(String, usize)],
        columns: usize,
        kind: ParameterKind,
        initial: Initial,
    ) -> Parameter {
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let name = &parts[0].0;
        let mut tensor = |role| {
            let id = TensorId(self.tensors.len() as u32);
            self.tensors.push(TensorInfo {
                name: name.clone(),
                rows: Rows::fixed(rows),
                columns,
                element: Element::Float,
                role,
            });
            id
        };
        let mut first_row = 0;
        let parameter = Parameter {
            value: tensor(Role::Parameter),
            gradient: tensor(Role::Gradient),
            first_moment: tensor(Role::FirstMoment),
            second_moment: tensor(Role::SecondMoment),
            parts: parts
                .iter()
                .map(|(name, rows)| {
                    let shape = if kind.is_vector() { vec![*rows * columns] } else { vec![*rows, columns] };
                    let part = Part { name: name.clone(), first_row, shape };
                    first_row += rows;
                    part
                })
                .collect(),
            decays: kind.decays(),
            rate: self.rate,
            trains: self.trains,
            initial,
            rows,
            columns,
        };
        self.parameters.push(parameter.clone());
        parameter
    }

    /// The factor on the learning rate of the parameters declared from here on.
    pub fn learning_rate_factor(&mut self, rate: f32) {
        self.rate = rate;
    }

    /// Whether the parameters declared from here on are updated; if not, no range has them.
    pub fn trains(&mut self, trains: bool) {
        self.trains = trains;
    }

    /// Ops and tensors that follow belong to this phase.
    pub fn phase(&mut self, phase: Phase) {
        self.phase = Some(phase);
    }

    /// Runs `f` with `scope` put before all names it declares.
    pub fn scoped_in<R>(&mut self, scope: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        self.scope.push(scope.to_owned());
        let result = f(self);
        self.scope.pop();
        result
    }

    fn scoped(&self, name: &str) -> String {
        let mut full = self.scope.join(".");
        if !full.is_empty() && !name.is_empty() {
            full.push('.');
        }
        full + name
    }

    /// Appends an op to the current phase.
    ///
    /// Every tensor is checked against what the op declares: element, columns, rows. Of several ops that do not fit,
    /// the first is what [`PlanBuilder::build`] fails with, so that a model need not ask after every op.
    pub fn push(&mut self, label: &str, op: impl Op + 'static) {
        let planned = PlannedOp {
            phase: self.phase.unwrap_or(Phase::Micro),
            label: self.scoped(label),
            tensors: op.tensors(),
            op: Box::new(op),
        };
        if self.error.is_none() {
            self.error = check::check(&planned, &self.tensors).err();
        }
        self.ops.push(planned);
    }

    /// Ops appended so far: the index of the next one.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    pub fn info(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0 as usize]
    }

    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Assigns memory and checks the plan. `keep` names activations that are read from outside after a
    /// micro-batch (tests, `parity`): they get memory of their own.
    ///
    /// # Errors
    /// The first op that was pushed with tensors other than it takes; ops out of the order of their phases, or that
    /// write what they read.
    pub fn build(mut self, keep: &[TensorId]) -> Result<Plan> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if !self.ops.is_sorted_by_key(|op| op.phase) {
            bail!("plan: ops are not in the order of their phases");
        }
        let sum_groups = sums::groups(&self);
        let (buffers, placements) = storage::assign(&self, &sum_groups, keep)?;
        let PlanBuilder { tensors, parameters, ops, loss_scale, sharding, .. } = self;
        Ok(Plan { tensors, parameters, ops, sum_groups, buffers, placements, loss_scale, sharding })
    }
}

/// Ops in order, their tensors, and where each tensor lies.
pub struct Plan {
    pub tensors: Vec<TensorInfo>,
    pub parameters: Vec<Parameter>,
    pub ops: Vec<PlannedOp>,
    /// Ops whose partial sums are added up together on a GPU.
    pub sum_groups: Vec<SumGroup>,
    pub buffers: Vec<BufferInfo>,
    /// By tensor id; offsets and lengths in elements.
    pub placements: Vec<Placement>,
    /// Where `StepValues::loss_scale` lives, if the device decides it: the tensor's first element.
    pub loss_scale: Option<TensorId>,
    /// Of a plan that is one rank's of several.
    pub sharding: Option<Sharding>,
}

impl Plan {
    pub fn info(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0 as usize]
    }

    pub fn placement(&self, id: TensorId) -> Placement {
        self.placements[id.0 as usize]
    }

    /// The ops of a phase, as a range of indices.
    pub fn phase(&self, phase: Phase) -> Range<usize> {
        let start = self.ops.partition_point(|op| op.phase < phase);
        let end = self.ops.partition_point(|op| op.phase <= phase);
        start..end
    }

    /// FLOPs of one run of a phase with these extents.
    pub fn flops(&self, phase: Phase, extents: &Extents) -> f64 {
        self.ops[self.phase(phase)].iter().map(|op| op.op.flops(extents)).sum()
    }

    /// Kind and shapes of an op: what its speed depends on. Varying rows by their letter and capacity (T tokens,
    /// B sequences, M labelled rows); h marks half precision.
    pub fn signature(&self, op: usize) -> String {
        let op = &self.ops[op];
        let shape = |id: TensorId| {
            let info = self.info(id);
            let half = if info.element == Element::Half { "h" } else { "" };
            format!("{}{}×{}{half}", info.rows.extent.letter(), info.rows.capacity, info.columns)
        };
        let [read, written]: [Vec<String>; 2] =
            [op.reads().map(shape).collect(), op.results().map(shape).collect()];
        format!("{} {} → {}", op.op.name(), read.join(" "), written.join(" "))
    }

    /// Bytes that an op must move at the least with these extents: what it reads and writes once. An upper bound for
    /// tables of which it takes a few rows.
    pub fn op_bytes(&self, index: usize, extents: &Extents) -> f64 {
        let moved = |used: &TensorUse| {
            let passes = match used.touch {
                Touch::Read | Touch::Write => 1.0,
                Touch::Accumulate => 2.0,
                Touch::Scratch => return 0.0,
            };
            let info = self.info(used.tensor);
            passes * info.element.bytes() as f64 * (info.rows.count(extents) * info.columns) as f64
        };
        self.ops[index].tensors.iter().map(moved).sum()
    }

    /// Bytes of device memory, all buffers together.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(BufferInfo::bytes).sum()
    }

    /// Whether any tensor is kept in half precision.
    pub fn is_half(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.element == Element::Half)
    }

    /// The id of the tensor with this name and role, for tests and tools.
    pub fn find(&self, name: &str, role: Role) -> Option<TensorId> {
        let index = self.tensors.iter().position(|t| t.name == name && t.role == role)?;
        Some(TensorId(index as u32))
    }
}
