//! Training a unigram model with SentencePiece's own trainer.
//!
//! Everything is written under other names and gets its own at the end, the model last: killed at any moment, a
//! training leaves no model, or one with the vocabulary and the log that belong to it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::sample::Sample;
use super::{ffi, trainer};
use crate::files::{lock, with_suffix};

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

/// A training under way: sentences are added, a sample of them is kept, and `finish` makes the model.
///
/// The same sentences, options and seed give the same bytes, on any machine of one kind.
pub struct Training {
    options: Options,
    sample: Sample,
    files: Files,
}

impl Training {
    /// Begins a training into `PREFIX.model`, `PREFIX.vocab` and `PREFIX.log`. That these can be written is found
    /// out here, before a large corpus is read.
    pub fn start(options: Options, prefix: &Path) -> Result<Training> {
        let sample = Sample::new(options.max_sentences, options.seed, options.lower);
        Ok(Training { options, sample, files: Files::start(prefix)? })
    }

    /// An earlier training of this prefix was interrupted.
    pub fn found_interrupted(&self) -> bool {
        self.files.found_partial
    }

    /// A model of this name is there, and will be replaced when the new one is whole.
    pub fn replaces(&self) -> bool {
        self.files.name(".model").exists()
    }

    pub fn add(&mut self, sentence: &str) {
        self.sample.add(sentence);
    }

    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Adds a line to the log.
    pub fn note(&mut self, line: &str) -> Result<()> {
        self.files.note(line)
    }

    /// Trains and writes the files. `stage` is told what SentencePiece reports.
    pub fn finish(mut self, mut stage: impl FnMut(&str) + Send) -> Result<Summary> {
        let (seen, used) = (self.sample.seen(), self.sample.kept());
        if used == 0 {
            bail!("the input holds no text to train a tokenizer on");
        }
        self.files.note(&self.describe())?;
        let sentences = self.sample.into_sentences();
        let settings = settings(&self.options, sentences.iter().map(String::len).sum());
        let seed = (self.options.seed as u32 ^ (self.options.seed >> 32) as u32) & 0x7fff_ffff;
        let mut log = self.files.log.try_clone().context("cannot write the log")?;
        let mut take_line = |line: &str| {
            // A full disk must not end a training whose model may still fit; the model's own errors count.
            let _ = writeln!(log, "{line}");
            if let Some(message) = stage_of(line) {
                stage(message);
            }
        };
        let trained = trainer::train(&settings, seed, &mut sentences.into_iter(), &mut take_line);
        let trained = match trained {
            Ok(trained) => trained,
            Err(error) => {
                return Err(self.files.explain(&error.to_string(), self.options.vocab_size, seen, used));
            }
        };
        let pieces = ffi::Processor::load(&trained.model)?.size();
        self.files.note(&format!("made: {pieces} pieces"))?;
        let model = self.files.finish(&trained)?;
        Ok(Summary { model, sentences_seen: seen, sentences_used: used, pieces })
    }

    /// What was asked for and what was read, for the log.
    fn describe(&self) -> String {
        let options = &self.options;
        let limit = match options.max_sentences {
            0 => "all".to_owned(),
            limit => limit.to_string(),
        };
        format!(
            "vocabulary size: {}\nseed: {}\ncharacter coverage: {}\nlower-cased: {}\nsentences at most: {limit}\n\
             sentences read: {}\nsentences trained on: {}",
            options.vocab_size,
            options.seed,
            options.character_coverage,
            options.lower,
            self.sample.seen(),
            self.sample.kept()
        )
    }
}

/// Options for SentencePiece, "name=value". The sample is ours: its own would not be drawn from our seed.
fn settings(options: &Options, bytes: usize) -> String {
    format!(
        "model_type=unigram\nvocab_size={}\ncharacter_coverage={}\ncontrol_symbols=[PAD],[CLS],[SEP],[MASK]\n\
         num_threads={THREADS}\ninput_sentence_size=0\nshuffle_input_sentence=false\n\
         train_extremely_large_corpus={}\n",
        options.vocab_size,
        options.character_coverage,
        bytes > LARGE_CORPUS
    )
}

/// The message of a line of SentencePiece's log that tells how far it has come.
fn stage_of(line: &str) -> Option<&str> {
    let (_, message) = line.split_once("LOG(INFO) ")?;
    let dull = ["Adding meta_piece", "Starts training", "Reserved chars", "Found null"];
    (!dull.iter().any(|start| message.starts_with(start))).then_some(message.trim())
}

/// The files of a training, under the names that they have until it is done.
struct Files {
    prefix: PathBuf,
    /// `PREFIX.log.partial`, locked, so that two trainings cannot write one model.
    log: File,
    found_partial: bool,
    /// Whether the partial files are removed when this is dropped.
    remove: bool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.remove {
            for extension in [".log", ".vocab", ".model"] {
                let _ = std::fs::remove_file(self.partial(extension));
            }
        }
    }
}

impl Files {
    fn start(prefix: &Path) -> Result<Files> {
        let partial = |extension: &str| with_suffix(prefix, &format!("{extension}.partial"));
        let path = partial(".log");
        let found_partial = [".log", ".vocab", ".model"].iter().any(|extension| partial(extension).exists());
        let log = lock(&path, "tokenizer train")?;
        Ok(Files { prefix: prefix.to_path_buf(), log, found_partial, remove: true })
    }

    fn name(&self, extension: &str) -> PathBuf {
        with_suffix(&self.prefix, extension)
    }

    fn partial(&self, extension: &str) -> PathBuf {
        with_suffix(&self.name(extension), ".partial")
    }

    fn note(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}")
            .with_context(|| format!("cannot write {}", self.partial(".log").display()))
    }

    fn write(&self, extension: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial(extension);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives the files their names. An older model goes first: it must not stand beside another one's vocabulary.
    fn finish(&self, trained: &trainer::Trained) -> Result<PathBuf> {
        self.write(".vocab", &trained.vocab)?;
        self.write(".model", &trained.model)?;
        let model = self.name(".model");
        if model.exists() {
            std::fs::remove_file(&model).with_context(|| format!("cannot replace {}", model.display()))?;
        }
        for extension in [".log", ".vocab", ".model"] {
            let path = self.name(extension);
            std::fs::rename(self.partial(extension), &path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(model)
    }

    /// SentencePiece's status as one line that says what to do.
    fn explain(&mut self, status: &str, vocab_size: usize, seen: u64, used: usize) -> anyhow::Error {
        let number_after = |text: &str| -> Option<usize> {
            let rest = status.split(text).nth(1)?.trim_start();
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        let too_high = "Please set it to a value <=";
        let too_low = format!("smaller than required_chars. {vocab_size} vs");
        if let Some(largest) = number_after(too_high) {
            let more = match seen > used as u64 {
                true => format!(" (or train on more than {used} of the {seen} sentences: --max-sentences)"),
                false => String::new(),
            };
            return anyhow::anyhow!(
                "the text is too small for {vocab_size} pieces; the largest possible --vocab-size is {largest}{more}"
            );
        }
        if let Some(smallest) = number_after(&too_low) {
            return anyhow::anyhow!(
                "{vocab_size} pieces cannot hold the characters of the corpus; the smallest possible \
                 --vocab-size is {smallest}"
            );
        }
        // Its log is all there is to go by.
        self.remove = false;
        anyhow::anyhow!("SentencePiece cannot train: {status} (its log: {})", self.partial(".log").display())
    }
}

/// Trains on sentences that are at hand.
#[cfg(test)]
pub fn train(sentences: impl Iterator<Item = String>, options: Options, prefix: &Path) -> Result<Summary> {
    let mut training = Training::start(options, prefix)?;
    sentences.for_each(|sentence| training.add(&sentence));
    training.finish(|_| {})
}
