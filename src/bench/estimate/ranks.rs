//! How long a step takes with several ranks: the exchange of gradients and parameters as latency and bandwidth.
//!
//! A message of n bytes takes α + n/β (Hockney, Parallel Computing 20, 1994). Both exchanges are pairwise: N − 1 rounds, in
//! each of which every rank sends one message and receives one.
//!
//! - Reduce-scatter: each rank sends every other that one's range of its gradients, P/N numbers, and sums what it gets.
//! - All-gather: each rank sends its range of the new parameters to every other.
//! - Two all-gathers of some bytes, for the norm and for what is reported, cost their latencies alone.
//!
//! Ranks of one node exchange through its memory, and share its link to the other nodes: all their bytes go over that one
//! link. Both kinds of messages are taken to come after each other. Everything is of the fullest node, which the others
//! wait for; nothing of this is measured.

use serde::Serialize;

use crate::tensor::Precision;

/// Seconds of a small message between nodes. Typical of MPI over TCP and Ethernet, which is said to take 15 to 50 µs; with
/// RDMA it is 1 to 3. Not measured.
pub const NETWORK_LATENCY: f64 = 30e-6;

/// Seconds of a small message through a node's memory. Typical of MPI, which is said to take 0.3 to 1 µs. Not measured.
pub const SHARED_LATENCY: f64 = 1e-6;

/// Bytes a second between a card and its host: of PCIe 4.0 × 16 (data sheet: 31.5 GB/s) about what copies reach.
pub const HOST_LINK: f64 = 25e9;

/// Bytes a second that one core of a host reads and writes, together: typical of servers, of which STREAM on one core shows
/// 10 to 20 GB/s. A copy reads and writes each byte: half of it.
pub const HOST_MEMORY: f64 = 16e9;

/// Bytes a second that all cores of a node read and write together: eight channels of DDR4-3200 (data sheet: 204.8 GB/s).
pub const NODE_MEMORY: f64 = 200e9;

/// Seconds of one launch that computes nothing, on a card: 626 of them take 8.1 ms on an H100
/// (docs/benchmarks/2026-11-27-h100.md).
pub const LAUNCH: f64 = 8.1e-3 / 626.0;

/// Share of a micro-batch's time that is its backward pass: twice the FLOPs of forward.
const BACKWARD: f64 = 2.0 / 3.0;

/// Ranks and what connects them.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub ranks: usize,
    pub per_node: usize,
    /// Bytes a second of a node's link to the others, each way.
    pub network: f64,
    /// Seconds of a message between nodes, and within one.
    pub latency: f64,
    pub shared_latency: f64,
    /// Bytes a second between a rank's device and its host, each way.
    pub host_link: f64,
    /// Bytes a second that a rank reads and writes in its host's memory.
    pub host_memory: f64,
    /// Of the gradients on their way; parameters go as f32.
    pub reduce: Precision,
}

impl Cluster {
    /// So many ranks with what is typical; a link of so many bytes a second between nodes.
    pub fn typical(ranks: usize, per_node: usize, network: f64) -> Self {
        let local = per_node.min(ranks).max(1) as f64;
        Cluster {
            ranks,
            per_node,
            network,
            latency: NETWORK_LATENCY,
            shared_latency: SHARED_LATENCY,
            host_link: HOST_LINK.min(NODE_MEMORY / local),
            host_memory: HOST_MEMORY.min(NODE_MEMORY / local),
            reduce: Precision::F32,
        }
    }

    /// Ranks of the fullest node.
    fn local(&self) -> usize {
        self.per_node.min(self.ranks).max(1)
    }

    /// Every rank sends every other one message of so many bytes.
    fn pairwise(&self, bytes: f64) -> f64 {
        let local = self.local();
        let (near, far) = ((local - 1) as f64, (self.ranks - local) as f64);
        let shared = near * (self.shared_latency + bytes / (self.host_memory / 2.0));
        // All of a node's ranks send over its one link.
        let between = far * (self.latency + local as f64 * bytes / self.network);
        shared + between
    }

    /// What a step of `parameters` trained numbers has beside computing.
    pub fn exchange(&self, parameters: u64) -> Exchange {
        if self.ranks <= 1 {
            return Exchange::default();
        }
        let (ranks, all) = (self.ranks as f64, parameters as f64);
        let (range, others) = (all / ranks, ranks - 1.0);
        let width = match self.reduce {
            Precision::F32 => 4.0,
            Precision::F16 => 2.0,
        };
        Exchange {
            readback_seconds: 4.0 * all / self.host_link,
            reduce_scatter_seconds: self.pairwise(width * range),
            // Each range that comes is read, and added to an f32 sum.
            sum_seconds: others * range * (width + 8.0) / self.host_memory,
            norm_seconds: 2.0 * self.pairwise(0.0),
            all_gather_seconds: self.pairwise(4.0 * range),
            write_seconds: 4.0 * all / self.host_link,
            sent_bytes: others * range * (width + 4.0),
        }
    }
}

/// What one rank does beside computing in a step: seconds of each part, and bytes that it sends.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Exchange {
    /// Gradients from the device to the host.
    pub readback_seconds: f64,
    pub reduce_scatter_seconds: f64,
    /// Adding up the own range, in the host's memory.
    pub sum_seconds: f64,
    /// The two small all-gathers.
    pub norm_seconds: f64,
    pub all_gather_seconds: f64,
    /// Parameters from the host to the device.
    pub write_seconds: f64,
    pub sent_bytes: f64,
}

impl Exchange {
    pub fn seconds(&self) -> f64 {
        self.gradients() + self.norm_seconds + self.all_gather_seconds + self.write_seconds
    }

    /// What could begin before the backward pass ends.
    fn gradients(&self) -> f64 {
        self.readback_seconds + self.reduce_scatter_seconds + self.sum_seconds
    }

    /// Seconds that are left where gradients go while the backward pass of the last micro-batch, which takes so long, makes
    /// others: at best all of what can. The program sends group after group, but the table of words is one, and done last.
    pub fn overlapped(&self, last_micro_batch: f64) -> f64 {
        self.seconds() - self.gradients().min(BACKWARD * last_micro_batch)
    }
}

/// How fast one device computes: a micro-batch takes `fixed` seconds, and `sequence` for each sequence in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub fixed: f64,
    pub sequence: f64,
}

/// Micro-batches that make so many sequences.
pub fn accumulation(sequences: usize, micro_batch: usize) -> usize {
    sequences.div_ceil(micro_batch.max(1))
}

impl Pace {
    /// From a step of so many seconds, and what of it a micro-batch takes that computes nothing: at most all there is.
    pub fn of(step_seconds: f64, sequences: usize, micro_batch: usize, fixed: f64) -> Self {
        let count = accumulation(sequences, micro_batch).max(1) as f64;
        let fixed = fixed.min(step_seconds / count);
        Pace { fixed, sequence: (step_seconds - count * fixed) / sequences.max(1) as f64 }
    }

    /// Of so many sequences in micro-batches.
    pub fn seconds(&self, sequences: usize, micro_batch: usize) -> f64 {
        accumulation(sequences, micro_batch) as f64 * self.fixed + sequences as f64 * self.sequence
    }
}

/// The sequences of the rank that has most of them.
pub fn share(batch_size: usize, ranks: usize) -> usize {
    batch_size.div_ceil(ranks.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures that are easy to reckon with: a message takes a second, a link carries 100 bytes a second.
    fn slow(ranks: usize, per_node: usize) -> Cluster {
        Cluster {
            latency: 1.0,
            shared_latency: 0.5,
            host_link: 1000.0,
            host_memory: 400.0,
            ..Cluster::typical(ranks, per_node, 100.0)
        }
    }

    #[test]
    fn one_rank_costs_nothing() {
        let exchange = slow(1, 1).exchange(1_000_000);
        assert_eq!((exchange.seconds(), exchange.sent_bytes), (0.0, 0.0));
        assert_eq!(slow(1, 8).exchange(1_000_000).seconds(), 0.0);
    }

    /// 1,000 parameters, by hand.
    #[test]
    fn two_ranks_take_what_the_formula_says() {
        let exchange = slow(2, 1).exchange(1000);
        assert_eq!(exchange.readback_seconds, 4.0);
        assert_eq!(exchange.reduce_scatter_seconds, 1.0 + 2000.0 / 100.0);
        // 500 numbers of 4 bytes read, and a sum read and written.
        assert_eq!(exchange.sum_seconds, 500.0 * 12.0 / 400.0);
        assert_eq!(exchange.norm_seconds, 2.0);
        assert_eq!(exchange.all_gather_seconds, 21.0);
        assert_eq!(exchange.write_seconds, 4.0);
        assert_eq!(exchange.sent_bytes, 4000.0);
        assert_eq!(exchange.seconds(), 4.0 + 21.0 + 15.0 + 2.0 + 21.0 + 4.0);
        // Of 60 seconds 40 are backward, which is as long as what can go beside it; of 30, 20.
        assert_eq!(exchange.overlapped(60.0), 27.0);
        assert_eq!(exchange.overlapped(30.0), 47.0);
    }

    /// Four ranks on two nodes: one neighbour, two far away, and two that send over each link.
    #[test]
    fn ranks_of_a_node_share_its_link() {
        let exchange = slow(4, 2).exchange(1000);
        // 1,000 bytes to each; a copy in memory at 200 bytes a second.
        assert_eq!(exchange.reduce_scatter_seconds, (0.5 + 5.0) + 2.0 * (1.0 + 2.0 * 10.0));
        assert_eq!(exchange.norm_seconds, 2.0 * (0.5 + 2.0));
        // All on one node: no link.
        assert_eq!(slow(4, 8).exchange(1000).reduce_scatter_seconds, 3.0 * 5.5);
        assert!(slow(4, 1).exchange(1000).seconds() < exchange.seconds());
    }

    #[test]
    fn half_precision_halves_the_gradients_alone() {
        let whole = slow(2, 1).exchange(1000);
        let half = Cluster { reduce: Precision::F16, ..slow(2, 1) }.exchange(1000);
        assert_eq!(half.sent_bytes, 500.0 * (2.0 + 4.0));
        assert_eq!(half.reduce_scatter_seconds, 11.0);
        assert_eq!(half.all_gather_seconds, whole.all_gather_seconds);
    }

    #[test]
    fn bytes_are_twice_all_but_a_share() {
        let parameters = 14_400_000u64;
        for ranks in 1..=64 {
            let sent = Cluster::typical(ranks, 1, 1e9).exchange(parameters).sent_bytes;
            let expected = 2.0 * (ranks - 1) as f64 / ranks as f64 * parameters as f64 * 4.0;
            assert!((sent - expected).abs() <= 1e-9 * expected, "{ranks}: {sent} for {expected}");
        }
    }

    #[test]
    fn it_costs_more_with_more_of_anything() {
        let seconds =
            |ranks, network, parameters| Cluster::typical(ranks, 1, network).exchange(parameters).seconds();
        for ranks in 2..=64 {
            let messages = |ranks| {
                let exchange = Cluster::typical(ranks, 1, 1e9).exchange(1 << 24);
                exchange.reduce_scatter_seconds + exchange.all_gather_seconds + exchange.norm_seconds
            };
            assert!(messages(ranks) > messages(ranks - 1));
            assert!(seconds(ranks, 1e9, 2 << 20) > seconds(ranks, 1e9, 1 << 20));
            assert!(seconds(ranks, 1e9, 1 << 20) > seconds(ranks, 2e9, 1 << 20));
        }
    }

    #[test]
    fn a_pace_gives_its_step_back() {
        let pace = Pace::of(10.0, 64, 16, 0.5);
        assert_eq!(pace, Pace { fixed: 0.5, sequence: 8.0 / 64.0 });
        assert_eq!(pace.seconds(64, 16), 10.0);
        assert_eq!(pace.seconds(64, 64), 8.5);
        assert_eq!(pace.seconds(8, 8), 1.5);
        // A last micro-batch that is not full costs as much beside its sequences.
        assert_eq!(pace.seconds(9, 8), 2.0 * 0.5 + 9.0 / 8.0);
        assert_eq!(Pace::of(1.0, 4, 2, 7.0), Pace { fixed: 0.5, sequence: 0.0 });
        assert_eq!([share(64, 1), share(64, 3), share(5, 4)], [64, 22, 2]);
    }
}
