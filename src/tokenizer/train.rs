//! Training a unigram model with SentencePiece's own trainer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::ffi;
use crate::tensor::random::{Stream, root};

/// SentencePiece skips longer sentences; ours are cut instead, so that no text is lost.
const LONGEST_SENTENCE: usize = 4192;
/// SentencePiece sums its counts by thread, so the model depends on their number: its default, everywhere.
const THREADS: usize = 16;
/// Beyond this many bytes SentencePiece wants 64-bit suffix arrays.
const LARGE_CORPUS: usize = 1 << 31;

pub struct Options {
    pub vocab_size: usize,
    pub seed: u64,
    pub character_coverage: f64,
    /// At most this many sentences, a uniform sample of the input; 0 takes all.
    pub max_sentences: usize,
    pub lower: bool,
}

/// What a training read and made.
#[derive(Debug)]
pub struct Summary {
    pub model: PathBuf,
    pub sentences_seen: u64,
    pub sentences_used: usize,
    pub pieces: usize,
}

/// Trains on `sentences` and writes `PREFIX.model`, `PREFIX.vocab` and SentencePiece's `PREFIX.log`.
///
/// The same sentences, options and seed give the same bytes, on any machine of one kind.
pub fn train<'a>(
    sentences: impl Iterator<Item = Result<String>> + 'a,
    options: &Options,
    prefix: &Path,
) -> Result<Summary> {
    let name = |extension: &str| {
        let mut path = prefix.as_os_str().to_owned();
        path.push(extension);
        PathBuf::from(path)
    };
    let log = name(".log");
    std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;

    let mut sample = Sample::new(options.max_sentences, options.seed);
    for sentence in sentences {
        sample.add(sentence?, options.lower);
    }
    if sample.kept.is_empty() {
        bail!("the input holds no text to train a tokenizer on");
    }
    let (seen, used) = (sample.seen, sample.kept.len());
    let bytes: usize = sample.kept.iter().map(String::len).sum();
    let settings = format!(
        "model_type=unigram\nvocab_size={}\ncharacter_coverage={}\n\
         control_symbols=[PAD],[CLS],[SEP],[MASK]\nnum_threads={THREADS}\n\
         train_extremely_large_corpus={}\n",
        options.vocab_size,
        options.character_coverage,
        bytes > LARGE_CORPUS
    );
    let seed = (options.seed as u32 ^ (options.seed >> 32) as u32) & 0x7fff_ffff;
    let log_name = log.to_str().context("the name of the model is not UTF-8")?;
    let trained = ffi::train(&settings, log_name, seed, &mut sample.kept.into_iter())
        .map_err(|error| explain(&error.to_string(), options.vocab_size, &log))?;

    let model = name(".model");
    let pieces = ffi::Processor::load(&trained.model)?.size();
    replace(&name(".vocab"), &trained.vocab)?;
    replace(&model, &trained.model)?;
    Ok(Summary { model, sentences_seen: seen, sentences_used: used, pieces })
}

/// A uniform sample of a stream (Vitter's algorithm R), drawn from the seed.
struct Sample {
    limit: usize,
    kept: Vec<String>,
    seen: u64,
    draws: Stream,
}

impl Sample {
    fn new(limit: usize, seed: u64) -> Self {
        Sample {
            limit: if limit == 0 { usize::MAX } else { limit },
            kept: Vec::new(),
            seen: 0,
            draws: Stream::new(root(seed)),
        }
    }

    fn add(&mut self, sentence: String, lower: bool) {
        let sentence = match lower {
            true => super::lower::to_lowercase(&sentence).into_owned(),
            false => sentence,
        };
        if sentence.len() <= LONGEST_SENTENCE {
            return self.keep(sentence);
        }
        let mut rest = sentence.as_str();
        while !rest.is_empty() {
            let (part, after) = super::split_before(rest, LONGEST_SENTENCE);
            self.keep(part.to_string());
            rest = after;
        }
    }

    fn keep(&mut self, sentence: String) {
        self.seen += 1;
        if self.kept.len() < self.limit {
            return self.kept.push(sentence);
        }
        let place = (self.draws.uniform() * self.seen as f64) as usize;
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = sentence;
        }
    }
}

/// SentencePiece's status as one line that says what to do.
fn explain(status: &str, vocab_size: usize, log: &Path) -> anyhow::Error {
    let number_after = |text: &str| -> Option<usize> {
        let rest = status.split(text).nth(1)?.trim_start();
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    let too_high = "Please set it to a value <=";
    let too_low = format!("smaller than required_chars. {vocab_size} vs");
    if let Some(largest) = number_after(too_high) {
        return anyhow::anyhow!(
            "the corpus is too small for {vocab_size} pieces; the largest possible --vocab-size is {largest}"
        );
    }
    if let Some(smallest) = number_after(&too_low) {
        return anyhow::anyhow!(
            "{vocab_size} pieces cannot hold the characters of the corpus; the smallest possible \
             --vocab-size is {smallest}"
        );
    }
    anyhow::anyhow!("SentencePiece cannot train: {status} (its log: {})", log.display())
}

/// Writes a file under another name and renames it, so that it is there whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::File::open(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
