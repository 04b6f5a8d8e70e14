//! In place of a GPU, in builds without the feature `gpu`: types of which there is no value.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use crate::ops::Candidate;
use crate::plan::{Executor, Identity, Plan, Upload};
use crate::tensor::{StepValues, TensorId};

use super::{Capabilities, Options, Tuning};

/// An adapter that has not been opened.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub capabilities: Capabilities,
    never: Infallible,
}

/// None.
pub fn adapters() -> Vec<Adapter> {
    Vec::new()
}

/// An open device.
pub struct Gpu {
    pub capabilities: Capabilities,
    never: Infallible,
}

impl Gpu {
    pub fn open(adapter: &Adapter) -> Result<Arc<Gpu>> {
        match adapter.never {}
    }

    pub fn prefer(&self, _tuning: Arc<Tuning>) {
        match self.never {}
    }

    pub fn preferred(&self) -> Arc<Tuning> {
        match self.never {}
    }

    pub(super) fn tuned(&self, _: &str, _: &[Candidate], _: &Capabilities) -> Option<Candidate> {
        match self.never {}
    }
}

/// What would run a plan there.
pub struct GpuExecutor(Infallible);

impl GpuExecutor {
    pub fn new(gpu: Arc<Gpu>, _plan: Plan, _options: Options) -> Result<Self> {
        match gpu.never {}
    }

    pub fn strategies(&self) -> Vec<&'static str> {
        match self.0 {}
    }
}

impl Executor for GpuExecutor {
    fn plan(&self) -> &Plan {
        match self.0 {}
    }

    fn run(&mut self, _: Range<usize>, _: &StepValues, _: &[Upload<'_>]) -> Result<()> {
        match self.0 {}
    }

    fn timed(&mut self, _: Range<usize>, _: &StepValues, _: &[Upload<'_>]) -> Result<Vec<Range<f64>>> {
        match self.0 {}
    }

    fn finish(&mut self) -> Result<()> {
        match self.0 {}
    }

    fn strategy(&self, _: usize) -> &'static str {
        match self.0 {}
    }

    fn write(&mut self, _: TensorId, _: &[f32]) -> Result<()> {
        match self.0 {}
    }

    fn write_uint(&mut self, _: TensorId, _: &[u32]) -> Result<()> {
        match self.0 {}
    }

    fn read(&mut self, _: TensorId) -> Result<Vec<f32>> {
        match self.0 {}
    }

    fn read_uint(&mut self, _: TensorId) -> Result<Vec<u32>> {
        match self.0 {}
    }

    fn request(&mut self, _: u64, _: &[TensorId]) -> Result<()> {
        match self.0 {}
    }

    fn poll(&mut self, _: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
        match self.0 {}
    }

    fn identity(&self) -> Identity {
        match self.0 {}
    }
}
