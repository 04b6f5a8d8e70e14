//! How large the buffers of a plan are, beside what an adapter allows: from the plan alone.

use anyhow::{Result, bail};

use crate::files::size;
use crate::plan::Plan;

use super::Capabilities;

/// The largest tensor that lies in a buffer.
pub(super) fn tenant(plan: &Plan, buffer: usize) -> &str {
    let tenants = (0..plan.tensors.len()).filter(|&id| plan.placements[id].buffer == buffer);
    let largest = tenants.max_by_key(|&id| plan.placements[id].length);
    largest.map_or("a buffer", |id| plan.tensors[id].name.as_str())
}

/// Fails where a buffer is larger than the adapter allows, named by the largest tensor in it.
pub(super) fn check_sizes(limits: &Capabilities, plan: &Plan) -> Result<()> {
    for (index, info) in plan.buffers.iter().enumerate() {
        let bytes = info.bytes();
        if bytes > limits.buffer_bytes {
            bail!(
                "{} needs a buffer of {}, and {} allows {}: try a smaller micro_batch or model",
                tenant(plan, index),
                size(bytes),
                limits.name,
                size(limits.buffer_bytes)
            );
        }
    }
    Ok(())
}
