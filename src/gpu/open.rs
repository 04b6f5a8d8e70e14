//! An open device with the kernels that were compiled for it and those to prefer: what executors share.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::ops::Candidate;

use super::handle::Handle;
use super::pipelines::Pipelines;
use super::{Adapter, Capabilities, Tuning, lanes, selector};

/// An open device. Executors share it, and with it the compiled pipelines.
pub struct Gpu {
    handle: Handle,
    pub(super) pipelines: Pipelines,
    /// Kernels to prefer over what the selector would take.
    tuning: Mutex<Arc<Tuning>>,
    /// Strategies that go before everything else, for experiments: `INAZUMA_KERNELS`, with commas between.
    wanted: Vec<String>,
}

impl Deref for Gpu {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Gpu {
    /// Opens the adapter with all limits it offers.
    pub fn open(adapter: &Adapter) -> Result<Arc<Gpu>> {
        let mut handle = Handle::open(adapter)?;
        if handle.capabilities.lanes().is_none() && !handle.capabilities.cooperative.is_empty() {
            handle.capabilities.probed_lanes = lanes::probe(&handle)?;
        }
        let pipelines = Pipelines::open(&handle.device, &adapter.inner);
        let wanted = std::env::var("INAZUMA_KERNELS").unwrap_or_default();
        let wanted = wanted.split(',').map(|name| name.trim().to_owned()).collect();
        Ok(Arc::new(Gpu { handle, pipelines, tuning: Mutex::default(), wanted }))
    }

    /// Executors made from here on prefer these kernels.
    pub fn prefer(&self, tuning: Arc<Tuning>) {
        *self.tuning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tuning;
    }

    /// What executors prefer.
    pub fn preferred(&self) -> Arc<Tuning> {
        self.tuning.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The preferred kernels of an op, where there are any.
    pub(super) fn tuned(
        &self,
        signature: &str,
        candidates: &[Candidate],
        capabilities: &Capabilities,
    ) -> Option<Candidate> {
        let wanted = self.wanted.iter().find_map(|name| selector::named(candidates, capabilities, name));
        if wanted.is_some() {
            return wanted;
        }
        let tuning = self.preferred();
        selector::named(candidates, capabilities, tuning.strategies.get(signature)?)
    }
}
