//! `tools/gcn-report`: what Mesa's compiler makes of the kernels for AMD's cards, and a prediction from it.
//!
//! The kernels are those the selector takes for the pre-training plan of a preset. Each is compiled as the program would
//! compile it, on RADV's null device: no graphics card is needed, and nothing runs.
//!
//! A dispatch is predicted to take the longest of four times, and 8 µs for the launch and the barrier around it:
//!
//! | limit | seconds |
//! |---|---|
//! | `fma`, `matrix` | FLOPs done / (peak · fill · useful share · hiding) |
//! | `lds` | useful instructions · bytes of workgroup memory for each of them / (128 · units · clock · fill) |
//! | `memory` | bytes / (bandwidth · 0.8) |
//! | `issue` | workgroups · waves · cycles of all vector arithmetic of the kernel / (SIMDs · clock · fill · hiding) |
//!
//! - FLOPs done: those of the op, and what is computed twice (in two kernels of attention's backward) or beyond the edges
//!   of a matrix.
//! - peak: of multiply-adds in f32, one an instruction; where a kernel has matrix instructions, of these.
//! - useful share: cycles of multiply-adds (of matrix instructions, where there are any) among the cycles of the smallest
//!   loop around them. Attention has several such loops, which do equal parts of the work: their times are added. A wave of
//!   64 lanes takes 4 cycles for an instruction on GCN, 2 on RDNA, where what is not vector arithmetic takes one; a matrix
//!   instruction takes 8,192 FLOPs over the peak of a SIMD. RDNA's pairs (`v_dual_…`) are two multiply-adds in one.
//! - lds: a unit moves 128 bytes a cycle. Bank conflicts are not seen.
//! - hiding: min(1, (waves + 2) / 6) for waves a SIMD of GCN: the budget of 4 is taken to hide all latencies. On SIMDs
//!   twice as wide, twice as many.
//! - fill: workgroups come to units; where they do not divide, the last round is not full.
//! - bytes: each tensor once in each direction. Tiles read again come from the cache.
//!
//! What it cannot see: latencies that waves do not hide, bank conflicts, cache misses, clocks under load, uneven
//! lengths, and trip counts: code outside these loops counts once, code under a condition always.

mod cards;
mod compiler;
mod isa;
mod kernels;
mod measured;
mod predict;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use inazuma::gpu::shader;
use inazuma::tensor::Element;
use inazuma::train::config::Sources;

use cards::{Architecture, Card};
use compiler::{Compiled, Compiler};
use isa::Mix;
use kernels::Step;
use predict::Occupancy;
use report::Report;

/// Registers, waves, instruction mix and predicted speed of every kernel on AMD's cards. Needs none of them.
#[derive(Parser)]
#[command(name = "tools/gcn-report")]
struct Args {
    /// What to compile for; h100 is there to check the formulas.
    #[arg(long, value_enum, default_value = "radeon-vii")]
    card: cards::Name,
    /// A profile that `inazuma bench step --profile` printed on this card: shown beside the prediction.
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
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
    /// Bindings of --try that hold f16: 1,3.
    #[arg(long, value_name = "BINDINGS", value_delimiter = ',', requires = "attempt")]
    half: Vec<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut reports = Vec::new();
    for card in args.card.cards() {
        let compiler = Compiler::open(card)?;
        match &args.attempt {
            Some(file) => attempt(&compiler, file, &args)?,
            None => reports.push(report(card, &compiler, &args)?),
        }
    }
    if args.attempt.is_some() {
        return Ok(());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    for report in &reports {
        println!("{}", report.markdown());
        if let Some(file) = &args.measured {
            println!("{}", measured::compare(report, file)?);
        }
    }
    print!("{}", report::overview(&reports));
    Ok(())
}

/// All kernels of the step, for one card.
fn report(card: &'static Card, compiler: &Compiler, args: &Args) -> Result<Report> {
    let sources = Sources { preset: Some(args.preset.clone()), set: args.set.clone(), ..Sources::default() };
    let step = Step::new(&sources, args.vocab_size, card)?;
    let mut rows = Vec::with_capacity(step.kernels.len());
    for kernel in &step.kernels {
        let dispatch = &kernel.dispatch;
        let half = if kernel.elements.contains(&Element::Half) { " f16" } else { "" };
        let label = report::label(dispatch.shader, &dispatch.constants) + half;
        let source = shader::assemble(dispatch.shader, &dispatch.constants, &kernel.elements)?;
        let compiled = compiler
            .compile(&source, dispatch.bindings.len(), dispatch.immediates.words.len())
            .with_context(|| format!("{label} for {card}"))?;
        if let Some(folder) = &args.isa {
            let folder = folder.join(card.family);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join(label.replace(['/', ' '], "_") + ".s"), &compiled.isa)?;
        }
        let occupancy = occupancy(card, &compiled);
        rows.push(report::row(card, kernel, occupancy, isa::read(&compiled.isa), step.micro_batches()));
    }
    Ok(Report::new(card, compiler.name.clone(), &step, rows))
}

fn occupancy(card: &Card, compiled: &Compiled) -> Occupancy {
    let statistic = |name: &str| compiled.statistic(name);
    let (threads, lanes) = (u64::from(compiled.threads), u64::from(compiled.lanes));
    let (sgprs, lds) = (statistic("SGPRs"), statistic("LDS size"));
    // RADV rounds up to what a number of waves of RDNA leaves.
    let nvidia = card.architecture == Architecture::Nvidia;
    let vgprs = statistic(if nvidia { "Pre-Sched VGPRs" } else { "VGPRs" });
    Occupancy {
        threads,
        lanes,
        vgprs,
        sgprs,
        lds,
        spilled: statistic("Spilled VGPRs") + statistic("Spilled SGPRs"),
        scratch: statistic("Scratch size"),
        waves: match card.architecture {
            Architecture::Gcn => predict::waves_of_gcn(threads, vgprs, sgprs, lds),
            // RADV counts waves of 32 lanes.
            Architecture::Rdna => statistic("Subgroups per SIMD") as f64 * 32.0 / lanes as f64,
            Architecture::Nvidia => predict::waves_of_nvidia(threads, vgprs, lds),
        },
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
    let element = |binding| if args.half.contains(&binding) { Element::Half } else { Element::Float };
    let elements: Vec<Element> = (1..=8).map(element).collect();
    let compiled = compiler.compile(&shader::assemble_text(&name, &body, &constants, &elements)?, 8, 32)?;
    let card = compiler.card;
    let (occupancy, code) = (occupancy(card, &compiled), isa::read(&compiled.isa));
    ensure!(code.whole.all > 0, "no code");
    if let Some(folder) = &args.isa {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.s")), &compiled.isa)?;
    }
    print!(
        "{card}, {}: {} threads of {} lanes, {} VGPRs ({} before scheduling), {} SGPRs, {} LDS, {} spilled, {:.1} waves",
        report::label(&name, &constants),
        occupancy.threads,
        occupancy.lanes,
        occupancy.vgprs,
        compiled.statistic("Pre-Sched VGPRs"),
        occupancy.sgprs,
        occupancy.lds,
        occupancy.spilled + occupancy.scratch,
        occupancy.waves,
    );
    let (what, useful): (_, fn(&Mix) -> u64) = match code.of_matrices() {
        true => ("matrix instructions", |mix| mix.matrix),
        false => ("multiply-adds", |mix| mix.fma),
    };
    if !code.loops.is_empty() {
        let share = predict::useful_share(card, occupancy.lanes, &code);
        print!("; {what} {:.0} %, VALU {:.0} %", 100.0 * share, 100.0 * code.valu_share());
    }
    for mix in &code.loops {
        let Mix { all, lds, lds_bytes, memory, .. } = mix;
        print!(
            "; a loop: {all} instructions, {} {what}, {lds} LDS ({lds_bytes} bytes a lane), {memory} memory",
            useful(mix)
        );
    }
    println!();
    Ok(())
}
