//! How fast batches are made: cutting examples, masking, packing, sorting.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::batch::PackedBatch;
use crate::device::Room;
use crate::store::{Stores, WeightedPath};
use crate::train::config::{Sources, Surroundings, TrainConfig};
use crate::train::examples::Batcher;
use crate::train::profile::median;

/// Pieces of the vocabulary where nothing says otherwise.
const VOCABULARY: u64 = 32_000;

/// What the batches are made of.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Real text; without it random sequences of full length are made up, which costs more than reading.
    pub stores: Vec<WeightedPath>,
    pub sources: Sources,
    pub steps: usize,
    /// Writes the masked examples of the steps there, a JSON object a line, for other programs to measure with: those
    /// that `pretrain` takes with this configuration, from its first step on.
    pub examples: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Real tokens a second: of the median step, and of the best.
    pub tokens_per_second: f64,
    pub tokens_per_second_best: f64,
    pub step_ms: f64,
    pub tokens_per_step: f64,
    /// Real tokens of all positions (sequences × max length).
    pub fill: f64,
    pub steps: usize,
}

/// The batcher of stores, or of random sequences, and the configuration they are made by: one that fits the device.
pub fn open(
    stores: &[WeightedPath],
    sources: &Sources,
    room: &Room,
) -> Result<(Batcher, TrainConfig, Vec<String>)> {
    let (settings, notes) = sources.settings()?;
    let stores = if stores.is_empty() { None } else { Some(Stores::open(stores)?) };
    let vocab_size = match &stores {
        Some(stores) => stores.first().vocab_size(),
        None => settings.whole("model.vocab_size").unwrap_or(VOCABULARY) as usize,
    };
    let config = TrainConfig::resolve(settings, Surroundings { vocab_size, room })?;
    config.check(room, false)?;
    let config = sources.asked(&config)?;
    let batcher = match &stores {
        Some(stores) => Batcher::new(stores, &config)?,
        None => Batcher::full_length(&config)?,
    };
    Ok((batcher, config, notes))
}

/// Makes batches on one thread, as training does.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.steps > 0, "--steps must be at least 1");
    let (mut batcher, config, _) = open(&options.stores, &options.sources, &Room::unlimited())?;
    let (mut seconds, mut tokens, mut positions) = (Vec::new(), 0, 0);
    let mut examples = options.examples.as_deref().map(ExampleFile::create).transpose()?;
    // Made once before it is timed: the first step counts an epoch's examples, and touches the store's pages.
    let first = config.phase.first;
    batcher.step(first)?;
    for step in first..first + options.steps as u64 {
        let since = Instant::now();
        let batch = std::hint::black_box(batcher.step(step)?);
        seconds.push(since.elapsed().as_secs_f64());
        tokens += batch.totals.tokens;
        positions += batch.totals.positions;
        if let Some(file) = &mut examples {
            batch.micro.iter().try_for_each(|micro| file.write(micro))?;
        }
    }
    examples.map_or(Ok(()), ExampleFile::finish)?;
    let per_step = tokens as f64 / options.steps as f64;
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let middle = median(seconds);
    Ok(Report {
        tokens_per_second: per_step / middle,
        tokens_per_second_best: per_step / best,
        step_ms: 1e3 * middle,
        tokens_per_step: per_step,
        fill: tokens as f64 / positions as f64,
        steps: options.steps,
    })
}

/// Masked examples as JSON lines: `{"ids": […], "first_segment": n, "masked": [[position, original id], …]}`.
struct ExampleFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

#[derive(Serialize)]
struct ExampleLine<'a> {
    ids: &'a [u32],
    first_segment: usize,
    masked: Vec<(u32, u32)>,
}

impl ExampleFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ExampleFile { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    fn write(&mut self, batch: &PackedBatch) -> Result<()> {
        for (sequence, ends) in batch.starts.windows(2).enumerate() {
            let rows = ends[0] as usize..ends[1] as usize;
            let slots = (0..batch.masked()).filter(|&slot| batch.masked_sequences[slot] == sequence as u32);
            let line = ExampleLine {
                ids: &batch.input_ids[rows.clone()],
                first_segment: batch.segments[rows].iter().filter(|&&segment| segment == 0).count(),
                masked: slots
                    .map(|slot| (batch.masked_rows[slot] - ends[0], batch.masked_ids[slot]))
                    .collect(),
            };
            let written = serde_json::to_writer(&mut self.writer, &line).map_err(anyhow::Error::from);
            let written = written.and_then(|()| Ok(self.writer.write_all(b"\n")?));
            written.with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.writer.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}
