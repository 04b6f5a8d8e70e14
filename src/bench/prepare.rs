//! How fast `prepare` is beside the encoding alone: the library's own id-only call through our shim, ours, and the
//! `sentencepiece` package of Python, on the same sentences and alternated in one run, because machines are noisy.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;

use crate::corpus::input::Documents;
use crate::store::prepare::{Options as PrepareOptions, prepare};
use crate::store::{Lines, Words, sentences};
use crate::tokenizer::Tokenizer;
use crate::train::profile::median;

/// Sentences that a thread takes at once where all threads encode.
const SHARE: usize = 512;

/// Reads sentences, encodes them on one thread, and prints how many ids there were and the seconds it took.
const PYTHON: &str = "
import sys, time
import sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
lines = open(sys.argv[2], encoding='utf-8', newline='\\n').read().split('\\n')[:-1]
since = time.perf_counter()
ids = model.encode(lines, num_threads=1)
seconds = time.perf_counter() - since
print(sentencepiece.__version__, sum(map(len, ids)), seconds)
";

pub struct Options {
    pub inputs: Vec<PathBuf>,
    pub tokenizer: PathBuf,
    pub threads: usize,
    pub rounds: usize,
    pub python: PathBuf,
}

/// Rates in tokens a second: medians over the rounds. Ratios: medians of the rounds' ratios.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub sentences: usize,
    pub tokens: usize,
    pub threads: usize,
    pub rounds: usize,
    /// The library's id-only call: on one thread, and on all.
    pub library_one_thread: f64,
    pub library_all_threads: f64,
    /// The call that `prepare` uses, on one thread.
    pub encode_one_thread: f64,
    /// The whole of `prepare`, from the text to the finished store, on all threads.
    pub prepare: f64,
    pub prepare_of_library_all_threads: f64,
    /// Of threads × the library's rate on one.
    pub prepare_of_library_one_thread: f64,
    pub prepare_of_library_by_round: Vec<f64>,
    /// Tokens a processor second, `prepare` over the library on as many threads: what other work on the machine does not
    /// change. Absent where the system does not tell.
    pub prepare_of_library_processor: Option<f64>,
    /// Python's package on one thread; absent where it is not installed.
    pub python: Option<Python>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Python {
    pub version: String,
    pub tokens: usize,
    pub tokens_per_second: f64,
    /// Our encoding on one thread over Python's.
    pub encode_of_python: f64,
    /// `prepare` over threads × Python's rate.
    pub prepare_of_python: f64,
}

#[derive(Default)]
struct Rounds {
    library_processor: Vec<f64>,
    prepare_processor: Vec<f64>,
    library_one: Vec<f64>,
    library_all: Vec<f64>,
    encode_one: Vec<f64>,
    prepare: Vec<f64>,
    python: Vec<f64>,
}

pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    let bench = Bench::new(options)?;
    let tokens = bench.check()?;
    let mut rounds = Rounds::default();
    let mut python = None;
    for round in 0..options.rounds {
        rounds.library_one.push(rate(tokens, || bench.library(1))?.0);
        rounds.encode_one.push(rate(tokens, || bench.encode())?.0);
        let library = rate(tokens, || bench.library(options.threads))?;
        rounds.library_all.push(library.0);
        rounds.library_processor.extend(library.1);
        let prepare = rate(tokens, || bench.prepare(options))?;
        rounds.prepare.push(prepare.0);
        rounds.prepare_processor.extend(prepare.1);
        bench.forget()?;
        if round == 0 || python.is_some() {
            python = bench.python(&options.python)?.inspect(|&(_, _, rate)| rounds.python.push(rate));
        }
        note!("round {} of {}", round + 1, options.rounds);
    }
    Ok(report(bench.lines.len(), tokens, options, &rounds, python))
}

fn report(
    sentences: usize,
    tokens: usize,
    options: &Options,
    rounds: &Rounds,
    python: Option<(String, usize, f64)>,
) -> Report {
    let threads = options.threads as f64;
    let ratios = |over: &[f64], under: &[f64], times: f64| -> Vec<f64> {
        over.iter().zip(under).map(|(over, under)| over / (under * times)).collect()
    };
    let by_round = ratios(&rounds.prepare, &rounds.library_all, 1.0);
    Report {
        sentences,
        tokens,
        threads: options.threads,
        rounds: options.rounds,
        library_one_thread: median(rounds.library_one.clone()),
        library_all_threads: median(rounds.library_all.clone()),
        encode_one_thread: median(rounds.encode_one.clone()),
        prepare: median(rounds.prepare.clone()),
        prepare_of_library_all_threads: median(by_round.clone()),
        prepare_of_library_one_thread: median(ratios(&rounds.prepare, &rounds.library_one, threads)),
        prepare_of_library_by_round: by_round,
        prepare_of_library_processor: Some(median(ratios(
            &rounds.prepare_processor,
            &rounds.library_processor,
            1.0,
        )))
        .filter(|ratio| ratio.is_finite()),
        python: python.map(|(version, tokens, _)| Python {
            version,
            tokens,
            tokens_per_second: median(rounds.python.clone()),
            encode_of_python: median(ratios(&rounds.encode_one, &rounds.python, 1.0)),
            prepare_of_python: median(ratios(&rounds.prepare, &rounds.python, threads)),
        }),
    }
}

/// Tokens a second, and a processor second.
fn rate(tokens: usize, work: impl FnOnce() -> Result<()>) -> Result<(f64, Option<f64>)> {
    let (since, processor) = (Instant::now(), processor_seconds());
    work()?;
    let seconds = since.elapsed().as_secs_f64();
    let processor = processor.zip(processor_seconds()).map(|(before, after)| after - before);
    let tokens = tokens as f64;
    Ok((tokens / seconds, processor.filter(|&seconds| seconds > 0.0).map(|seconds| tokens / seconds)))
}

/// What this process has used so far (Linux; in ticks of 10 ms).
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields = stat.rsplit(") ").next()?.split(' ');
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    (ticks.len() == 2).then(|| (ticks[0] + ticks[1]) / 100.0)
}

/// The sentences that `prepare` makes of the text, lower-cased as it does, in memory and in a file for Python.
struct Bench {
    lines: Vec<String>,
    /// Lower-cases, as `prepare` does, and one for lines that are lower-cased already.
    lowering: Tokenizer,
    plain: Tokenizer,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(options: &Options) -> Result<Bench> {
        let lowering = Tokenizer::open(&options.tokenizer, true)?;
        lowering.special_ids()?;
        let mut lines = Vec::new();
        for document in Documents::open(&options.inputs)? {
            for paragraph in document?.paragraphs() {
                sentences::split(paragraph, |line| lines.push(line.to_lowercase()));
            }
        }
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let bench = Bench { lines, lowering, plain: Tokenizer::open(&options.tokenizer, false)?, folder };
        let mut file = BufWriter::new(File::create(bench.text())?);
        bench.lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        file.flush().with_context(|| format!("cannot write {}", bench.text().display()))?;
        Ok(bench)
    }

    fn text(&self) -> PathBuf {
        self.folder.path().join("sentences.txt")
    }

    /// Both calls must give the same ids; how many there are.
    fn check(&self) -> Result<usize> {
        let (mut ours, mut library, mut tokens) = (Vec::new(), Vec::new(), 0);
        for line in &self.lines {
            ours.clear();
            library.clear();
            self.plain.encode_into(line, &mut ours);
            self.plain.encode_as_the_library(line, &mut library)?;
            ensure!(ours == library, "our ids are not the library's for the sentence {line:?}");
            tokens += ours.len();
        }
        Ok(tokens)
    }

    /// The library's own call.
    fn library(&self, threads: usize) -> Result<()> {
        self.each(threads, |line, ids| self.plain.encode_as_the_library(line, ids))
    }

    /// Ours, on one thread.
    fn encode(&self) -> Result<()> {
        self.each(1, |line, ids| {
            self.plain.encode_into(line, ids);
            Ok(())
        })
    }

    fn each(&self, threads: usize, encode: impl Fn(&str, &mut Vec<u32>) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut ids = Vec::new();
            loop {
                let start = next.fetch_add(SHARE, Ordering::Relaxed);
                if start >= self.lines.len() {
                    return Ok(());
                }
                for line in &self.lines[start..self.lines.len().min(start + SHARE)] {
                    ids.clear();
                    encode(line, &mut ids)?;
                    std::hint::black_box(&ids);
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }

    fn prepare(&self, options: &Options) -> Result<()> {
        let settings = PrepareOptions {
            lines: Lines::Sentence,
            words: Words::Script,
            threads: options.threads,
            ..PrepareOptions::default()
        };
        let documents = Documents::open(&options.inputs)?;
        prepare(documents, &self.lowering, &self.store(), &settings, |_| {})?;
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn forget(&self) -> Result<()> {
        std::fs::remove_file(self.store()).context("cannot remove the store")
    }

    /// The package's version, how many ids it makes, and its rate; nothing, said aloud, where it is missing.
    fn python(&self, python: &Path) -> Result<Option<(String, usize, f64)>> {
        let import = Command::new(python).args(["-c", "import sentencepiece"]).output();
        if !import.is_ok_and(|output| output.status.success()) {
            let name = python.display();
            note!("skipped: {name} cannot import sentencepiece (`pip install sentencepiece`, or --python)");
            return Ok(None);
        }
        let output = Command::new(python)
            .args(["-c", PYTHON])
            .args([self.plain.path(), &self.text()])
            .output()
            .with_context(|| format!("cannot run {}", python.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let fields: Vec<&str> = text.split_whitespace().collect();
        if let [version, tokens, seconds] = fields[..] {
            let (tokens, seconds): (usize, f64) = (tokens.parse()?, seconds.parse()?);
            return Ok(Some((version.to_owned(), tokens, tokens as f64 / seconds)));
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("Python's sentencepiece failed: {}", errors.lines().last().unwrap_or("it printed nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn a_small_text_is_measured() {
        let scratch = Scratch::new();
        let text = scratch.path("text.txt");
        std::fs::write(&text, "山川草木。花鳥風月。\n春夏秋冬\n\n東西南北\n").unwrap();
        let options = Options {
            inputs: vec![text],
            tokenizer: scratch.tokenizer.path().to_path_buf(),
            threads: 2,
            rounds: 2,
            python: "no-such-python".into(),
        };
        let report = run(&options).unwrap();
        assert_eq!((report.sentences, report.prepare_of_library_by_round.len()), (4, 2));
        assert!(report.tokens >= 4 && report.prepare > 0.0 && report.python.is_none());
    }
}
