//! Ranks that are threads of one process, for tests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Ranks, Transport};

/// Longer than any test computes between two exchanges: a rank that does not come has failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Board {
    said: Vec<Option<Vec<u8>>>,
    taken: usize,
    gone: bool,
}

struct Thread {
    rank: usize,
    size: usize,
    board: Arc<(Mutex<Board>, Condvar)>,
}

/// As many ranks, each for a thread of its own.
pub fn ranks(size: usize) -> Vec<Ranks> {
    let board = Board { said: vec![None; size], ..Board::default() };
    let board = Arc::new((Mutex::new(board), Condvar::new()));
    (0..size).map(|rank| Ranks::new(Arc::new(Thread { rank, size, board: board.clone() }))).collect()
}

/// What `each` comes to, in a thread for every rank.
pub fn run<T: Send>(size: usize, each: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks(size).into_iter().map(|ranks| scope.spawn(|| each(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn wait<'a>(
    changed: &Condvar,
    board: MutexGuard<'a, Board>,
    until: impl Fn(&Board) -> bool,
) -> Result<MutexGuard<'a, Board>> {
    let waits = |board: &mut Board| !board.gone && !until(board);
    let (board, waited) = changed.wait_timeout_while(board, PATIENCE, waits).unwrap();
    ensure!(!board.gone && !waited.timed_out(), "another rank is gone");
    Ok(board)
}

impl Transport for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local(&self) -> (usize, usize) {
        (self.rank, self.size)
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (board, changed) = &*self.board;
        let mut board = wait(changed, board.lock().unwrap(), |board| board.said[self.rank].is_none())?;
        board.said[self.rank] = Some(own.to_vec());
        changed.notify_all();
        let mut board = wait(changed, board, |board| board.said.iter().all(Option::is_some))?;
        let all = board.said.iter().flatten().cloned().collect();
        board.taken += 1;
        if board.taken == self.size {
            board.taken = 0;
            board.said.fill(None);
        }
        changed.notify_all();
        drop(wait(changed, board, |board| board.taken == 0)?);
        Ok(all)
    }

    fn scatter(&self, words: &[u32], bounds: &[usize], received: &mut [u32]) -> Result<()> {
        let own = received.len() / self.size;
        let all = self.gather(bytemuck::cast_slice(words))?;
        for (rank, words) in all.iter().enumerate() {
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(words);
            let place = bounds[self.rank]..bounds[self.rank + 1];
            received[rank * own..(rank + 1) * own].copy_from_slice(&words[place]);
        }
        Ok(())
    }

    fn spread(&self, own: &[u32], all: &mut [u32], bounds: &[usize]) -> Result<()> {
        for (rank, said) in self.gather(bytemuck::cast_slice(own))?.iter().enumerate() {
            let said: Vec<u32> = bytemuck::pod_collect_to_vec(said);
            all[bounds[rank]..bounds[rank + 1]].copy_from_slice(&said);
        }
        Ok(())
    }

    fn abort(&self) {
        let (board, changed) = &*self.board;
        board.lock().unwrap().gone = true;
        changed.notify_all();
    }
}
