//! Looks for the op of a step in which a number first is no number (`--debug-nan`).

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::ops::Touch;
use crate::plan::{Executor, Phase};
use crate::tensor::Element;

use super::super::examples::StepBatch;
use super::super::feeding::Feeding;

/// Where the first bad number stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstBad {
    /// Place in the model, and kind, of the op that wrote it.
    pub label: String,
    pub op: String,
    pub tensor: String,
    pub row: usize,
    pub column: usize,
    pub value: String,
    pub micro_batch: usize,
}

/// Computes the losses and gradients of a step again, op by op, with the parameters as they are. Nothing where all numbers
/// are finite: then it is the norm of the gradients that is not.
pub fn first_bad(
    executor: &mut dyn Executor,
    feeding: &Feeding,
    batch: &StepBatch,
) -> Result<Option<FirstBad>> {
    executor.run(executor.plan().phase(Phase::Clear), &batch.values(None, 0.0), &[])?;
    let ops = executor.plan().phase(Phase::Micro);
    for (number, micro) in batch.micro.iter().enumerate() {
        let values = batch.values(Some(micro), 0.0);
        let mut uploads = feeding.uploads(micro);
        for op in ops.clone() {
            executor.run(op..op + 1, &values, &std::mem::take(&mut uploads))?;
            let planned = &executor.plan().ops[op];
            let written =
                planned.tensors.iter().filter(|used| matches!(used.touch, Touch::Write | Touch::Accumulate));
            for tensor in written.map(|used| used.tensor).collect::<Vec<_>>() {
                let info = executor.plan().info(tensor).clone();
                if info.element == Element::Uint {
                    continue;
                }
                let used = info.rows.count(&values.extents()) * info.columns;
                let numbers = executor.read(tensor)?;
                let Some(place) = numbers.iter().take(used).position(|x| !x.is_finite()) else { continue };
                let planned = &executor.plan().ops[op];
                return Ok(Some(FirstBad {
                    label: planned.label.clone(),
                    op: planned.op.name().to_owned(),
                    tensor: info.name,
                    row: place / info.columns,
                    column: place % info.columns,
                    value: numbers[place].to_string(),
                    micro_batch: number,
                }));
            }
        }
    }
    Ok(None)
}
