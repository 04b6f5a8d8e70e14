//! Decompression alone, by the same reader and decoder as an extraction: what its speed is measured against.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, atomic};

use anyhow::{Result, bail};

use super::segment::{self, Decoded};
use super::source::{self, Work};

/// Decodes a dump on `threads` threads and throws the XML away; returns how many bytes it was.
///
/// # Errors
/// As [`super::extract`], and anything damaged.
pub fn decompress(dump: &Path, threads: usize) -> Result<u64> {
    let mut input = source::open(dump)?;
    let bytes = atomic::AtomicU64::new(0);
    let problem = Mutex::new(None);
    let count = |decoded: Decoded| match decoded {
        Decoded::Xml { bytes: xml, .. } => {
            bytes.fetch_add(xml.len() as u64, atomic::Ordering::Relaxed);
            true
        }
        Decoded::Problem(named) => {
            if let Ok(mut problem) = problem.lock() {
                problem.get_or_insert(named.message);
            }
            true
        }
    };
    let (work_in, work) = sync_channel::<Work>(threads.max(1) + 2);
    let work = Mutex::new(work);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                while let Ok(Ok(piece)) = work.lock().map(|work| work.recv()) {
                    match piece {
                        Work::Segment { offset, bytes } => {
                            segment::decode(offset, &bytes, &mut buffer, &mut |decoded| count(decoded));
                        }
                        Work::Xml { place, bytes } => {
                            count(Decoded::Xml { place, bytes: &bytes });
                        }
                        Work::Problem(problem) => {
                            count(Decoded::Problem(problem));
                        }
                    }
                }
            });
        }
        let split = source::split(input.as_mut(), &mut |piece| work_in.send(piece).is_ok());
        drop(work_in);
        split
    })?;
    match problem.into_inner() {
        Ok(None) => Ok(bytes.into_inner()),
        Ok(Some(problem)) => bail!("{}: {problem}", dump.display()),
        Err(_) => bail!("{}: a thread that decodes has panicked", dump.display()),
    }
}
