//! `--profile-trace`: what the host and the device did when, in the trace event format that Perfetto and Chrome read.
//!
//! Two clocks are brought together: the ops of a phase are told by the device's own where it has one, and what of them is
//! last ends where the host has heard of it. Within a phase distances are exact; against the host they are late by the time
//! that a result takes to arrive.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::files::write_atomically;
use crate::plan::{Data, Executor, Phase, Plan, Upload};

/// Rows of the picture.
#[derive(Clone, Copy, Debug)]
enum Track {
    Host = 1,
    Uploads = 2,
    Device = 3,
}

/// Everything is one process of the trace.
const PROCESS: u32 = 1;

/// A span, or (`ph` is `M`) the name of a track. Times are microseconds.
#[derive(Clone, Debug, Serialize)]
struct Event {
    ph: &'static str,
    name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'static str,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Map<String, Value>,
}

/// When a run of a phase was begun, had its uploads, and was known to be done.
pub struct Times {
    pub begun: Instant,
    pub uploaded: Instant,
    pub done: Instant,
}

/// Spans of some steps.
#[derive(Clone, Debug)]
pub struct Trace {
    since: Instant,
    events: Vec<Event>,
    /// When the device was last known to be done, in nanoseconds.
    device_free: u64,
    /// When the host was done with the step before.
    host_free: Option<Instant>,
}

impl Default for Trace {
    fn default() -> Self {
        let mut trace = Trace { since: Instant::now(), events: Vec::new(), device_free: 0, host_free: None };
        trace.name("process_name", 0, "inazuma pretrain");
        for (track, name) in [
            (Track::Host, "host: steps and phases"),
            (Track::Uploads, "host: uploads"),
            (Track::Device, "device: ops"),
        ] {
            trace.name("thread_name", track as u32, name);
        }
        trace
    }
}

fn arguments(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

impl Trace {
    fn name(&mut self, what: &str, tid: u32, name: &str) {
        let args = arguments(json!({ "name": name }));
        let name = what.to_owned();
        self.events.push(Event { ph: "M", name, cat: "", pid: PROCESS, tid, ts: None, dur: None, args });
    }

    /// Nanoseconds since the trace began.
    fn at(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.since).as_nanos() as u64
    }

    fn span(&mut self, track: Track, cat: &'static str, name: String, ns: Range<u64>, args: Value) {
        let microseconds = |ns: u64| Some(ns as f64 / 1e3);
        self.events.push(Event {
            ph: "X",
            name,
            cat,
            pid: PROCESS,
            tid: track as u32,
            ts: microseconds(ns.start),
            dur: microseconds(ns.end.saturating_sub(ns.start)),
            args: arguments(args),
        });
    }

    /// A step that is over; between two of them batches are waited for and results taken.
    pub fn step(&mut self, number: u64, begun: Instant) {
        let now = Instant::now();
        if let Some(free) = self.host_free.replace(now) {
            let between = self.at(free)..self.at(begun);
            self.span(Track::Host, "between", "between steps".into(), between, json!({}));
        }
        let times = self.at(begun)..self.at(now);
        self.span(Track::Host, "step", format!("step {}", number + 1), times, json!({ "step": number + 1 }));
    }

    /// A run of a phase: its uploads, and its ops by the seconds in which each ran.
    pub fn run(
        &mut self,
        (phase, times): (&str, &Times),
        uploads: &[Upload<'_>],
        executor: &dyn Executor,
        (ops, seconds): (Range<usize>, &[Range<f64>]),
    ) {
        let plan = executor.plan();
        let [begun, uploaded, done] = [times.begun, times.uploaded, times.done].map(|time| self.at(time));
        self.span(Track::Host, "phase", phase.to_owned(), begun..done, json!({ "ops": ops.len() }));
        if !uploads.is_empty() {
            let bytes: Map<String, Value> = uploads
                .iter()
                .map(|upload| (plan.info(upload.tensor).name.clone(), size(upload).into()))
                .collect();
            let total: usize = uploads.iter().map(size).sum();
            let args = json!({ "bytes": total, "by_tensor": bytes });
            self.span(Track::Uploads, "upload", format!("{phase}: {total} bytes"), begun..uploaded, args);
        }
        let ns = |seconds: f64| (1e9 * seconds).round().max(0.0) as u64;
        let whole = seconds.last().map_or(0, |last| ns(last.end));
        let first = done.saturating_sub(whole).max(uploaded).max(self.device_free);
        for (op, span) in ops.zip(seconds) {
            // Where the device has begun the next op before one is done, the part that both share is given to the first:
            // spans of a row lie behind each other.
            let start = (first + ns(span.start)).max(self.device_free);
            let end = (first + ns(span.end)).max(start);
            self.device_free = end;
            let name = plan.ops[op].op.name().to_owned();
            self.span(Track::Device, phase_of(plan, op), name, start..end, describe(executor, op));
        }
    }

    /// Writes the trace.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path, executor: &dyn Executor) -> Result<()> {
        let trace = json!({
            "traceEvents": self.events,
            "displayTimeUnit": "ms",
            "otherData": { "program": "inazuma", "device": executor.identity().to_string() },
        });
        write_atomically(path, &serde_json::to_vec(&trace)?)
    }
}

fn size(upload: &Upload<'_>) -> usize {
    match upload.data {
        Data::Uint(data) => size_of_val(data),
        Data::Float(data) => size_of_val(data),
    }
}

fn phase_of(plan: &Plan, op: usize) -> &'static str {
    match plan.ops[op].phase {
        Phase::Clear => "clear",
        Phase::Micro => "micro",
        Phase::Update => "update",
    }
}

fn describe(executor: &dyn Executor, op: usize) -> Value {
    let plan = executor.plan();
    json!({
        "op": op,
        "label": plan.ops[op].label,
        "shape": plan.shapes(op),
        "strategy": executor.strategy(op),
    })
}
