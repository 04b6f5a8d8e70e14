//! A step that is no good: what was seen is written into the run's `incidents`, and what is done follows from the
//! configuration.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::files::write_atomically;
use crate::plan::Executor;
use crate::tensor::TensorId;

use super::super::divergence::{Cause, OnDivergence};
use super::super::progress::Submitted;
use super::INCIDENTS;
use super::search::FirstBad;

/// The run must go back to its last checkpoint.
#[derive(Debug)]
pub struct Diverged {
    /// Updates made before the step that is no good, and the number of its batch.
    pub step: u64,
    pub batch: u64,
    /// What the learning rate is to be multiplied by.
    pub rate: f64,
    pub cause: Cause,
}

impl Display for Diverged {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step + 1, self.cause)
    }
}

impl std::error::Error for Diverged {}

/// What is known of such a step.
pub struct Incident<'a> {
    pub submitted: &'a Submitted,
    pub cause: Cause,
    pub norm: f32,
    pub limit: f32,
    pub action: OnDivergence,
    /// Updates submitted until it was seen: what the norms below are of.
    pub seen_at: u64,
    /// Where the first bad number stands, if it was looked for.
    pub first_bad: Option<FirstBad>,
}

/// The norm of some numbers, as JSON has it: a text where it is no number.
fn norm(values: &[f32]) -> Value {
    let sum: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    number(sum.sqrt())
}

fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}

/// Of a part of the model.
#[derive(Serialize)]
pub struct Norms {
    parameter: Value,
    gradient: Value,
}

/// Norms by tensor as they are now: the parameters are those that the last step was computed with but for the updates of
/// steps in flight; gradients are of the last of these. Of several ranks all call it.
pub fn norms(executor: &mut dyn Executor) -> Result<BTreeMap<String, Norms>> {
    let mut norms = BTreeMap::new();
    for parameter in executor.plan().parameters.clone() {
        let mut read = |tensor: TensorId| executor.read(tensor);
        let (values, gradients) = (read(parameter.value)?, read(parameter.gradient)?);
        for part in &parameter.parts {
            let first = part.first_row * parameter.columns;
            let range = first..first + part.elements();
            let value = norm(values.get(range.clone()).unwrap_or_default());
            let gradient = norm(gradients.get(range).unwrap_or_default());
            norms.insert(part.name.clone(), Norms { parameter: value, gradient });
        }
    }
    Ok(norms)
}

impl Incident<'_> {
    /// Writes `incidents/step-N.json`: the step, its batch, and norms by tensor.
    pub fn write(&self, run: &Path, norms: &BTreeMap<String, Norms>) -> Result<()> {
        let done = self.submitted.step + 1;
        let object = json!({
            "step": done,
            "batch": self.submitted.batch,
            "cause": self.cause,
            "gradient_norm": number(f64::from(self.norm)),
            "norm_limit": self.limit,
            "learning_rate": self.submitted.learning_rate,
            "action": self.action,
            "seen_after_step": self.seen_at,
            "first_bad": self.first_bad,
            "norms": norms,
        });
        let folder = run.join(INCIDENTS);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        write_atomically(&folder.join(format!("step-{done:08}.json")), &serde_json::to_vec_pretty(&object)?)
    }
}
