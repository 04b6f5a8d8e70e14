//! Where a run goes back to, and how it goes on from there.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::interop::checkpoint::{self, Rollback};

use super::super::collapse::Collapsed;
use super::incident::Diverged;

/// The rollback that an error of a run asks for, if it does; the run's `latest` then names the checkpoint.
///
/// # Errors
/// No checkpoint is from before the discriminator collapsed.
pub fn asked_by(error: &anyhow::Error, run: &Path) -> Result<Option<Rollback>> {
    if let Some(&Diverged { step: diverged_at, batch, rate, .. }) = error.downcast_ref() {
        let step = checkpoint::newest(run)?.map_or(0, |found| found.checkpoint.state.step);
        return Ok(Some(Rollback { step, diverged_at, batch: Some(batch), rate }));
    }
    let Some(&collapsed) = error.downcast_ref::<Collapsed>() else { return Ok(None) };
    // While it collapses it is no longer what it was: the averages reach back further than that takes.
    let is_before =
        |step: u64, spread: f64| step + Collapsed::TAKES <= collapsed.step && spread >= Collapsed::SOUND;
    let found = checkpoint::turn_back(run, |state| {
        state.detection.is_empty() || is_before(state.step, state.detection.spread)
    })?;
    match found {
        Some(step) => {
            Ok(Some(Rollback { step, diverged_at: collapsed.step, batch: None, rate: collapsed.rate }))
        }
        None => Err(anyhow!(
            "{collapsed}; no checkpoint from before that is left to go back to (checkpoint_every, keep); {}",
            Collapsed::ADVICE
        )),
    }
}
