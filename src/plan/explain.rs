//! `--explain`: the plan as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::files::size;
use crate::tensor::{Extent, Extents, Role, TensorId};

use super::{Phase, Plan};

/// Memory and work of a plan at full capacity.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub ops: usize,
    pub buffers: usize,
    /// Bytes by role; activations count what is allocated, after sharing by lifetime.
    pub bytes_by_role: BTreeMap<String, u64>,
    pub bytes: u64,
    /// What activations would take without sharing.
    pub unshared_activation_bytes: u64,
    /// FLOPs of one micro-batch, forward and backward.
    pub micro_flops: f64,
    /// FLOPs of the update.
    pub update_flops: f64,
}

fn transient(role: Role) -> bool {
    matches!(role, Role::Activation | Role::ActivationGradient | Role::Scratch)
}

impl Plan {
    /// Shapes of what an op reads first and of what it writes; T tokens, B sequences, M labelled rows.
    pub fn shapes(&self, op: usize) -> String {
        let op = &self.ops[op];
        let one = |id: TensorId| {
            let info = self.info(id);
            match info.rows.extent {
                Extent::Fixed => format!("{}×{}", info.rows.capacity, info.columns),
                extent => format!("{}×{}", extent.letter(), info.columns),
            }
        };
        let written: Vec<String> = op.results().map(one).collect();
        // The other operand tells products apart that write the same shape.
        let read = op.reads().next().map(one).unwrap_or_default();
        if written.len() > 3 {
            format!("{read} → {} tensors", written.len())
        } else {
            format!("{read} → {}", written.join(" "))
        }
    }

    pub fn summary(&self, extents: &Extents) -> Summary {
        let mut bytes_by_role = BTreeMap::new();
        for buffer in &self.buffers {
            *bytes_by_role.entry(role_name(buffer.role).to_owned()).or_default() += buffer.bytes();
        }
        let activations = self.tensors.iter().filter(|tensor| transient(tensor.role));
        Summary {
            ops: self.ops.len(),
            buffers: self.buffers.len(),
            bytes_by_role,
            bytes: self.bytes(),
            unshared_activation_bytes: activations
                .map(|tensor| tensor.elements() as u64 * tensor.element.bytes())
                .sum(),
            micro_flops: self.flops(Phase::Micro, extents),
            update_flops: self.flops(Phase::Update, extents),
        }
    }

    /// Every op with what it writes and its work, then memory by role.
    pub fn explain(&self, extents: &Extents) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:>5}  {:<7} {:<22} {:<58} {:>12}  writes",
            "op", "phase", "kind", "place", "MFLOP"
        );
        for (index, op) in self.ops.iter().enumerate() {
            let phase = match op.phase {
                Phase::Clear => "clear",
                Phase::Micro => "micro",
                Phase::Update => "update",
            };
            let shapes: Vec<String> = op.results().map(|id| self.shape(id)).collect();
            let _ = writeln!(
                text,
                "{index:>5}  {phase:<7} {:<22} {:<58} {:>12.3}  {}",
                op.op.name(),
                op.label,
                op.op.flops(extents) / 1e6,
                shapes.join(" ")
            );
        }
        self.explain_memory(extents, &mut text);
        text
    }

    fn explain_memory(&self, extents: &Extents, text: &mut String) {
        let summary = self.summary(extents);
        let _ = writeln!(
            text,
            "\nmemory, at a capacity of {} tokens in {} sequences with {} masked slots a micro-batch",
            extents.tokens, extents.sequences, extents.labelled
        );
        for (role, bytes) in &summary.bytes_by_role {
            let _ = writeln!(text, "  {role:<20} {:>13}", size(*bytes));
        }
        let _ =
            writeln!(text, "  {:<20} {:>13} in {} buffers", "total", size(summary.bytes), summary.buffers);
        let _ = writeln!(
            text,
            "  activations share memory by lifetime: {} of tensors in {}",
            size(summary.unshared_activation_bytes),
            size(summary.bytes_by_role.get("activations").copied().unwrap_or(0))
        );
        let _ = writeln!(
            text,
            "work: {:.2} GFLOP a micro-batch (matrix products, attention and heads), {:.3} GFLOP an update",
            summary.micro_flops / 1e9,
            summary.update_flops / 1e9
        );
    }

    /// `name[rows×columns]`, varying rows by their letter: T tokens, B sequences, M labelled rows.
    fn shape(&self, id: TensorId) -> String {
        let info = self.info(id);
        let rows = match info.rows.extent {
            Extent::Fixed => info.rows.capacity.to_string(),
            extent => extent.letter().to_owned(),
        };
        let name = info.name.rsplit_once("layer.").map_or(info.name.as_str(), |(_, rest)| rest);
        format!("{name}[{rows}×{}]", info.columns)
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Parameter => "parameters",
        Role::Gradient => "gradients",
        Role::FirstMoment => "first moments",
        Role::SecondMoment => "second moments",
        Role::Batch => "batch",
        Role::Metric => "metrics",
        Role::Activation | Role::ActivationGradient | Role::Scratch => "activations",
    }
}
