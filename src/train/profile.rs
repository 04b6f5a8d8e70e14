//! Where a step's time goes: a table by op.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::device::Peaks;
use crate::plan::{Executor, Phase, Plan, Upload};
use crate::tensor::{Extents, StepValues};

use super::examples::StepBatch;
use super::feeding::{Feeding, PHASES};
use super::trace::{Times, Trace};

/// All ops of one kind and shape.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub op: String,
    /// Shapes of what it writes; T tokens, B sequences, M labelled rows.
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

/// Runs steps op by op and collects their times.
#[derive(Default)]
pub struct Profiler {
    /// Seconds of each op in each step.
    seconds: Vec<Vec<f64>>,
    work: Vec<Work>,
    /// Where it is wanted, what ran when.
    trace: Option<Trace>,
}

impl Profiler {
    /// Runs a step, all phases, as training would.
    pub fn step(
        &mut self,
        executor: &mut dyn Executor,
        feeding: &Feeding,
        batch: &StepBatch,
        learning_rate: f32,
    ) -> Result<()> {
        let count = executor.plan().ops.len();
        let mut step = vec![Work::default(); count];
        let begun = Instant::now();
        for phase in PHASES {
            let ops = executor.plan().phase(phase);
            let mut runs = 0;
            feeding.each(phase, batch, learning_rate, |values, uploads| {
                runs += 1;
                let spans = match &mut self.trace {
                    None => executor.timed(ops.clone(), values, uploads)?,
                    Some(trace) => traced(trace, executor, (phase, runs), ops.clone(), values, uploads)?,
                };
                let extents = values.extents();
                for (op, span) in ops.clone().zip(spans) {
                    add(&mut step[op], executor.plan(), op, &extents, span.end - span.start);
                }
                Ok(())
            })?;
        }
        if let Some(trace) = &mut self.trace {
            trace.step(batch.step, begun);
        }
        self.seconds.resize_with(count, Vec::new);
        for (op, work) in step.iter().enumerate() {
            self.seconds[op].push(work.seconds);
        }
        self.work = step;
        Ok(())
    }

    /// The table; `step_seconds` is what a step takes without being looked at.
    pub fn finish(self, executor: &dyn Executor, step_seconds: f64, peaks: Peaks) -> Profile {
        let mut work = self.work;
        for (work, seconds) in work.iter_mut().zip(self.seconds) {
            work.seconds = median(seconds);
        }
        Profile::table(executor, &work, step_seconds, peaks)
    }
}

/// Runs a phase, its uploads apart from its ops, and writes down what ran when.
fn traced(
    trace: &mut Trace,
    executor: &mut dyn Executor,
    (phase, number): (Phase, usize),
    ops: Range<usize>,
    values: &StepValues,
    uploads: &[Upload<'_>],
) -> Result<Vec<Range<f64>>> {
    let begun = Instant::now();
    executor.run(ops.start..ops.start, values, uploads)?;
    let uploaded = Instant::now();
    let spans = executor.timed(ops.clone(), values, &[])?;
    let times = Times { begun, uploaded, done: Instant::now() };
    let name = match phase {
        Phase::Clear => "clear".to_owned(),
        Phase::Micro => format!("micro-batch {number}"),
        Phase::Update => "update".to_owned(),
    };
    trace.run((&name, &times), uploads, executor, (ops, &spans));
    Ok(spans)
}

/// `pretrain --profile`: after some steps to warm up, times a few, then profiles a few and shows the table.
pub struct StepProfiler {
    first: u64,
    peaks: Peaks,
    timed: Vec<f64>,
    profiler: Profiler,
    /// Where the trace is to be written.
    trace: Option<PathBuf>,
}

impl StepProfiler {
    const WARM_UP: u64 = 3;
    const TIMED: u64 = 5;
    const PROFILED: u64 = 3;

    /// Of a run that begins at this step. What is profiled is written to `trace` as well, where there is one.
    pub fn new(first: u64, peaks: Peaks, trace: Option<PathBuf>) -> Self {
        let profiler = Profiler { trace: trace.is_some().then(Trace::default), ..Profiler::default() };
        StepProfiler { first, peaks, timed: Vec::new(), profiler, trace }
    }

    /// Steps after which it has seen enough.
    pub const STEPS: u64 = Self::WARM_UP + Self::TIMED + Self::PROFILED;

    /// A trace that cannot be written is no reason to stop training.
    fn write_trace(&self, executor: &dyn Executor) {
        let (Some(path), Some(trace)) = (&self.trace, &self.profiler.trace) else { return };
        match trace.write(path, executor) {
            Ok(()) => note!("{}: open it in ui.perfetto.dev", path.display()),
            Err(error) => note!("warning: --profile-trace: {error:#}"),
        }
    }

    /// Runs a step in one of the three ways; the table after the last, when it was shown.
    pub fn step(
        &mut self,
        executor: &mut dyn Executor,
        feeding: &Feeding,
        batch: &StepBatch,
        learning_rate: f32,
    ) -> Result<Option<Profile>> {
        let step = batch.step - self.first;
        if step < Self::WARM_UP + Self::TIMED {
            executor.finish()?;
            let since = Instant::now();
            feeding.step(executor, batch, learning_rate)?;
            executor.finish()?;
            if step >= Self::WARM_UP {
                self.timed.push(since.elapsed().as_secs_f64());
            }
            return Ok(None);
        }
        self.profiler.step(executor, feeding, batch, learning_rate)?;
        if step + 1 < Self::STEPS {
            return Ok(None);
        }
        self.write_trace(executor);
        let step_seconds = median(std::mem::take(&mut self.timed));
        let profile = std::mem::take(&mut self.profiler).finish(executor, step_seconds, self.peaks);
        note!("{}", profile.to_string().trim_end());
        Ok(Some(profile))
    }
}

/// The middle of some numbers; not a number where there are none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => 0.5 * (numbers[middle - 1] + numbers[middle]),
        _ => numbers[middle],
    }
}

impl Profile {
    fn table(executor: &dyn Executor, work: &[Work], step_seconds: f64, peaks: Peaks) -> Self {
        let mut groups: BTreeMap<(String, String, String), Work> = BTreeMap::new();
        for (op, work) in work.iter().enumerate() {
            let plan = executor.plan();
            let key = (plan.ops[op].op.name().to_owned(), plan.shapes(op), executor.strategy(op).to_owned());
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

#[cfg(test)]
mod tests {
    #[test]
    fn median_is_the_middle() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(super::median(vec![]).is_nan());
    }
}
