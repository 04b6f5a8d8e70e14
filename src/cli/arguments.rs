//! Flags that several subcommands have.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use serde::Serialize;

use crate::device::{Device, DeviceChoice};
use crate::note;
use crate::ranks::Ranks;
use crate::tensor::Precision;
use crate::train::presets::preset_names;

// No doc comments on the structs: clap would show them as the subcommand's.

#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// auto, cpu, gpu, gpu:N, or part of an adapter's name
    #[arg(long, default_value = "auto", hide_possible_values = true, value_parser = devices())]
    pub device: DeviceChoice,
    /// Threads of the CPU executor, up to 1024; 0 means one for each core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024).map(usize::from))]
    pub threads: usize,
}

impl DeviceArgs {
    pub fn open(&self) -> Result<Device> {
        Device::new(&self.device, self.threads)
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct MemoryArgs {
    /// Memory to take at most, as 8GiB or 6000MB [default: what the device has]
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
}

impl MemoryArgs {
    pub fn bytes(self) -> Option<u64> {
        self.memory_limit.map(|limit| limit.as_u64())
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

impl OutputArgs {
    /// Prints a report as JSON where that was asked for, else what `text` writes of it.
    pub fn show<R: Serialize>(
        self,
        report: &R,
        text: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(report)?).map_err(Into::into),
            false => text(&mut out),
        }
        .and_then(|()| Ok(out.flush()?))
        .context("cannot write to standard output")
    }

    /// As [`OutputArgs::show`], where people are told on stderr.
    pub fn show_json<R: Serialize>(self, report: &R) -> Result<()> {
        self.show(report, |_| Ok(()))
    }

    /// As [`OutputArgs::show_json`], of a command that has done what it is for when it reports: what it made is not
    /// lost with its report.
    pub fn show_afterwards<R: Serialize>(self, report: &R) {
        if let Err(error) = self.show_json(report)
            && !super::is_closed_pipe(&error)
        {
            warning!("inazuma: warning: {error:#}");
        }
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PrecisionArgs {
    /// f32; or f16: activations in half precision, on GPUs that have it
    #[arg(long, default_value = "f32", value_parser = precisions())]
    pub precision: Precision,
}

/// A number of things from 1 to `most`, in words that name both.
pub fn count_to(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=most).map(|count| count as usize)
}

/// Values that completions offer; the parser decides what is taken, and what is said of the rest.
#[derive(Clone)]
struct Suggesting<P> {
    values: Vec<&'static str>,
    parser: P,
}

impl<P: TypedValueParser> TypedValueParser for Suggesting<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<P::Value, clap::Error> {
        self.parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.values.iter().map(PossibleValue::new)))
    }
}

/// What `--device` takes: more than can be listed.
fn devices() -> impl TypedValueParser<Value = DeviceChoice> {
    let parser = |text: &str| text.parse::<DeviceChoice>();
    Suggesting { values: vec!["auto", "cpu", "gpu"], parser }
}

/// What `--preset` takes: any name here, since who looks for the preset names those that are near.
pub fn presets() -> impl TypedValueParser<Value = String> {
    Suggesting { values: preset_names().collect(), parser: StringValueParser::new() }
}

/// What `--precision` takes.
pub fn precisions() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::NAMES).try_map(|name| name.parse::<Precision>())
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ThreadArgs {
    /// Threads [default: all cores]; what is written is the same for any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    pub fn count(self) -> usize {
        self.threads.map_or_else(crate::files::cores, usize::from)
    }

    /// Of one rank: those of a machine divide its cores.
    pub fn of_rank(self, ranks: &Ranks) -> usize {
        self.threads.map_or_else(|| ranks.threads(), usize::from)
    }
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    shlex::try_quote(&path).map(Cow::into_owned).unwrap_or(path)
}

/// Watches for SIGINT, SIGTERM and SIGHUP; what it returns is set by the first of them, and the second ends the program
/// at once. Several ranks do so since they were started, and say `message` when all know of it.
pub fn interruptible(message: &'static str) -> Result<&'static AtomicBool> {
    LISTENS.store(true, Ordering::SeqCst);
    if ATTENDED.load(Ordering::SeqCst) {
        return Ok(&STOP);
    }
    let on_signal = move || match Signal::next() {
        Signal::First => note!("{message}; a second Ctrl-C or signal stops at once"),
        Signal::Same => {}
        Signal::Second => end_at_once(),
    };
    ctrlc::set_handler(on_signal).context("cannot watch for Ctrl-C")?;
    Ok(&STOP)
}

/// Of several ranks, watches for the same signals from now on. A launcher sends one where a rank has died, too.
pub fn attend(ranks: &Ranks) -> Result<()> {
    let Some(neighbours) = ranks.neighbours() else { return Ok(()) };
    let on_signal = move || {
        if neighbours.mourn() {
            note::end_now();
            std::process::exit(1);
        }
        if neighbours.is_ending() {
            return;
        }
        let signal = if LISTENS.load(Ordering::SeqCst) { Signal::next() } else { Signal::Second };
        if signal == Signal::Second {
            // That this one ends is no death that others were to tell of.
            neighbours.has_last_word();
            end_at_once();
        }
    };
    ctrlc::set_handler(on_signal).context("cannot watch for signals")?;
    ATTENDED.store(true, Ordering::SeqCst);
    Ok(())
}

/// Which one of the signals that have come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    First,
    /// `timeout` signals the process and its group, a terminal the group of a script that passes it on.
    Same,
    /// Who asks twice does not want to wait.
    Second,
}

impl Signal {
    fn next() -> Self {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let since = FIRST.get_or_init(Instant::now).elapsed();
        match STOP.swap(true, Ordering::Relaxed) {
            false => Signal::First,
            true if since < ONE_SIGNAL => Signal::Same,
            true => Signal::Second,
        }
    }
}

/// Nothing is lost: files are whole under their names or not there.
fn end_at_once() {
    note!("stopped at once");
    note::end_now();
    std::process::exit(130);
}

/// Whether signals are watched for already, and whether a command heeds the first one.
static ATTENDED: AtomicBool = AtomicBool::new(false);
static LISTENS: AtomicBool = AtomicBool::new(false);

/// The same for what saves nothing and says nothing: the first signal asks it to end.
pub fn ended_by_signal() -> Result<&'static AtomicBool> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot watch for signals")?;
    Ok(&STOP)
}

/// Two signals within this time are one.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Set by a signal; its handler can reach nothing else.
static STOP: AtomicBool = AtomicBool::new(false);
