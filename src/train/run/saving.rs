//! Checkpoints while training goes on: what the executor holds is copied, and a thread writes the copy.

use std::fs::File;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::files::size;
use crate::interop::checkpoint::{self, Keep, Snapshot};

/// Writes the checkpoints of a run, one at a time.
pub struct Saving {
    run: PathBuf,
    keep: Keep,
    thread: Option<JoinHandle<Result<Duration>>>,
    /// How long the last one took to be written.
    pub took: Option<Duration>,
}

impl Saving {
    pub fn new(run: PathBuf, keep: Keep) -> Self {
        Saving { run, keep, thread: None, took: None }
    }

    /// Begins to write a checkpoint, for which training has stood still this long; the one before must have ended. The
    /// lines of `logs` are on the disk before it is a checkpoint.
    pub fn begin(&mut self, snapshot: Snapshot, waited: Duration, logs: Vec<File>) -> Result<()> {
        let (run, keep) = (self.run.clone(), self.keep);
        let write = move || {
            let (since, step, bytes) = (Instant::now(), snapshot.state.step, snapshot.bytes());
            snapshot.write(&run, || {
                let synced = logs.iter().try_for_each(File::sync_data);
                synced.with_context(|| format!("cannot write the lines of metrics in {}", run.display()))
            })?;
            checkpoint::remove_old(&run, step, keep);
            note!(
                "step {step} saved: {} in {:.2} s, for which training stood still {:.3} s",
                size(bytes),
                since.elapsed().as_secs_f64(),
                waited.as_secs_f64()
            );
            Ok(since.elapsed())
        };
        self.thread = Some(std::thread::Builder::new().name("checkpoint".into()).spawn(write)?);
        Ok(())
    }

    /// Says what became of a checkpoint that could not be written, as soon as that is known, or waits until it is. It is
    /// no reason to stop training: the next one is tried where it is due.
    pub fn take_stock(&mut self, wait: bool) {
        if (wait || self.thread.as_ref().is_some_and(JoinHandle::is_finished))
            && let Err(error) = self.end()
        {
            warning!("warning: {error:#}; training goes on, and the next checkpoint is tried");
        }
    }

    /// Waits until the checkpoint that is being written is there.
    ///
    /// # Errors
    /// It is not; the run is as if it had not been tried.
    pub fn end(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written.map(|took| self.took = Some(took)),
            Some(Err(_)) => {
                Err(anyhow!("the thread that writes checkpoints has stopped; please report this"))
            }
        }
    }
}

impl Drop for Saving {
    /// A run that fails still has the checkpoint that was on its way.
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            note!("note: {error:#}");
        }
    }
}
