//! `inazuma bench`: what this machine makes of a training step.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::bench::{data, kernels, prepare, step, tune};
use crate::device::Peaks;
use crate::files::size;
use crate::store::WeightedPath;
use crate::train::config::Sources;

use super::arguments::{DeviceArgs, OutputArgs, ThreadArgs};
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
        /// Steps whose batches are made
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
        #[command(flatten)]
        threads: ThreadArgs,
        /// Everything is measured once a round; medians are shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// An interpreter that has the package sentencepiece
        #[arg(long, value_name = "PROGRAM", env = "INAZUMA_PYTHON", default_value = "python3")]
        python: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
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
    /// Of a configuration with phases, the one that is measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    phase: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Common {
    fn sources(&self) -> Sources {
        Sources { phase: Some(self.phase), ..self.configuration.sources() }
    }

    fn options(self, steps: usize, profiled: usize) -> step::Options {
        step::Options {
            sources: self.sources(),
            stores: self.store,
            device: self.device.device,
            threads: self.device.threads,
            steps,
            profiled,
            padded: false,
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Step { common, steps, profile, padded } => {
            let output = common.output;
            let options = step::Options { padded, ..common.options(steps, profile) };
            let report = step::run(&options)?;
            output.show(&report, |out| print_step(out, &report))
        }
        What::Kernels { common, tune: true, limit, .. } => {
            let output = common.output;
            let device = common.device.open()?;
            let sources = common.sources();
            let (_, config, _) = data::open(&common.store, &sources, device.room())?;
            let report = tune::run(&device, &config, Duration::from_secs(limit))?;
            output.show(&report, |out| print_tuning(out, &report))
        }
        What::Kernels { common, steps, .. } => {
            let output = common.output;
            let report = kernels::run(&common.options(steps, 0))?;
            output.show(&report, |out| {
                writeln!(
                    out,
                    "{}, micro-batches of {} × {}",
                    report.device, report.micro_batch, report.max_length
                )?;
                writeln!(
                    out,
                    "{} kinds and shapes of op agree with the CPU executor; the largest error is {:.1e}, {}",
                    report.checked, report.worst_error, report.worst_op
                )?;
                Ok(write!(out, "{}", report.profile)?)
            })
        }
        What::Data { common, steps, examples } => {
            let output = common.output;
            let (sources, stores) = (common.sources(), common.store);
            let report = data::run(&data::Options { stores, sources, steps, examples })?;
            output.show(&report, |out| {
                writeln!(out, "{:.2} million tokens/s on one thread (best step {:.2}); a step of {:.0} tokens in {:.2} ms; {:.1}% of the positions are real tokens",
                    report.tokens_per_second / 1e6,
                    report.tokens_per_second_best / 1e6,
                    report.tokens_per_step,
                    report.step_ms,
                    100.0 * report.fill
                )?;
                Ok(())
            })
        }
        What::Prepare { input, tokenizer, threads, rounds, python, output } => {
            let options =
                prepare::Options { inputs: input, tokenizer, threads: threads.count(), rounds, python };
            let report = prepare::run(&options)?;
            output.show(&report, |out| print_prepare(out, &report))
        }
        What::Peaks { common } => {
            let peaks = Peaks::measure(&common.device.open()?)?;
            common.output.show(&peaks, |out| {
                writeln!(
                    out,
                    "{:.1} GFLOP/s of f32 multiply-adds, {:.1} GB/s copied (read and written together)",
                    peaks.flops_per_second / 1e9,
                    peaks.bytes_per_second / 1e9
                )?;
                Ok(())
            })
        }
    }
}

fn print_step(out: &mut dyn Write, report: &step::Report) -> Result<()> {
    writeln!(
        out,
        "{}, {} × {} as micro-batches of {}",
        report.device, report.batch_size, report.max_length, report.micro_batch
    )?;
    writeln!(
        out,
        "{:.0} real tokens/s, {:.0} positions/s; a step in {:.1} ms (best {:.1} ms, {} steps); {:.1}% of the positions are real tokens",
        report.tokens_per_second,
        report.positions_per_second,
        report.step_ms,
        report.step_ms_best,
        report.steps,
        100.0 * report.fill
    )?;
    writeln!(
        out,
        "{:.1} GFLOP/s of the model, {:.1}% of the measured peak of {:.1} GFLOP/s; {} of memory; the first step after {:.2} s",
        report.model_flops_per_second / 1e9,
        100.0 * report.mfu,
        report.peak_flops_per_second / 1e9,
        size(report.peak_memory_bytes),
        report.startup_seconds
    )?;
    if report.submissions > 0.0 {
        writeln!(
            out,
            "{:.0} kernels a step in {:.1} submissions, recorded and submitted in {:.2} ms",
            report.dispatches, report.submissions, report.host_ms
        )?;
    }
    if let Some(profile) = &report.profile {
        write!(out, "{profile}")?;
    }
    Ok(())
}

fn print_prepare(out: &mut dyn Write, report: &prepare::Report) -> Result<()> {
    let line = |out: &mut dyn Write, what: &str, threads: usize, rate: f64| {
        writeln!(out, "{what:<38} {threads} thread(s)  {:6.2} million tokens/s", rate / 1e6)
    };
    writeln!(
        out,
        "{} tokens in {} sentences; medians of {} rounds",
        report.tokens, report.sentences, report.rounds
    )?;
    line(out, "SentencePiece's id-only call", 1, report.library_one_thread)?;
    line(out, "our encoding", 1, report.encode_one_thread)?;
    line(out, "SentencePiece's id-only call", report.threads, report.library_all_threads)?;
    line(out, "prepare, text to store", report.threads, report.prepare)?;
    if let Some(python) = &report.python {
        line(out, &format!("Python's sentencepiece {}", python.version), 1, python.tokens_per_second)?;
    }
    writeln!(
        out,
        "prepare is {:.2} × the library on as many threads, {:.2} × threads × the library on one",
        report.prepare_of_library_all_threads, report.prepare_of_library_one_thread
    )?;
    if let Some(ratio) = report.prepare_of_library_processor {
        writeln!(out, "in tokens a processor second prepare is {ratio:.2} × the library")?;
    }
    if let Some(python) = &report.python {
        writeln!(
            out,
            "our encoding is {:.2} × Python's, prepare {:.2} × threads × Python's",
            python.encode_of_python, python.prepare_of_python
        )?;
    }
    Ok(())
}

fn print_tuning(out: &mut dyn Write, report: &tune::Report) -> Result<()> {
    writeln!(out, "{}", report.device)?;
    for (signature, measured) in &report.ops {
        writeln!(out, "{signature}")?;
        for tune::Measured { strategy, seconds, right } in measured {
            writeln!(
                out,
                "  {strategy:<14} {:>9.3} ms{}",
                1e3 * seconds,
                if *right { "" } else { "  WRONG RESULTS" }
            )?;
        }
    }
    if report.unmeasured > 0 {
        writeln!(
            out,
            "{} kernels were left out when the time was up; --limit gives more",
            report.unmeasured
        )?;
    }
    writeln!(out, "kept in {}", report.kept_in.display())?;
    Ok(())
}
