//! `inazuma bench`: what this machine makes of a training step.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use crate::bench::{data, kernels, prepare, step, tune};
use crate::device::{Device, DeviceChoice, Peaks};
use crate::store::WeightedPath;

use super::configuration::Configuration;

/// Measure whole steps, the ops of a step, batches, `prepare`, or the device's peaks
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma bench step --preset small --set batch_size=8 --set max_length=128
  inazuma bench kernels --preset small --device gpu --json
  inazuma bench data --store wiki.store
  inazuma bench prepare kyoto.txt --tokenizer wiki.model")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Whole training steps, data, sampling and optimiser included: medians, tokens/s, share of the peak
    Step {
        #[command(flatten)]
        common: Common,
        /// Steps that count, after one that warms up
        #[arg(long, default_value_t = 10)]
        steps: usize,
        /// Also profile so many steps: a table by op with time, rates and share of the peaks
        #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "3", default_value_t = 0)]
        profile: usize,
        /// Compute padding like the rest, up to the full length: shows what packing saves
        #[arg(long)]
        padded: bool,
    },
    /// Every op of a step: checked against the CPU executor, then timed
    Kernels {
        #[command(flatten)]
        common: Common,
        /// Steps (each with other inputs) of which the median counts
        #[arg(long, default_value_t = 3)]
        steps: usize,
        /// Measure all kernels there are for each op, and keep the fastest for later runs on this device
        #[arg(long)]
        tune: bool,
        /// Seconds that --tune may take
        #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "tune")]
        limit: u64,
    },
    /// Making batches: cutting examples, masking, packing
    Data {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 50)]
        steps: usize,
        /// Write the masked examples as JSON lines, to measure other programs with
        #[arg(long, value_name = "FILE.jsonl")]
        examples: Option<PathBuf>,
    },
    /// The whole of `prepare`, beside encoding alone: SentencePiece's own call, ours, and Python's package
    Prepare {
        /// Directories that `extract` wrote, JSONL with a `text` field, or plain text
        #[arg(required = true)]
        input: Vec<PathBuf>,
        /// A SentencePiece model with [PAD] [CLS] [SEP] [MASK]
        #[arg(long, value_name = "MODEL")]
        tokenizer: PathBuf,
        /// Threads of `prepare`, and of the library beside it [default: all cores]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
        threads: Option<u16>,
        /// Everything is measured once a round; medians are shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// An interpreter that has the package sentencepiece
        #[arg(long, value_name = "PROGRAM", env = "INAZUMA_PYTHON", default_value = "python3")]
        python: PathBuf,
        /// Print one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// The device's peak rates, as the probes find them
    Peaks {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
struct Common {
    /// Real text; without it random sequences of full length
    #[arg(long, value_name = "STORE[:WEIGHT]")]
    store: Vec<WeightedPath>,
    #[command(flatten)]
    configuration: Configuration,
    /// auto, cpu, gpu, gpu:N, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

impl Common {
    fn options(self, steps: usize, profiled: usize) -> step::Options {
        step::Options {
            stores: self.store,
            sources: self.configuration.sources(),
            device: self.device,
            threads: self.threads,
            steps,
            profiled,
            padded: false,
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Step { common, steps, profile, padded } => {
            let json = common.json;
            let options = step::Options { padded, ..common.options(steps, profile) };
            let report = step::run(&options)?;
            show(json, &report, || print_step(&report))
        }
        What::Kernels { common, tune: true, limit, .. } => {
            let json = common.json;
            let step::Options { stores, sources, device, threads, .. } = common.options(1, 0);
            let device = Device::new(&device, threads)?;
            let (_, config, _) = data::open(&stores, &sources, device.is_gpu())?;
            let report = tune::run(&device, &config, Duration::from_secs(limit))?;
            show(json, &report, || print_tuning(&report))
        }
        What::Kernels { common, steps, .. } => {
            let json = common.json;
            let report = kernels::run(&common.options(steps, 0))?;
            show(json, &report, || {
                println!(
                    "{}, micro-batches of {} × {}",
                    report.device, report.micro_batch, report.max_length
                );
                println!(
                    "{} kinds and shapes of op agree with the CPU executor; the largest error is {:.1e}, {}",
                    report.checked, report.worst_error, report.worst_op
                );
                print!("{}", report.profile);
            })
        }
        What::Data { common, steps, examples } => {
            let json = common.json;
            let step::Options { stores, sources, .. } = common.options(0, 0);
            let report = data::run(&data::Options { stores, sources, steps, examples })?;
            show(json, &report, || {
                println!(
                    "{:.2} million tokens/s on one thread (best step {:.2}); a step of {:.0} tokens in {:.2} ms; {:.1}% of the positions are real tokens",
                    report.tokens_per_second / 1e6,
                    report.tokens_per_second_best / 1e6,
                    report.tokens_per_step,
                    report.step_ms,
                    100.0 * report.fill
                );
            })
        }
        What::Prepare { input, tokenizer, threads, rounds, python, json } => {
            let threads = threads.map_or_else(super::cores, usize::from);
            let options = prepare::Options { inputs: input, tokenizer, threads, rounds, python };
            let report = prepare::run(&options)?;
            show(json, &report, || print_prepare(&report))
        }
        What::Peaks { common } => {
            let peaks = Peaks::measure(&Device::new(&common.device, common.threads)?)?;
            show(common.json, &peaks, || {
                println!(
                    "{:.1} GFLOP/s of f32 multiply-adds, {:.1} GB/s copied (read and written together)",
                    peaks.flops_per_second / 1e9,
                    peaks.bytes_per_second / 1e9
                );
            })
        }
    }
}

fn show<R: Serialize>(json: bool, report: &R, print: impl FnOnce()) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(report)?),
        false => print(),
    }
    Ok(())
}

fn print_step(report: &step::Report) {
    println!(
        "{}, {} × {} as micro-batches of {}",
        report.device, report.batch_size, report.max_length, report.micro_batch
    );
    println!(
        "{:.0} real tokens/s, {:.0} positions/s; a step in {:.1} ms (best {:.1} ms, {} steps); {:.1}% of the positions are real tokens",
        report.tokens_per_second,
        report.positions_per_second,
        report.step_ms,
        report.step_ms_best,
        report.steps,
        100.0 * report.fill
    );
    println!(
        "{:.1} GFLOP/s of the model, {:.1}% of the measured peak of {:.1} GFLOP/s; {:.0} MB of memory; the first step after {:.2} s",
        report.model_flops_per_second / 1e9,
        100.0 * report.mfu,
        report.peak_flops_per_second / 1e9,
        report.peak_memory_bytes as f64 / 1e6,
        report.startup_seconds
    );
    if let Some(profile) = &report.profile {
        print!("{profile}");
    }
}

fn print_prepare(report: &prepare::Report) {
    let line = |what: &str, threads: usize, rate: f64| {
        println!("{what:<38} {threads} thread(s)  {:6.2} million tokens/s", rate / 1e6);
    };
    println!(
        "{} tokens in {} sentences; medians of {} rounds",
        report.tokens, report.sentences, report.rounds
    );
    line("SentencePiece's id-only call", 1, report.library_one_thread);
    line("our encoding", 1, report.encode_one_thread);
    line("SentencePiece's id-only call", report.threads, report.library_all_threads);
    line("prepare, text to store", report.threads, report.prepare);
    if let Some(python) = &report.python {
        line(&format!("Python's sentencepiece {}", python.version), 1, python.tokens_per_second);
    }
    println!(
        "prepare is {:.2} × the library on as many threads, {:.2} × threads × the library on one",
        report.prepare_of_library_all_threads, report.prepare_of_library_one_thread
    );
    if let Some(ratio) = report.prepare_of_library_processor {
        println!("in tokens a processor second prepare is {ratio:.2} × the library");
    }
    if let Some(python) = &report.python {
        println!(
            "our encoding is {:.2} × Python's, prepare {:.2} × threads × Python's",
            python.encode_of_python, python.prepare_of_python
        );
    }
}

fn print_tuning(report: &tune::Report) {
    println!("{}", report.device);
    for (signature, measured) in &report.ops {
        println!("{signature}");
        for tune::Measured { strategy, seconds, right } in measured {
            println!(
                "  {strategy:<14} {:>9.3} ms{}",
                1e3 * seconds,
                if *right { "" } else { "  WRONG RESULTS" }
            );
        }
    }
    if report.unmeasured > 0 {
        println!("{} kernels were left out when the time was up; --limit gives more", report.unmeasured);
    }
    println!("kept in {}", report.kept_in.display());
}
