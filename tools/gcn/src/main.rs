//! `tools/gcn-report`: what Mesa's compiler makes of the kernels for the Radeon VII (vega20), and a prediction from it.
//!
//! The kernels are those the selector takes for the pre-training plan of a preset. Each is compiled as the program would
//! compile it, on RADV's null device: no graphics card is needed, and nothing runs.
//!
//! A dispatch is predicted to take the longest of four times, and 3 µs for the launch and the barrier around it:
//!
//! | limit | seconds |
//! |---|---|
//! | `fma` | FLOPs done / (13.4 TFLOP/s · fill · FMA share · hiding) |
//! | `lds` | FLOPs done / (13.4 TFLOP/s · fill) · LDS cycles / multiply-adds, both of the loops that multiply |
//! | `memory` | bytes / (1 TB/s · 0.8) |
//! | `issue` | workgroups · waves · VALU instructions of the whole kernel · 4 cycles / (240 SIMDs · 1.745 GHz · fill · hiding) |
//!
//! - FLOPs done: those of the op, and what is computed twice (attention's backward) or beyond the edges of a matrix.
//! - FMA share: multiply-adds of floats over all instructions of the smallest loop around them. Attention has several
//!   such loops, which do equal parts of the work: their times are added.
//! - LDS cycles: a wavefront's bytes over 128, which is what a compute unit moves in a cycle in which its four SIMDs
//!   finish one multiply-add of a wavefront each. Bank conflicts are not seen.
//! - hiding: min(1, (waves + 2) / 6) for waves a SIMD: the budget of 4 is taken to hide all latencies.
//! - fill: workgroups come to 60 units; where they do not divide, the last round is not full.
//! - bytes: each tensor once in each direction. Tiles read again come from the cache, which has twice the bandwidth.
//!
//! What it cannot see: latencies that waves do not hide, bank conflicts, cache misses, clocks under load, uneven
//! lengths, and trip counts: code outside these loops counts once, code under a condition always.

mod compiler;
mod isa;
mod kernels;
mod predict;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use inazuma::gpu::shader;
use inazuma::tensor::Element;
use inazuma::train::config::Sources;

use compiler::{Compiled, Compiler};
use isa::Mix;
use kernels::Step;
use predict::Occupancy;
use report::Report;

/// Registers, waves, instruction mix and predicted speed of every kernel on a Radeon VII. Needs no Radeon VII.
#[derive(Parser)]
#[command(name = "tools/gcn-report")]
struct Args {
    /// Model and batch: tiny, small, small-128, small-plus-plus, base, large.
    #[arg(long, default_value = "small")]
    preset: String,
    /// Overrides a setting, as `inazuma pretrain --set`: micro_batch=8.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[arg(long, default_value_t = 32_000)]
    vocab_size: usize,
    /// Machine-readable, with the instruction counts.
    #[arg(long)]
    json: bool,
    /// Writes the disassembly of every kernel into this folder.
    #[arg(long, value_name = "FOLDER")]
    isa: Option<PathBuf>,
    /// Instead of the step: one shader as it is in this file, with the constants of --define.
    #[arg(long = "try", value_name = "FILE")]
    attempt: Option<PathBuf>,
    /// A constant of --try: BM=128.
    #[arg(short = 'D', long = "define", value_name = "NAME=VALUE", requires = "attempt")]
    define: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let compiler = Compiler::open()?;
    if let Some(file) = &args.attempt {
        return attempt(&compiler, file, &args);
    }
    let sources = Sources { preset: Some(args.preset), set: args.set, ..Sources::default() };
    let step = Step::new(&sources, args.vocab_size)?;
    let mut rows = Vec::with_capacity(step.kernels.len());
    for kernel in &step.kernels {
        let dispatch = &kernel.dispatch;
        let half = if kernel.elements.contains(&Element::Half) { " f16" } else { "" };
        let label = report::label(dispatch.shader, &dispatch.constants) + half;
        let source = shader::assemble(dispatch.shader, &dispatch.constants, &kernel.elements)?;
        let compiled = compiler
            .compile(&source, dispatch.bindings.len(), dispatch.immediates.words.len())
            .with_context(|| label.clone())?;
        if let Some(folder) = &args.isa {
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join(label.replace(['/', ' '], "_") + ".s"), &compiled.isa)?;
        }
        rows.push(report::row(kernel, occupancy(&compiled), isa::read(&compiled.isa), step.micro_batches()));
    }
    let report = Report::new(compiler.name, &step, rows);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.markdown());
    }
    Ok(())
}

fn occupancy(compiled: &Compiled) -> Occupancy {
    let statistic = |name: &str| compiled.statistic(name);
    let (threads, vgprs, sgprs) = (u64::from(compiled.threads), statistic("VGPRs"), statistic("SGPRs"));
    let lds = statistic("LDS size");
    let (workgroups_per_unit, waves) = predict::occupancy(threads, vgprs, sgprs, lds);
    let spilled = statistic("Spilled VGPRs") + statistic("Spilled SGPRs");
    Occupancy {
        threads,
        vgprs,
        sgprs,
        lds,
        spilled,
        scratch: statistic("Scratch size"),
        workgroups_per_unit,
        waves,
    }
}

/// One line on a shader that is being worked on; its disassembly goes where `--isa` says.
fn attempt(compiler: &Compiler, file: &std::path::Path, args: &Args) -> Result<()> {
    let body = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut constants = Vec::new();
    for define in &args.define {
        let (name, value) = define.split_once('=').with_context(|| format!("-D {define}: NAME=VALUE"))?;
        constants.push((name, value.parse::<u32>().with_context(|| format!("-D {define}"))?));
    }
    let name = file.file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
    // As many bindings as WebGPU guarantees, and all immediates: what is not used changes nothing.
    let compiled = compiler.compile(&shader::assemble_text(&name, &body, &constants, &[])?, 8, 32)?;
    let (occupancy, code) = (occupancy(&compiled), isa::read(&compiled.isa));
    ensure!(code.whole.all > 0, "no code");
    if let Some(folder) = &args.isa {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.s")), &compiled.isa)?;
    }
    print!(
        "{}: {} threads, {} VGPRs ({} before scheduling), {} SGPRs, {} LDS, {} spilled, {:.1} waves",
        report::label(&name, &constants),
        occupancy.threads,
        occupancy.vgprs,
        compiled.statistic("Pre-Sched VGPRs"),
        occupancy.sgprs,
        occupancy.lds,
        occupancy.spilled + occupancy.scratch,
        occupancy.waves,
    );
    if !code.loops.is_empty() {
        print!("; FMA {:.0} %, VALU {:.0} %", 100.0 * code.fma_share(), 100.0 * code.valu_share());
    }
    for mix in &code.loops {
        let Mix { all, fma, lds, lds_cycles, memory, .. } = mix;
        print!(
            "; a loop: {all} instructions, {fma} multiply-adds, {lds} LDS ({lds_cycles} cycles), {memory} memory"
        );
    }
    println!();
    Ok(())
}
