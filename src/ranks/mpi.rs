//! The processes that MPI has started.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::{Ranks, Transport};

/// MPI ends with this.
struct Mpi {
    rank: usize,
    size: usize,
    local: (usize, usize),
    /// Whoever calls MPI holds it: one thread at a time.
    universe: Mutex<Universe>,
}

impl Drop for Mpi {
    /// A rank that panics does not wait for the others to end, as MPI does: they wait for it.
    fn drop(&mut self) {
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
    Ok(Ranks::new(Arc::new(Mpi { rank, size, local, universe: Mutex::new(universe) })))
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
        let mut bounds = vec![0usize];
        for length in lengths {
            let end = bounds.last().unwrap_or(&0) + usize::try_from(length)?;
            bounds.push(end);
        }
        let mut all = vec![0u8; *bounds.last().unwrap_or(&0)];
        let (lengths, begins) = counts(&bounds)?;
        world.all_gather_varcount_into(&said[..], &mut PartitionMut::new(&mut all[..], lengths, begins));
        Ok(bounds.windows(2).map(|pair| all[pair[0]..pair[1].saturating_sub(1)].to_vec()).collect())
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
        SimpleCommunicator::world().abort(1);
    }
}
