//! Where a step's time goes: a table by op.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use anyhow::Result;
use serde::Serialize;

use crate::plan::{Executor, Phase, Plan};
use crate::tensor::{Extent, Extents, TensorId};
use crate::train::examples::StepBatch;
use crate::train::run::Feeding;

use super::{Peaks, median};

/// All ops of one kind and shape.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub op: String,
    /// Shapes of what it writes; T tokens, B sequences, M masked slots.
    pub shape: String,
    pub strategy: String,
    /// In a whole step, all micro-batches together.
    pub calls: usize,
    /// Of all calls; the median over the steps profiled.
    pub seconds: f64,
    /// Of all ops' time.
    pub share: f64,
    pub gflops: f64,
    pub gigabytes_per_second: f64,
    /// Of the measured peak that lies nearer: of multiply-adds, or of copies.
    pub share_of_peak: f64,
}

/// Where the time of a step goes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub lines: Vec<Line>,
    /// Seconds of all ops of a step, by the clock of the device; and of a step by the wall clock.
    pub ops_seconds: f64,
    pub step_seconds: f64,
    pub peaks: Peaks,
}

/// What one op does in a step.
#[derive(Clone, Copy, Default)]
struct Work {
    seconds: f64,
    flops: f64,
    bytes: f64,
    calls: usize,
}

/// The shape of what an op writes.
pub(super) fn shape(plan: &Plan, op: usize) -> String {
    let io = &plan.ops[op].io;
    let one = |id: &TensorId| {
        let info = plan.info(*id);
        match info.rows.extent {
            Extent::Fixed => format!("{}×{}", info.rows.capacity, info.columns),
            extent => format!("{}×{}", extent.letter(), info.columns),
        }
    };
    let written: Vec<String> = io.writes.iter().chain(&io.updates).map(one).collect();
    // The other operand tells products apart that write the same shape.
    let read = io.reads.first().map(one).unwrap_or_default();
    if written.len() > 3 {
        format!("{read} → {} tensors", written.len())
    } else {
        format!("{read} → {}", written.join(" "))
    }
}

impl Profile {
    /// Profiles the given steps; `step_seconds` is what one takes without being looked at.
    pub fn measure(
        executor: &mut dyn Executor,
        feeding: &Feeding,
        steps: &[StepBatch],
        step_seconds: f64,
        peaks: Peaks,
    ) -> Result<Self> {
        let count = executor.plan().ops.len();
        let mut seconds = vec![Vec::with_capacity(steps.len()); count];
        let mut work = vec![Work::default(); count];
        for batch in steps {
            let mut step = vec![Work::default(); count];
            for phase in [Phase::Clear, Phase::Micro, Phase::Update] {
                let ops = executor.plan().phase(phase);
                feeding.each(phase, batch, 0.0, |values, uploads| {
                    let times = executor.profile(ops.clone(), values, uploads)?;
                    let extents = values.extents();
                    for (op, time) in ops.clone().zip(times) {
                        add(&mut step[op], executor.plan(), op, &extents, time);
                    }
                    Ok(())
                })?;
            }
            for (op, work) in step.iter().enumerate() {
                seconds[op].push(work.seconds);
            }
            work = step;
        }
        for (work, seconds) in work.iter_mut().zip(seconds) {
            work.seconds = median(seconds);
        }
        Ok(Self::table(executor, &work, step_seconds, peaks))
    }

    fn table(executor: &dyn Executor, work: &[Work], step_seconds: f64, peaks: Peaks) -> Self {
        let mut groups: BTreeMap<(String, String, String), Work> = BTreeMap::new();
        for (op, work) in work.iter().enumerate() {
            let plan = executor.plan();
            let key = (plan.ops[op].op.name().to_owned(), shape(plan, op), executor.strategy(op).to_owned());
            let group = groups.entry(key).or_default();
            group.seconds += work.seconds;
            group.flops += work.flops;
            group.bytes += work.bytes;
            group.calls += work.calls;
        }
        let ops_seconds: f64 = work.iter().map(|work| work.seconds).sum();
        let mut lines: Vec<Line> = groups
            .into_iter()
            .map(|((op, shape, strategy), work)| {
                let rate = |amount: f64| if work.seconds > 0.0 { amount / work.seconds } else { 0.0 };
                let (flops, bytes) = (rate(work.flops), rate(work.bytes));
                Line {
                    op,
                    shape,
                    strategy,
                    calls: work.calls,
                    seconds: work.seconds,
                    share: work.seconds / ops_seconds.max(f64::MIN_POSITIVE),
                    gflops: flops / 1e9,
                    gigabytes_per_second: bytes / 1e9,
                    share_of_peak: (flops / peaks.flops_per_second).max(bytes / peaks.bytes_per_second),
                }
            })
            .collect();
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Profile { lines, ops_seconds, step_seconds, peaks }
    }
}

fn add(work: &mut Work, plan: &Plan, op: usize, extents: &Extents, seconds: f64) {
    work.seconds += seconds;
    work.flops += plan.ops[op].op.flops(extents);
    work.bytes += plan.op_bytes(op, extents);
    work.calls += 1;
}

impl Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<26} {:<34} {:<12} {:>6} {:>9} {:>7} {:>8} {:>7} {:>7}",
            "op", "shape", "strategy", "calls", "ms", "share", "GFLOP/s", "GB/s", "of peak"
        )?;
        for line in &self.lines {
            writeln!(
                f,
                "{:<26} {:<34} {:<12} {:>6} {:>9.3} {:>6.1}% {:>8.1} {:>7.1} {:>6.0}%",
                line.op,
                line.shape,
                line.strategy,
                line.calls,
                1e3 * line.seconds,
                100.0 * line.share,
                line.gflops,
                line.gigabytes_per_second,
                100.0 * line.share_of_peak
            )?;
        }
        writeln!(
            f,
            "all ops {:.1} ms; a step by the wall clock {:.1} ms; measured peaks {:.1} GFLOP/s, {:.1} GB/s",
            1e3 * self.ops_seconds,
            1e3 * self.step_seconds,
            self.peaks.flops_per_second / 1e9,
            self.peaks.bytes_per_second / 1e9
        )
    }
}
