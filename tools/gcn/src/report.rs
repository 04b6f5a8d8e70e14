//! What is printed: a table in Markdown, or JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::isa::Code;
use crate::kernels::{Kernel, Step};
use crate::predict::{self, Occupancy, PEAK_FLOPS, Time, Work};

/// The budget of a kernel: no spill, this many waves, and in products this share of multiply-adds.
const WAVES: f64 = 4.0;
const FMA_SHARE: f64 = 0.75;

/// A kernel of the step.
#[derive(Serialize)]
pub struct Row {
    pub kernel: String,
    /// Dispatches of a micro-batch, and those that happen once a step.
    pub calls: usize,
    pub calls_per_step: usize,
    #[serde(flatten)]
    pub occupancy: Occupancy,
    pub fma_share: Option<f64>,
    pub valu_share: Option<f64>,
    pub code: Code,
    /// Of all calls of a step.
    pub work: Work,
    /// Seconds of a step.
    pub seconds: f64,
    /// Of the peak, for the FLOPs the algorithm needs.
    pub share_of_peak: f64,
    /// What the time is made of: `fma`, `lds`, `memory`, `issue`.
    pub limit: &'static str,
    /// What breaks the budget.
    pub breaks: Vec<String>,
}

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    pub compiler: String,
    pub batch: usize,
    pub micro_batch: usize,
    pub length: usize,
    pub kernels: Vec<Row>,
    pub flops: f64,
    pub seconds: f64,
    pub share_of_peak: f64,
    /// Positions, padding-free batches of full length.
    pub tokens_per_second: f64,
}

/// Name and constants of a kernel, the products' in words.
pub fn label(shader: &str, constants: &[(&str, u32)]) -> String {
    let value = |name: &str| constants.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let mut label = shader.to_owned();
    for &(name, v) in constants {
        let part = match name {
            "FORM" => ["Nt", "Nn", "Tn"][v as usize].to_owned(),
            "EPILOGUE" => ["", "+bias", "+bias gelu", "·gelu′", "+residual"][v as usize].to_owned(),
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
    (shader.starts_with("matmul_") && shader != "matmul_sum_splits") || shader.starts_with("attention_")
}

/// What breaks the budget.
fn breaks(shader: &str, occupancy: &Occupancy, code: &Code) -> Vec<String> {
    let mut breaks = Vec::new();
    if occupancy.spilled > 0 || occupancy.scratch > 0 {
        breaks.push(format!("spills ({} registers, {} bytes)", occupancy.spilled, occupancy.scratch));
    }
    if occupancy.waves < WAVES {
        breaks.push(format!("{:.1} waves", occupancy.waves));
    }
    let share = if code.loops.is_empty() { 0.0 } else { code.fma_share() };
    if is_product(shader) && share < FMA_SHARE {
        breaks.push(format!("FMA share {:.0} %", 100.0 * share));
    }
    breaks
}

/// A kernel with its times over a step of `micro_batches`.
pub fn row(kernel: &Kernel, occupancy: Occupancy, code: Code, micro_batches: usize) -> Row {
    let mut work = Work::default();
    let mut times = Time::default();
    let mut seconds = 0.0;
    let repeated = kernel.per_micro.iter().map(|work| (work, micro_batches as f64));
    for (one, times_run) in repeated.chain(kernel.per_step.iter().map(|work| (work, 1.0))) {
        let time = predict::time(&occupancy, &code, one);
        seconds += time.total() * times_run;
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
    let limits = [
        (times.multiply_adds, "fma"),
        (times.workgroup_memory, "lds"),
        (times.memory, "memory"),
        (times.instructions, "issue"),
    ];
    let limit = limits.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, name)| name);
    let shader = kernel.dispatch.shader;
    let multiplies = !code.loops.is_empty();
    Row {
        kernel: label(shader, &kernel.dispatch.constants),
        calls: kernel.per_micro.len(),
        calls_per_step: kernel.per_step.len(),
        breaks: breaks(shader, &occupancy, &code),
        occupancy,
        fma_share: multiplies.then(|| code.fma_share()),
        valu_share: multiplies.then(|| code.valu_share()),
        code,
        work,
        seconds,
        share_of_peak: work.flops / seconds / PEAK_FLOPS,
        limit,
    }
}

impl Report {
    pub fn new(compiler: String, step: &Step, mut kernels: Vec<Row>) -> Self {
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let seconds = kernels.iter().map(|row| row.seconds).sum::<f64>();
        let flops = step.micro_flops * step.micro_batches() as f64 + step.update_flops;
        Report {
            compiler,
            batch: step.batch,
            micro_batch: step.micro_batch,
            length: step.length,
            kernels,
            flops,
            seconds,
            share_of_peak: flops / seconds / PEAK_FLOPS,
            tokens_per_second: (step.batch * step.length) as f64 / seconds,
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}; batch {} × {} in micro-batches of {}\n\n",
            self.compiler, self.batch, self.length, self.micro_batch
        );
        text += "| kernel | calls | threads | VGPR | SGPR | LDS | spill | waves | FMA | VALU | LDS/mem instr. | GFLOP | MB | ms | limit | of peak |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for row in &self.kernels {
            let o = &row.occupancy;
            let percent =
                |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
            let calls = match (row.calls, row.calls_per_step) {
                (n, 0) => format!("{n}"),
                (0, n) => format!("{n}/step"),
                (n, m) => format!("{n} + {m}/step"),
            };
            let lds: u64 = row.code.loops.iter().map(|mix| mix.lds).sum();
            let memory: u64 = row.code.loops.iter().map(|mix| mix.memory).sum();
            let _ = writeln!(
                text,
                "| {} | {calls} | {} | {} | {} | {} | {} | {:.1} | {} | {} | {lds}/{memory} | {:.1} | {:.0} | {:.2} | {} | {} |",
                row.kernel,
                o.threads,
                o.vgprs,
                o.sgprs,
                o.lds,
                o.spilled,
                o.waves,
                percent(row.fma_share),
                percent(row.valu_share),
                row.work.flops / 1e9,
                row.work.bytes / 1e6,
                row.seconds * 1e3,
                row.limit,
                percent(Some(row.share_of_peak).filter(|_| row.work.flops > 0.0)),
            );
        }
        let _ = writeln!(
            text,
            "\nstep: {:.0} GFLOP in {:.1} ms: {:.0} % of {:.1} TFLOP/s, {:.0} tokens/s (predicted, not measured)",
            self.flops / 1e9,
            self.seconds * 1e3,
            100.0 * self.share_of_peak,
            PEAK_FLOPS / 1e12,
            self.tokens_per_second
        );
        text += &self.broken();
        text
    }

    /// The kernels that break the budget, a line each.
    fn broken(&self) -> String {
        let broken: Vec<&Row> = self.kernels.iter().filter(|row| !row.breaks.is_empty()).collect();
        let mut text = format!(
            "\n{} of {} kernels break the budget (no spill, 4 waves, products 75 % FMA)\n",
            broken.len(),
            self.kernels.len()
        );
        for row in broken {
            let share = 100.0 * row.seconds / self.seconds;
            let _ = writeln!(text, "- {}: {} ({share:.0} % of the step)", row.kernel, row.breaks.join(", "));
        }
        text
    }
}
