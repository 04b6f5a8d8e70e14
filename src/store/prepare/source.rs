//! The input, and the right to take from it: batches of documents, in rounds of one for each rank.

use std::sync::mpsc::Receiver;

use anyhow::Result;

use super::Options;
use crate::corpus::input::{Document, Documents};

/// What a rank has to encode in a round, and how far the input is read behind the round. Nothing is left to read where not
/// even the first rank has documents.
pub struct Batch {
    pub documents: Vec<Document>,
    pub is_last: bool,
    pub bytes_read: u64,
    /// Of all documents so far, of all ranks.
    pub checksum: u32,
}

pub struct Source {
    documents: Documents,
    tickets: Receiver<()>,
    batch_bytes: usize,
    rank: usize,
    ranks: usize,
    /// The round that is read next.
    round: u64,
    checksum: u32,
    finished: bool,
}

impl Source {
    pub fn new(documents: Documents, tickets: Receiver<()>, options: &Options) -> Self {
        let (rank, ranks) = (options.ranks.rank(), options.ranks.size());
        let batch_bytes = options.batch_bytes.max(1);
        Source { documents, tickets, batch_bytes, rank, ranks, round: 0, checksum: 0, finished: false }
    }

    /// The number of the next round and this rank's batch of it; nothing behind the end of the input, or where the writer
    /// has given up.
    pub fn take(&mut self) -> Option<(u64, Result<Batch>)> {
        if self.finished || self.tickets.recv().is_err() {
            return None;
        }
        let round = self.round;
        self.round += 1;
        let batch = self.read_round();
        self.finished = batch.as_ref().map_or(true, |batch| batch.is_last);
        Some((round, batch))
    }

    /// A round is read whole: an input that cannot be read is found by all ranks in the same one.
    fn read_round(&mut self) -> Result<Batch> {
        let mut own = Vec::new();
        let mut is_last = true;
        for rank in 0..self.ranks {
            let documents = self.read_batch()?;
            if documents.is_empty() {
                break;
            }
            is_last = false;
            if rank == self.rank {
                own = documents;
            }
        }
        let (bytes_read, checksum) = (self.documents.bytes_read, self.checksum);
        Ok(Batch { documents: own, is_last, bytes_read, checksum })
    }

    fn read_batch(&mut self) -> Result<Vec<Document>> {
        let (mut documents, mut bytes) = (Vec::new(), 0);
        while bytes < self.batch_bytes {
            let Some(document) = self.documents.next().transpose()? else { break };
            if self.ranks > 1 {
                let text = document.text.as_bytes();
                self.checksum = crc32c::crc32c_append(self.checksum, &(text.len() as u64).to_le_bytes());
                self.checksum = crc32c::crc32c_append(self.checksum, text);
            }
            bytes += document.text.len();
            documents.push(document);
        }
        Ok(documents)
    }
}
