//! Steps that were submitted and whose results are on their way: the device works while the host prepares.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};

use crate::tensor::TensorId;

use super::Executor;

/// Steps in flight while training: enough that the device is never idle, few enough that a loss that is no number is
/// seen soon.
pub const IN_FLIGHT: usize = 2;

/// Steps in flight, each with what the host remembers of it.
pub struct InFlight<T> {
    pending: VecDeque<(u64, T)>,
    /// Tag of the next step.
    next: u64,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        InFlight { pending: VecDeque::new(), next: 0 }
    }
}

impl<T> InFlight<T> {
    /// How many there are whose results were not taken.
    pub fn count(&self) -> usize {
        self.pending.len()
    }

    /// Call after a step was submitted: asks for the `Metric` tensors as it leaves them.
    pub fn submitted(&mut self, executor: &mut dyn Executor, tensors: &[TensorId], step: T) -> Result<()> {
        executor.request(self.next, tensors)?;
        self.pending.push_back((self.next, step));
        self.next += 1;
        Ok(())
    }

    /// The oldest step with its results, as raw words a tensor, if they have arrived. Waits for them while more than
    /// `waiting` steps are in flight. Nothing where none is in flight, or none has arrived and none must be waited for.
    ///
    /// # Errors
    /// The device failed, or gave results of another step than the oldest.
    pub fn next(
        &mut self,
        executor: &mut dyn Executor,
        waiting: usize,
    ) -> Result<Option<(T, Vec<Vec<u32>>)>> {
        let wait = self.pending.len() > waiting;
        if self.pending.is_empty() {
            return Ok(None);
        }
        let Some((tag, words)) = executor.poll(wait)? else {
            ensure!(!wait, "the device gave no results of a step; please report this");
            return Ok(None);
        };
        match self.pending.pop_front() {
            Some((oldest, step)) if oldest == tag => Ok(Some((step, words))),
            _ => bail!("results of a step arrived out of order; please report this"),
        }
    }
}
