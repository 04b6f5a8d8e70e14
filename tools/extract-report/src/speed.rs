//! The whole extraction against decompression alone, on the same cores and the same file, and what one core cleans:
//! alternated.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use inazuma::corpus::{self, Format, Settings, Style};

#[derive(clap::Args)]
pub struct Args {
    /// A dump, .xml.bz2
    #[arg(value_name = "DUMP")]
    dump: PathBuf,
    /// Measure a file that holds the dump N times over
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: usize,
    /// Threads that decode and clean [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Times that each is measured; the medians are compared
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Where the repeated dump and the articles go, for the time of the measurement [default: the system's]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Exit with status 1 below this ratio, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    require: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores);
    let scratch = match &args.scratch {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    }
    .context("cannot make a scratch directory")?;
    let dump = repeated(&args.dump, args.repeat.max(1), scratch.path())?;
    let mut xml = Vec::new();
    let file = File::open(&args.dump).with_context(|| format!("cannot read {}", args.dump.display()))?;
    bzip2::read::MultiBzDecoder::new(file)
        .read_to_end(&mut xml)
        .with_context(|| format!("cannot decode {}", args.dump.display()))?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut bytes = 0;
    for round in 1..=args.rounds.max(1) {
        let started = Instant::now();
        bytes = corpus::decompress(&dump, threads)?;
        times[0].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        extract(&dump, &scratch.path().join("out"), threads)?;
        times[1].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        let articles = corpus::read_xml(&xml, Style::PROSE);
        times[2].push(started.elapsed().as_secs_f64());
        ensure!(!articles.0.is_empty(), "{}: no article", args.dump.display());
        let rate = |times: &[f64], bytes: u64| times.last().map_or(0.0, |time| bytes as f64 / 1e6 / time);
        eprintln!(
            "round {round}: decompress {:.1} MB/s, extract {:.1} MB/s, clean on one core {:.1} MB/s",
            rate(&times[0], bytes),
            rate(&times[1], bytes),
            rate(&times[2], xml.len() as u64)
        );
    }
    let [decompress, extract, clean] = times.map(median);
    let [decompress, extract] = [decompress, extract].map(|time| bytes as f64 / 1e6 / time);
    let clean = xml.len() as f64 / 1e6 / clean;
    let percent = 100.0 * extract / decompress;
    println!(
        "{:.0} MB of XML, {threads} threads, medians of {}: decompress {decompress:.1} MB/s, \
         extract {extract:.1} MB/s, {percent:.1} %; XML in memory to articles in memory on one core \
         {clean:.1} MB/s{}",
        bytes as f64 / 1e6,
        args.rounds.max(1),
        peak_memory().map_or(String::new(), |mb| format!("; peak memory {mb} MB")),
    );
    ensure!(percent >= args.require, "below {} %", args.require);
    Ok(())
}

fn repeated(dump: &Path, count: usize, scratch: &Path) -> Result<PathBuf> {
    if count == 1 {
        return Ok(dump.to_owned());
    }
    let bytes = std::fs::read(dump).with_context(|| format!("cannot read {}", dump.display()))?;
    let path = scratch.join("dump.xml.bz2");
    let context = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(&path).with_context(context)?);
    for _ in 0..count {
        out.write_all(&bytes).with_context(context)?;
    }
    out.flush().with_context(context)?;
    Ok(path)
}

fn extract(dump: &Path, out: &Path, threads: usize) -> Result<()> {
    let settings = Settings {
        dumps: vec![dump.to_owned()],
        out: out.to_owned(),
        format: Format::Jsonl,
        threads,
        min_chars: 0,
        style: Style::PROSE,
        file_bytes: 64 << 20,
        force: true,
    };
    let extraction = corpus::extract(&settings, &AtomicBool::new(false), &mut |_| ())?;
    ensure!(extraction.problems.is_empty(), "{}", extraction.problems.join("; "));
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The most memory this process ever held, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}
