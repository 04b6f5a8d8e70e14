//! Runs a plan on the processor, on all cores: f32 is the product on machines without a GPU, f64 the reference.

mod memory;
mod name;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::ops::memory::{Buffer, Buffers, Requests};
use crate::ops::{CpuOp, Memory, Op, Scalar};
use crate::plan::{Data, Executor, Identity, Plan, Upload};
use crate::tensor::{Element, StepValues, TensorId};

pub use memory::memory;
pub use name::name;

/// A scalar that plans can be run in.
pub trait PlanScalar: Scalar {
    fn run(op: &dyn Op, memory: &Memory<'_, Self>);
}

impl PlanScalar for f32 {
    fn run(op: &dyn Op, memory: &Memory<'_, f32>) {
        CpuOp::<f32>::run(op, memory);
    }
}

impl PlanScalar for f64 {
    fn run(op: &dyn Op, memory: &Memory<'_, f64>) {
        CpuOp::<f64>::run(op, memory);
    }
}

/// The CPU executor.
pub struct CpuExecutor<S: PlanScalar> {
    plan: Plan,
    buffers: Vec<Buffer<S>>,
    pool: rayon::ThreadPool,
    pending: VecDeque<(u64, Vec<Vec<u32>>)>,
}

impl<S: PlanScalar> CpuExecutor<S> {
    /// Allocates all memory of the plan; `threads` 0 means one for each core.
    pub fn new(plan: Plan, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .context("starting the threads of the CPU executor")?;
        let buffers = plan
            .buffers
            .iter()
            .map(|info| match info.element {
                Element::Float | Element::Half => Buffer::Float(vec![S::ZERO; info.elements].into()),
                Element::Uint => Buffer::Uint(vec![0; info.elements].into()),
            })
            .collect();
        Ok(CpuExecutor { plan, buffers, pool, pending: VecDeque::new() })
    }

    fn float(&mut self, id: TensorId) -> Result<&mut [S]> {
        let place = self.plan.placement(id);
        match self.buffers.get_mut(place.buffer) {
            Some(Buffer::Float(cells)) => Ok(&mut cells.get_mut()[place.offset..place.offset + place.length]),
            _ => bail!("tensor {} holds no floats", self.plan.info(id).name),
        }
    }

    fn uint(&mut self, id: TensorId) -> Result<&mut [u32]> {
        let place = self.plan.placement(id);
        match self.buffers.get_mut(place.buffer) {
            Some(Buffer::Uint(cells)) => Ok(&mut cells.get_mut()[place.offset..place.offset + place.length]),
            _ => bail!("tensor {} holds no integers", self.plan.info(id).name),
        }
    }

    fn upload(&mut self, uploads: &[Upload<'_>]) -> Result<()> {
        for upload in uploads {
            match upload.data {
                Data::Float(data) => self.write(upload.tensor, data)?,
                Data::Uint(data) => self.write_uint(upload.tensor, data)?,
            }
        }
        Ok(())
    }

    /// Hands every op, ready to be run, to `f`.
    fn each(&mut self, ops: Range<usize>, values: &StepValues, mut f: impl FnMut(&dyn Fn()) + Send) {
        let mut values = *values;
        if let Some(scale) = self.plan.loss_scale
            && let Ok(scale) = self.float(scale)
        {
            values.loss_scale = scale[0].to_f64() as f32;
        }
        let CpuExecutor { plan, buffers, pool, .. } = self;
        let (plan, buffers, values) = (&*plan, &buffers[..], &values);
        pool.install(|| {
            for planned in &plan.ops[ops] {
                let buffers = Buffers { buffers, placements: &plan.placements };
                let requests = Requests::new(&planned.label, &planned.tensors);
                // SAFETY: op and placements are the plan's, which `build` has checked; `&mut self` keeps all others
                // away, and the ops run one after the other.
                let memory = unsafe { Memory::new(buffers, requests, values) };
                f(&|| S::run(planned.op.as_ref(), &memory));
            }
        });
    }

    /// A float tensor in the executor's own precision.
    pub fn read_exact(&mut self, id: TensorId) -> Result<Vec<S>> {
        Ok(self.float(id)?.to_vec())
    }

    /// Overwrites a float tensor in the executor's own precision.
    pub fn write_exact(&mut self, id: TensorId, data: &[S]) -> Result<()> {
        let target = self.float(id)?;
        if data.len() > target.len() {
            bail!("{} elements do not fit into {}", data.len(), target.len());
        }
        target[..data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl<S: PlanScalar> Executor for CpuExecutor<S> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()> {
        self.upload(uploads)?;
        self.each(ops, values, |run| run());
        Ok(())
    }

    fn timed(
        &mut self,
        ops: Range<usize>,
        values: &StepValues,
        uploads: &[Upload<'_>],
    ) -> Result<Vec<Range<f64>>> {
        self.upload(uploads)?;
        let mut spans = Vec::with_capacity(ops.len());
        let since = Instant::now();
        self.each(ops, values, |run| {
            let start = since.elapsed().as_secs_f64();
            run();
            spans.push(start..since.elapsed().as_secs_f64());
        });
        Ok(spans)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// An op of a large model takes seconds.
    fn ops_at_once(&self) -> usize {
        1
    }

    fn strategy(&self, _: usize) -> &'static str {
        "cpu"
    }

    fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()> {
        let target = self.float(tensor)?;
        if data.len() > target.len() {
            bail!("{} elements do not fit into {}", data.len(), target.len());
        }
        for (to, &from) in target.iter_mut().zip(data) {
            *to = S::of(f64::from(from));
        }
        Ok(())
    }

    fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()> {
        let target = self.uint(tensor)?;
        if data.len() > target.len() {
            bail!("{} integers do not fit into {}", data.len(), target.len());
        }
        target[..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
        Ok(self.float(tensor)?.iter().map(|x| x.to_f64() as f32).collect())
    }

    fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>> {
        Ok(self.uint(tensor)?.to_vec())
    }

    fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()> {
        let mut copies = Vec::new();
        for &tensor in tensors {
            copies.push(match self.plan.info(tensor).element {
                Element::Float | Element::Half => self.read(tensor)?.iter().map(|x| x.to_bits()).collect(),
                Element::Uint => self.read_uint(tensor)?,
            });
        }
        self.pending.push_back((tag, copies));
        Ok(())
    }

    fn poll(&mut self, _wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        Ok(self.pending.pop_front())
    }

    fn identity(&self) -> Identity {
        Identity::Cpu { bits: 8 * size_of::<S>(), threads: self.pool.current_num_threads() }
    }
}
