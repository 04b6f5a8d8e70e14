//! The processes that MPI has started.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use super::{Neighbours, Ranks, Transport};

/// MPI ends with this.
struct Mpi {
    rank: usize,
    size: usize,
    local: (usize, usize),
    /// Whoever calls MPI holds it: one thread at a time.
    universe: Mutex<Universe>,
    neighbours: OnceLock<Arc<Neighbours>>,
}

impl Drop for Mpi {
    /// A rank that panics does not wait for the others to end, as MPI does: they wait for it.
    fn drop(&mut self) {
        // Nobody is gone before all have come here: MPI waits for them when it ends.
        if let Some(neighbours) = self.neighbours.get() {
            neighbours.end();
        }
        if std::thread::panicking() {
            self.abort();
        }
    }
}

/// Begins to talk to them.
///
/// # Errors
/// An MPI that only its first thread may call from, or that was begun before.
pub fn start() -> Result<Ranks> {
    let (universe, threading) =
        mpi::initialize_with_threading(Threading::Serialized).context("MPI was begun before")?;
    ensure!(threading >= Threading::Serialized, "this MPI lets only the first thread talk");
    let world = SimpleCommunicator::world();
    // Given up before MPI may end: where there is one rank it does so below.
    let local = {
        let here = world.split_shared(world.rank());
        (number(here.rank()), number(here.size()))
    };
    let (rank, size) = (number(world.rank()), number(world.size()));
    let universe = Mutex::new(universe);
    let mpi = Arc::new(Mpi { rank, size, local, universe, neighbours: OnceLock::new() });
    if size > 1 {
        let neighbours = Neighbours::meet(mpi.as_ref())?;
        neighbours.watch(|| SimpleCommunicator::world().abort(1))?;
        mpi.neighbours.get_or_init(|| neighbours);
    }
    Ok(Ranks::new(mpi))
}

fn number(of: i32) -> usize {
    usize::try_from(of).unwrap_or(0)
}

/// Lengths and beginnings of the parts, as MPI counts them.
fn counts(bounds: &[usize]) -> Result<(Vec<i32>, Vec<i32>)> {
    let count = |number: usize| i32::try_from(number).context("more numbers than MPI counts");
    let lengths = bounds.windows(2).map(|pair| count(pair[1] - pair[0])).collect::<Result<_>>()?;
    let begins = bounds.iter().rev().skip(1).rev().map(|&begin| count(begin)).collect::<Result<_>>()?;
    Ok((lengths, begins))
}

/// Where messages of these lengths lie, one behind the other.
fn bounds(lengths: &[u64]) -> Result<Vec<usize>> {
    let mut bounds = vec![0usize];
    for &length in lengths {
        let end = bounds.last().unwrap_or(&0) + usize::try_from(length)?;
        bounds.push(end);
    }
    Ok(bounds)
}

/// Messages, each without its last byte.
fn parts(all: &[u8], bounds: &[usize]) -> Vec<Vec<u8>> {
    bounds.windows(2).map(|pair| all[pair[0]..pair[1].saturating_sub(1)].to_vec()).collect()
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local(&self) -> (usize, usize) {
        self.local
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _one = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        // One more byte than there is to say: where there is none, the address of an empty slice is 1, which to Open MPI
        // means that the data lie elsewhere.
        let said = [own, &[0]].concat();
        let mut lengths = vec![0u64; self.size];
        world.all_gather_into(&(said.len() as u64), &mut lengths[..]);
        let bounds = bounds(&lengths)?;
        let mut all = vec![0u8; *bounds.last().unwrap_or(&0)];
        let (lengths, begins) = counts(&bounds)?;
        world.all_gather_varcount_into(&said[..], &mut PartitionMut::new(&mut all[..], lengths, begins));
        Ok(parts(&all, &bounds))
    }

    fn gather_to_first(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _one = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        // As above.
        let said = [own, &[0]].concat();
        if self.rank > 0 {
            first.gather_into(&(said.len() as u64));
            first.gather_varcount_into(&said[..]);
            return Ok(Vec::new());
        }
        let mut lengths = vec![0u64; self.size];
        first.gather_into_root(&(said.len() as u64), &mut lengths[..]);
        let bounds = bounds(&lengths)?;
        let mut all = vec![0u8; *bounds.last().unwrap_or(&0)];
        let (lengths, begins) = counts(&bounds)?;
        first.gather_varcount_into_root(&said[..], &mut PartitionMut::new(&mut all[..], lengths, begins));
        Ok(parts(&all, &bounds))
    }

    fn scatter(&self, words: &[u32], bounds: &[usize], received: &mut [u32]) -> Result<()> {
        let _one = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        let own = received.len() / self.size;
        let (lengths, begins) = counts(bounds)?;
        let places: Vec<usize> = (0..=self.size).map(|rank| rank * own).collect();
        let (own_lengths, own_begins) = counts(&places)?;
        let sent = Partition::new(words, lengths, begins);
        let mut received = PartitionMut::new(received, own_lengths, own_begins);
        SimpleCommunicator::world().all_to_all_varcount_into(&sent, &mut received);
        Ok(())
    }

    fn spread(&self, own: &[u32], all: &mut [u32], bounds: &[usize]) -> Result<()> {
        let _one = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        let (lengths, begins) = counts(bounds)?;
        let mut all = PartitionMut::new(all, lengths, begins);
        SimpleCommunicator::world().all_gather_varcount_into(own, &mut all);
        Ok(())
    }

    fn abort(&self) {
        // It has said why: nobody is to say that it has died.
        if let Some(neighbours) = self.neighbours.get() {
            neighbours.has_last_word();
        }
        SimpleCommunicator::world().abort(1);
    }

    fn neighbours(&self) -> Option<Arc<Neighbours>> {
        self.neighbours.get().cloned()
    }
}
