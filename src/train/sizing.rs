//! Sizes of a micro-batch where the configuration says `auto`: from what the device has room for.
//!
//! Micro-batches are of one size as far as the batch divides. A GPU with memory of its own takes the largest that fits
//! its usual share, other devices no more than fills them. Sums of gradients are taken in another order with another
//! size, so what is found here is kept with the run.

use anyhow::{Error, Result, anyhow, bail};

use crate::device::Room;
use crate::plan::Plan;

/// Vocabulary logits are made in multiples of so many rows, whole tiles of every kernel.
const CHUNK_ROWS: usize = 128;

/// Each chunk is some ops of the plan: with more of them a plan takes minutes to build, and no batch needs them.
const MOST_CHUNKS: usize = 4096;

/// What was asked for, and what sizes follow from.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub batch_size: usize,
    pub max_length: usize,
    /// Masked slots of a sequence.
    pub slots: usize,
    /// Pieces.
    pub vocabulary: usize,
    /// Nothing is `auto`.
    pub micro_batch: Option<usize>,
    pub vocabulary_chunk: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences of a micro-batch.
    pub micro_batch: usize,
    /// Masked slots whose logits are alive at once.
    pub vocabulary_chunk: usize,
}

/// A refusal, or nothing where the size fits.
type Refusal = Option<Error>;

/// The largest of these sizes, the largest first, that is not refused; else why the smallest is. A size fits where a
/// larger one does.
fn largest(sizes: &[usize], refusal: impl Fn(usize) -> Result<Refusal>) -> Result<Result<usize, Error>> {
    let mut refused = anyhow!("no sizes to choose from");
    // Those before `low` are refused, those from `high` on fit; usually everything does.
    let (mut low, mut high, mut middle) = (0, sizes.len(), 0);
    while low < high {
        match refusal(sizes[middle])? {
            None => high = middle,
            Some(error) => {
                low = middle + 1;
                refused = error;
            }
        }
        middle = low + (high - low) / 2;
    }
    Ok(sizes.get(high).copied().ok_or(refused))
}

/// Sizes of micro-batches that divide a batch evenly, the largest first.
fn divisions(batch_size: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=batch_size).map(|parts| batch_size.div_ceil(parts)).collect();
    sizes.dedup();
    sizes
}

/// Rows of vocabulary logits at once: all of them where they are few, else equal chunks in multiples of 128.
fn vocabulary_chunk(rows: usize, vocabulary: usize, bytes: u64) -> usize {
    let most = (bytes / 4 / vocabulary.max(1) as u64).max(1) as usize;
    if rows <= most {
        return rows;
    }
    // A vocabulary so large that not even a tile's rows fit.
    if most < CHUNK_ROWS {
        return most;
    }
    let most = most / CHUNK_ROWS * CHUNK_ROWS;
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(CHUNK_ROWS)
}

impl Asked {
    /// The sizes with this micro-batch.
    fn sizes(&self, micro_batch: usize, room: &Room) -> Sizes {
        let micro_batch = micro_batch.min(self.batch_size);
        let auto = || vocabulary_chunk(micro_batch * self.slots, self.vocabulary, room.logits_bytes());
        Sizes { micro_batch, vocabulary_chunk: self.vocabulary_chunk.unwrap_or_else(auto) }
    }

    /// Refuses sizes whose plan is too long to be built.
    fn too_many_chunks(&self, sizes: Sizes) -> Refusal {
        let rows = sizes.micro_batch * self.slots;
        let chunks = rows.div_ceil(sizes.vocabulary_chunk.max(1));
        (chunks > MOST_CHUNKS).then(|| {
            anyhow!(
                "its {rows} rows of vocabulary logits are {chunks} chunks of {}; {MOST_CHUNKS} are the most",
                sizes.vocabulary_chunk
            )
        })
    }

    /// The sizes that the room is best used with. `plan` makes a step's plan; nothing is allocated.
    ///
    /// # Errors
    /// What `plan` fails with; a device without room for one sequence.
    pub fn resolve(&self, room: &Room, plan: impl Fn(Sizes) -> Result<Plan>) -> Result<Sizes> {
        if let Some(micro_batch) = self.micro_batch {
            return Ok(self.sizes(micro_batch, room));
        }
        let refusal = |micro_batch: usize, most: Option<u64>| -> Result<Refusal> {
            let sizes = self.sizes(micro_batch, room);
            match self.too_many_chunks(sizes) {
                None => Ok(room.refusal(&[&plan(sizes)?], most)),
                refused => Ok(refused),
            }
        };
        let fill = (room.tokens() / self.max_length).max(1);
        let all = divisions(self.batch_size);
        let filling: Vec<usize> = all.iter().copied().filter(|&size| size <= fill).collect();
        let sizes = if room.gains_by_more() { &all } else { &filling };
        if room.is_unlimited() {
            return Ok(self.sizes(sizes[0], room));
        }
        let found = largest(sizes, |size| refusal(size, room.usual_bytes()))?;
        let found = match found {
            Ok(size) if size >= filling[0] || !room.gains_by_more() => Ok(size),
            // Its usual share does not fill the card: it is given what there is. Others get that for one sequence only.
            _ => {
                let first = if room.gains_by_more() { 0 } else { filling.len() - 1 };
                largest(&filling[first..], |size| refusal(size, room.most_bytes()))?
            }
        };
        found.map(|size| self.sizes(size, room))
    }

    /// Fails where the device cannot hold these plans at once with these sizes, naming a micro-batch that it could.
    pub fn check(&self, sizes: Sizes, room: &Room, plans: impl Fn(Sizes) -> Result<Vec<Plan>>) -> Result<()> {
        let refusal = |sizes: Sizes| -> Result<Refusal> {
            if let Some(refused) = self.too_many_chunks(sizes) {
                return Ok(Some(refused));
            }
            let plans = plans(sizes)?;
            Ok(room.refusal(&plans.iter().collect::<Vec<_>>(), room.most_bytes()))
        };
        if room.is_unlimited() {
            return Ok(());
        }
        let Some(refused) = refusal(sizes)? else { return Ok(()) };
        let Sizes { micro_batch, vocabulary_chunk } = sizes;
        let auto = Asked { vocabulary_chunk: None, ..*self };
        let fewer = auto.sizes(micro_batch, room);
        if fewer.vocabulary_chunk < vocabulary_chunk && refusal(fewer)?.is_none() {
            let fits = fewer.vocabulary_chunk;
            bail!("vocabulary_chunk={vocabulary_chunk}: {refused:#}; vocabulary_chunk={fits} would fit")
        }
        let smaller: Vec<usize> =
            divisions(self.batch_size).into_iter().filter(|&size| size < micro_batch).collect();
        let with = |size| Sizes { micro_batch: size, vocabulary_chunk };
        match largest(&smaller, |size| refusal(with(size)))? {
            Ok(size) => bail!("micro_batch={micro_batch}: {refused:#}; micro_batch={size} would fit"),
            Err(_) if smaller.is_empty() => Err(refused),
            Err(smallest) => Err(smallest),
        }
    }
}

#[cfg(test)]
mod tests;
