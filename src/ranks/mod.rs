//! Processes that train one model together: which of them this one is, and what they tell each other. MPI starts them,
//! places them and carries what they say (feature `mpi`); a process that nobody started with others is alone.
//!
//! All of them run the same program on the same numbers, so that each comes to every exchange in the same order: what is
//! decided is decided from what all have heard.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::note::WrongUsage;

mod cores;
mod given;
mod half;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
mod neighbours;
mod split;
mod start;
#[cfg(test)]
pub mod threads;

pub use given::Given;
pub use half::Travel;
pub use neighbours::Neighbours;
pub use split::{Shares, Split};
pub use start::{start, started_as};

/// What carries words between processes. All call the same operation at the same time.
pub trait Transport: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// This process among those of its machine, and how many these are.
    fn local(&self) -> (usize, usize);

    /// What each has to say, in the order of ranks.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The same, of which only the first one hears; nothing on the others.
    fn gather_to_first(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.gather(own)?;
        Ok(if self.rank() == 0 { all } else { Vec::new() })
    }

    /// `words[bounds[r]..bounds[r + 1]]` goes to rank `r`; what the others have for this one comes into `received`, in
    /// the order of ranks, as many words from each.
    fn scatter(&self, words: &[u32], bounds: &[usize], received: &mut [u32]) -> Result<()>;

    /// What is each rank's `own` comes to all: that of rank `r` into `all[bounds[r]..bounds[r + 1]]`.
    fn spread(&self, own: &[u32], all: &mut [u32], bounds: &[usize]) -> Result<()>;

    /// Ends all processes.
    fn abort(&self);

    /// The processes of this machine, where they look after each other.
    fn neighbours(&self) -> Option<Arc<Neighbours>> {
        None
    }
}

/// The processes of a run; by default this one alone.
#[derive(Clone, Default)]
pub struct Ranks {
    transport: Option<Arc<dyn Transport>>,
    /// Bytes that this process has sent to others.
    sent: Arc<AtomicU64>,
}

/// An error that all ranks know of, and end with.
#[derive(Debug)]
pub struct Together {
    line: String,
    is_usage: bool,
}

impl Together {
    pub fn new(line: String) -> Self {
        Together { line, is_usage: false }
    }

    /// Whether it is one of the command line.
    pub fn is_usage(&self) -> bool {
        self.is_usage
    }
}

impl Display for Together {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Together {}

impl From<anyhow::Error> for Together {
    fn from(error: anyhow::Error) -> Self {
        Together { line: format!("{error:#}"), is_usage: is_usage(&error) }
    }
}

/// Whether an error is one of the command line, of this process or of all.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<WrongUsage>() || error.downcast_ref::<Together>().is_some_and(Together::is_usage)
}

impl Debug for Ranks {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Ranks {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Ranks { transport: Some(transport).filter(|transport| transport.size() > 1), sent: Arc::default() }
    }

    pub fn rank(&self) -> usize {
        self.transport.as_ref().map_or(0, |transport| transport.rank())
    }

    pub fn size(&self) -> usize {
        self.transport.as_ref().map_or(1, |transport| transport.size())
    }

    /// This process among those of its machine, and how many these are.
    pub fn local(&self) -> (usize, usize) {
        self.transport.as_ref().map_or((0, 1), |transport| transport.local())
    }

    pub fn are_several(&self) -> bool {
        self.transport.is_some()
    }

    /// Whether this is the one that writes files, and speaks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Bytes that this process has sent to others so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn count_sent(&self, words: usize) {
        self.sent.fetch_add(4 * words as u64, Ordering::Relaxed);
    }

    /// What each has to say, in the order of ranks.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        match &self.transport {
            None => Ok(vec![own.to_vec()]),
            Some(transport) => {
                self.sent.fetch_add((own.len() * (transport.size() - 1)) as u64, Ordering::Relaxed);
                transport.gather(own)
            }
        }
    }

    /// The same, of which only the first one hears; nothing on the others.
    pub fn gather_to_first(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        match &self.transport {
            None => Ok(vec![own.to_vec()]),
            Some(transport) => {
                let sent = if self.is_first() { 0 } else { own.len() };
                self.sent.fetch_add(sent as u64, Ordering::Relaxed);
                transport.gather_to_first(own)
            }
        }
    }

    /// What each has to say of what can be written as JSON, in the order of ranks.
    pub fn gather_all<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if !self.are_several() {
            return Ok(vec![own]);
        }
        let all = self.gather(&serde_json::to_vec(&own)?)?;
        all.iter().map(|bytes| serde_json::from_slice(bytes).context("what another rank says")).collect()
    }

    /// What the first one has to say; the others are not asked. Where it fails, all do.
    pub fn first_says<T: Serialize + DeserializeOwned>(&self, own: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.are_several() {
            return own();
        }
        let said: Option<Result<T, String>> =
            self.is_first().then(|| own().map_err(|error| format!("{error:#}")));
        let all = self.gather(&said.map_or(Ok(Vec::new()), |said| serde_json::to_vec(&said))?)?;
        let first = all.first().context("nobody says anything")?;
        let said: Result<T, String> = serde_json::from_slice(first).context("what rank 0 says")?;
        said.map_err(|error| Together::new(error).into())
    }

    /// Whether any of them says so.
    pub fn any(&self, own: bool) -> Result<bool> {
        Ok(self.are_several() && self.gather(&[own.into()])?.iter().any(|said| *said != [0]) || own)
    }

    /// What this process has come to, if all have come to something.
    ///
    /// # Errors
    /// Those of the first that has not, with its number: then all end with the same line.
    pub fn agree<T>(&self, own: Result<T>) -> Result<T> {
        if !self.are_several() {
            return own;
        }
        let said = own.as_ref().err().map(|error| (is_usage(error), format!("{error:#}")));
        let all = self.gather_all(said)?;
        match all.into_iter().enumerate().find_map(|(rank, said)| Some((rank, said?))) {
            None => own,
            Some((rank, (is_usage, said))) => {
                Err(Together { line: format!("rank {rank}: {said}"), is_usage }.into())
            }
        }
    }

    /// Refuses by name the first process of which something is other than of rank 0. `what` says of the two what differs.
    pub fn all_alike<T: Serialize + DeserializeOwned + PartialEq>(
        &self,
        own: &T,
        what: impl Fn(&T, &T) -> String,
    ) -> Result<()> {
        if !self.are_several() {
            return Ok(());
        }
        let all = self.gather(&serde_json::to_vec(own)?)?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<T>(bytes).context("what another rank says");
        let first = read(all.first().context("nobody says anything")?)?;
        for (rank, bytes) in all.iter().enumerate() {
            let other = read(bytes)?;
            if other != first {
                return Err(Together::new(format!("rank {rank}: {}", what(&other, &first))).into());
            }
        }
        Ok(())
    }

    /// The sum over all ranks, in their order, of what is this one's of `values`: `bounds[rank]..bounds[rank + 1]`.
    pub fn sum_own(&self, values: &[f32], bounds: &[usize], travel: Travel) -> Result<Vec<f32>> {
        let Some(transport) = &self.transport else { return Ok(values.to_vec()) };
        check(bounds, values.len(), transport.size())?;
        let rank = transport.rank();
        let own = bounds[rank + 1] - bounds[rank];
        let sent = travel.pack(values, bounds);
        let mut received = vec![0u32; travel.words(own) * transport.size()];
        self.count_sent(sent.words.len() - travel.words(own));
        transport.scatter(&sent.words, &sent.bounds, &mut received)?;
        let mut sum = vec![0.0f32; own];
        if own > 0 {
            received.chunks(travel.words(own)).for_each(|words| travel.add(words, &mut sum));
        }
        Ok(sum)
    }

    /// The values of which each rank has its own, `bounds[rank]..bounds[rank + 1]`.
    pub fn collect(&self, own: &[f32], bounds: &[usize]) -> Result<Vec<f32>> {
        let Some(transport) = &self.transport else { return Ok(own.to_vec()) };
        let whole = *bounds.last().context("no bounds")?;
        check(bounds, whole, transport.size())?;
        let rank = transport.rank();
        let length = bounds[rank + 1] - bounds[rank];
        ensure!(length == own.len(), "{} values are not {length}; please report this", own.len());
        let mut values = vec![0.0f32; whole];
        self.count_sent(own.len() * (transport.size() - 1));
        transport.spread(bytemuck::cast_slice(own), bytemuck::cast_slice_mut(&mut values), bounds)?;
        Ok(values)
    }

    /// The processes of this machine, where there are several that look after each other.
    pub fn neighbours(&self) -> Option<Arc<Neighbours>> {
        self.transport.as_ref()?.neighbours()
    }

    /// Ends all processes because this one cannot go on.
    pub fn abort(&self) {
        if let Some(transport) = &self.transport {
            transport.abort();
        }
    }
}

fn check(bounds: &[usize], length: usize, size: usize) -> Result<()> {
    let whole = bounds.len() == size + 1 && bounds.is_sorted() && bounds.last() == Some(&length);
    ensure!(whole, "bounds {bounds:?} are not of {length} numbers and {size} ranks; please report this");
    Ok(())
}

#[cfg(test)]
mod tests;
