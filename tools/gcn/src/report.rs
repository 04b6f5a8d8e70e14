//! What is printed of a card: tables in Markdown, or JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::cards::Card;
use crate::isa::Code;
use crate::kernels::{Kernel, Step, adds_up};
use crate::predict::{self, Occupancy, Time, Work};

/// The budget of a kernel: no spill, this many waves of 64 lanes on every 16 lanes of a SIMD (twice as many on RDNA's 32),
/// and in products this share of multiply-adds, or of matrix instructions.
const WAVES: f64 = 4.0;
const USEFUL: f64 = 0.75;
/// The table leaves out what takes less of the step.
const LEAST: f64 = 0.005;

/// A kernel of the step.
#[derive(Serialize)]
pub struct Row {
    pub kernel: String,
    pub strategy: &'static str,
    /// Dispatches of a micro-batch, and those that happen once a step.
    pub calls: usize,
    pub calls_per_step: usize,
    #[serde(flatten)]
    pub occupancy: Occupancy,
    /// Multiply-adds, or matrix instructions, in the cycles of the loops that multiply; and vector arithmetic.
    pub useful_share: Option<f64>,
    pub valu_share: Option<f64>,
    pub code: Code,
    /// Of all calls of a step.
    pub work: Work,
    /// Seconds of a step.
    pub seconds: f64,
    /// FLOP/s of those that the algorithm needs.
    pub flops_per_second: f64,
    /// What the time is made of: `fma` or `matrix`, `lds`, `memory`, `issue`.
    pub limit: &'static str,
    /// What breaks the budget.
    pub breaks: Vec<String>,
    /// Seconds of a step by kinds of op.
    #[serde(skip)]
    pub by_kind: Vec<(usize, f64)>,
}

/// An op with what it writes, as `inazuma bench step --profile` tells them apart.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    pub op: &'static str,
    pub shape: String,
    pub seconds: f64,
}

/// The whole report of a card.
#[derive(Serialize)]
pub struct Report {
    pub card: &'static str,
    pub compiler: String,
    pub batch: usize,
    pub micro_batch: usize,
    pub length: usize,
    pub half: bool,
    pub kernels: Vec<Row>,
    pub kinds: Vec<Kind>,
    pub flops: f64,
    pub seconds: f64,
    /// The same with each part as far off as on the H100.
    pub seconds_as_on_h100: f64,
    /// Positions, padding-free batches of full length.
    pub tokens_per_second: f64,
}

/// Name and constants of a kernel, the products' in words.
pub fn label(shader: &str, constants: &[(&str, u32)]) -> String {
    let value = |name: &str| constants.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let mut label = shader.to_owned();
    for &(name, v) in constants {
        let named = |names: &[&str]| names.get(v as usize).map_or(format!("{name}={v}"), |n| n.to_string());
        let part = match name {
            "FORM" => named(&["Nt", "Nn", "Tn"]),
            "EPILOGUE" => named(&["", "+bias", "+bias gelu", "·gelu′", "+residual"]),
            "SPLIT" | "BIAS_GRADIENT" | "VECTOR" | "VEC" if v == 0 => String::new(),
            "SPLIT" => "split".into(),
            "BIAS_GRADIENT" => "+db".into(),
            "BM" => format!("{v}×{}", value("BN").unwrap_or(0)),
            "TM" => format!("/{v}×{}", value("TN").unwrap_or(4)),
            "BN" | "TN" | "BK" | "VECTOR" | "VEC" => String::new(),
            "HEAD_SIZE" => format!("head {v}"),
            _ if v == 0 => String::new(),
            _ => format!("{}={v}", name.to_lowercase()),
        };
        if !part.is_empty() {
            label += if part.starts_with('/') { "" } else { " " };
            label += &part;
        }
    }
    label
}

fn is_product(shader: &str) -> bool {
    ["matmul_", "attention_"].iter().any(|kind| shader.starts_with(kind)) && !adds_up(shader)
}

/// What breaks the budget.
fn breaks(card: &Card, shader: &str, occupancy: &Occupancy, code: &Code) -> Vec<String> {
    let mut breaks = Vec::new();
    if occupancy.spilled > 0 || occupancy.scratch > 0 {
        breaks.push(format!("spills ({} registers, {} bytes)", occupancy.spilled, occupancy.scratch));
    }
    if occupancy.waves * occupancy.lanes as f64 / 64.0 < WAVES * card.width() / 16.0 {
        breaks.push(format!("{:.1} waves", occupancy.waves));
    }
    let share = if code.loops.is_empty() { 0.0 } else { predict::useful_share(card, occupancy.lanes, code) };
    if is_product(shader) && share < USEFUL {
        let what = if code.of_matrices() { "matrix" } else { "FMA" };
        breaks.push(format!("{what} share {:.0} %", 100.0 * share));
    }
    breaks
}

/// A kernel with its times over a step of `micro_batches`.
pub fn row(card: &Card, kernel: &Kernel, occupancy: Occupancy, code: Code, micro_batches: usize) -> Row {
    let mut work = Work::default();
    let mut times = Time::default();
    let mut by_kind = Vec::new();
    let repeated = kernel.per_micro.iter().map(|one| (one, micro_batches as f64));
    for ((one, kind), times_run) in repeated.chain(kernel.per_step.iter().map(|one| (one, 1.0))) {
        let time = predict::time(card, &occupancy, &code, one);
        by_kind.push((*kind, time.total() * times_run));
        for (sum, part) in [
            (&mut work.workgroups, one.workgroups),
            (&mut work.flops, one.flops),
            (&mut work.executed, one.executed),
            (&mut work.bytes, one.bytes),
            (&mut times.multiply_adds, time.multiply_adds),
            (&mut times.workgroup_memory, time.workgroup_memory),
            (&mut times.memory, time.memory),
            (&mut times.instructions, time.instructions),
        ] {
            *sum += part * times_run;
        }
    }
    let seconds = by_kind.iter().map(|(_, seconds)| seconds).sum::<f64>();
    let limits = [
        (times.multiply_adds, if code.of_matrices() { "matrix" } else { "fma" }),
        (times.workgroup_memory, "lds"),
        (times.memory, "memory"),
        (times.instructions, "issue"),
    ];
    let limit = limits.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, name)| name);
    let shader = kernel.dispatch.shader;
    let multiplies = !code.loops.is_empty();
    Row {
        kernel: label(shader, &kernel.dispatch.constants),
        strategy: kernel.strategy,
        calls: kernel.per_micro.len(),
        calls_per_step: kernel.per_step.len(),
        breaks: breaks(card, shader, &occupancy, &code),
        useful_share: multiplies.then(|| predict::useful_share(card, occupancy.lanes, &code)),
        valu_share: multiplies.then(|| code.valu_share()),
        occupancy,
        code,
        flops_per_second: work.flops / seconds,
        work,
        seconds,
        limit,
        by_kind,
    }
}

/// The parts of a step that are summed up: a name, and the ops of it; the last takes the others.
const PARTS: [(&str, &[&str]); 4] = [
    ("products", &["matmul"]),
    ("attention", &["attention"]),
    ("its gradient", &["attention_gradient"]),
    ("the rest", &[]),
];

/// What was measured on the H100 over what these formulas predict for it, by part of the step (docs/performance.md): of
/// kernels of multiply-adds, and of those of matrix instructions.
const OFF: [(&str, f64, f64); 4] =
    [("products", 0.9, 1.7), ("attention", 1.5, 0.9), ("its gradient", 1.3, 1.2), ("the rest", 1.0, 1.0)];

fn off(part: &str, of_matrices: bool) -> f64 {
    let found = OFF.iter().find(|(name, ..)| *name == part);
    found.map_or(1.0, |&(_, multiply_adds, matrices)| if of_matrices { matrices } else { multiply_adds })
}

/// The part of a step that an op belongs to.
pub fn part_of(op: &str) -> &'static str {
    PARTS.iter().find(|(_, ops)| ops.contains(&op) || ops.is_empty()).map_or("", |(name, _)| name)
}

pub fn parts() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|(name, _)| *name)
}

impl Report {
    pub fn new(card: &Card, compiler: String, step: &Step, mut kernels: Vec<Row>) -> Self {
        let kind = |(op, shape): &(&'static str, String)| Kind { op, shape: shape.clone(), seconds: 0.0 };
        let mut kinds: Vec<Kind> = step.kinds.iter().map(kind).collect();
        let mut seconds_as_on_h100 = 0.0;
        for row in &kernels {
            for (kind, seconds) in &row.by_kind {
                let kind = &mut kinds[*kind];
                kind.seconds += seconds;
                seconds_as_on_h100 += seconds * off(part_of(kind.op), row.code.of_matrices());
            }
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let seconds = kernels.iter().map(|row| row.seconds).sum::<f64>();
        Report {
            card: card.name,
            compiler,
            batch: step.batch,
            micro_batch: step.micro_batch,
            length: step.length,
            half: step.half,
            kernels,
            kinds,
            flops: step.micro_flops * step.micro_batches() as f64 + step.update_flops,
            seconds,
            seconds_as_on_h100,
            tokens_per_second: (step.batch * step.length) as f64 / seconds,
        }
    }

    /// Seconds of a part of the step.
    pub fn seconds_of(&self, part: &str) -> f64 {
        self.kinds.iter().filter(|kind| part_of(kind.op) == part).map(|kind| kind.seconds).sum()
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} ({}); batch {} × {} in micro-batches of {}, {}\n\n",
            self.card,
            self.compiler,
            self.batch,
            self.length,
            self.micro_batch,
            self.precision()
        );
        text += "| kernel | calls | threads, lanes | VGPR | LDS | spill | waves | useful | VALU | LDS/mem instr. | GFLOP | MB | ms | limit | TFLOP/s |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        let (hot, cold): (Vec<&Row>, Vec<&Row>) =
            self.kernels.iter().partition(|row| row.seconds >= LEAST * self.seconds);
        hot.iter().for_each(|row| text += &line(row));
        let rest = cold.iter().map(|row| row.seconds).sum::<f64>();
        let _ = writeln!(text, "\nand {} others: {:.2} ms", cold.len(), rest * 1e3);
        let _ = writeln!(
            text,
            "step: {:.0} GFLOP in {:.1} ms: {:.1} TFLOP/s, {:.0} tokens/s (predicted, not measured)",
            self.flops / 1e9,
            self.seconds * 1e3,
            self.flops / self.seconds / 1e12,
            self.tokens_per_second
        );
        text += &self.broken();
        text
    }

    fn precision(&self) -> &'static str {
        if self.half { "f16" } else { "f32" }
    }

    /// The kernels that break the budget, a line each.
    fn broken(&self) -> String {
        let broken: Vec<&Row> = self.kernels.iter().filter(|row| !row.breaks.is_empty()).collect();
        let mut text = format!("\n{} of {} kernels break the budget\n", broken.len(), self.kernels.len());
        for row in broken {
            let share = 100.0 * row.seconds / self.seconds;
            let _ = writeln!(text, "- {}: {} ({share:.1} % of the step)", row.kernel, row.breaks.join(", "));
        }
        text
    }
}

fn line(row: &Row) -> String {
    let o = &row.occupancy;
    let percent = |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
    let calls = match (row.calls, row.calls_per_step) {
        (n, 0) => format!("{n}"),
        (0, n) => format!("{n}/step"),
        (n, m) => format!("{n} + {m}/step"),
    };
    let lds: u64 = row.code.loops.iter().map(|mix| mix.lds).sum();
    let memory: u64 = row.code.loops.iter().map(|mix| mix.memory).sum();
    let speed =
        if row.work.flops > 0.0 { format!("{:.1}", row.flops_per_second / 1e12) } else { "–".into() };
    format!(
        "| {} | {calls} | {}, {} | {} | {} | {} | {:.1} | {} | {} | {lds}/{memory} | {:.1} | {:.0} | {:.2} | {} | {speed} |\n",
        row.kernel,
        o.threads,
        o.lanes,
        o.vgprs,
        o.lds,
        o.spilled + o.scratch,
        o.waves,
        percent(row.useful_share),
        percent(row.valu_share),
        row.work.flops / 1e9,
        row.work.bytes / 1e6,
        row.seconds * 1e3,
        row.limit,
    )
}

/// A line for each card.
pub fn overview(reports: &[Report]) -> String {
    let mut text = String::from("| card | precision |");
    parts().for_each(|part| text += &format!(" {part}, ms |"));
    text += " step, ms | tokens/s | as on the H100, ms | tokens/s | spills | budget broken by |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for report in reports {
        let _ = write!(text, "| {} | {} |", report.card, report.precision());
        for part in parts() {
            let _ = write!(text, " {:.1} |", report.seconds_of(part) * 1e3);
        }
        let spills =
            report.kernels.iter().filter(|row| row.occupancy.spilled + row.occupancy.scratch > 0).count();
        let broken = report.kernels.iter().filter(|row| !row.breaks.is_empty());
        let share = 100.0 * broken.clone().map(|row| row.seconds).sum::<f64>() / report.seconds;
        let _ = writeln!(
            text,
            " {:.1} | {:.0} | {:.1} | {:.0} | {spills} | {} ({share:.0} % of the step) |",
            report.seconds * 1e3,
            report.tokens_per_second,
            report.seconds_as_on_h100 * 1e3,
            (report.batch * report.length) as f64 / report.seconds_as_on_h100,
            broken.count()
        );
    }
    text
}
