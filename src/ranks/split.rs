//! Which sequences of a batch are whose.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// How the sequences of every batch are divided: contiguous parts, in the order of ranks, as large as these weights say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    rank: usize,
    weights: Vec<u64>,
    /// Somebody has said, or measured, what they are: then they stay.
    chosen: bool,
}

impl Default for Split {
    /// Everything is this process's.
    fn default() -> Self {
        Split { rank: 0, weights: vec![1], chosen: false }
    }
}

/// A weight is at most this: sums and products with a batch stay far from what u64 holds.
const LARGEST: u64 = 1_000_000;

impl Split {
    /// Equal parts.
    pub fn equal(rank: usize, ranks: usize) -> Self {
        Split { rank, weights: vec![1; ranks], chosen: false }
    }

    /// Parts by weight, one for each rank.
    pub fn weighted(rank: usize, weights: Vec<u64>) -> Result<Self> {
        ensure!(rank < weights.len(), "{} shares are too few for rank {rank}", weights.len());
        let possible = weights.iter().all(|weight| (1..=LARGEST).contains(weight));
        ensure!(possible, "shares are whole numbers from 1 to {LARGEST}");
        Ok(Split { rank, weights, chosen: true })
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn ranks(&self) -> usize {
        self.weights.len()
    }

    /// What goes on holding when the run goes on: nothing where no one has chosen.
    pub fn recorded(&self) -> Vec<u64> {
        if self.chosen { self.weights.clone() } else { Vec::new() }
    }

    /// This rank's sequences of a batch of so many.
    pub fn own(&self, batch: usize) -> Range<usize> {
        self.of(self.rank, batch)
    }

    /// The sequences of any rank.
    pub fn of(&self, rank: usize, batch: usize) -> Range<usize> {
        let all: u128 = self.weights.iter().map(|&weight| u128::from(weight)).sum();
        let bound = |before: usize| {
            let sum: u128 = self.weights.iter().take(before).map(|&weight| u128::from(weight)).sum();
            (batch as u128 * sum / all.max(1)) as usize
        };
        bound(rank)..bound(rank + 1)
    }
}

/// What `--share` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shares {
    /// By how long each rank takes for the same work.
    Measured,
    /// A weight for each rank.
    Given(Vec<u64>),
}

impl Display for Shares {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Shares::Measured => f.write_str("auto"),
            Shares::Given(weights) => {
                f.write_str(&weights.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Shares::Measured);
        }
        let weights = text.split(',').map(|weight| weight.trim().parse::<u64>().ok());
        let weights = weights.map(|weight| weight.filter(|weight| (1..=LARGEST).contains(weight)));
        let weights: Option<Vec<u64>> = weights.collect();
        weights.map(Shares::Given).ok_or_else(|| {
            format!("expected auto, or a whole number from 1 to {LARGEST} for each rank, as in 3,1")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_somebodys() {
        for weights in [vec![1], vec![1, 1], vec![1, 1, 1], vec![3, 1], vec![7, 1, 1, 2], vec![1_000_000, 1]]
        {
            for batch in [1, 2, 3, 7, 8, 64, 2048] {
                let mut next = 0;
                for rank in 0..weights.len() {
                    let split = Split::weighted(rank, weights.clone()).unwrap();
                    assert_eq!(split.own(batch).start, next);
                    next = split.own(batch).end;
                }
                assert_eq!(next, batch);
            }
        }
        assert_eq!(Split::weighted(1, vec![3, 1]).unwrap().own(64), 48..64);
        assert_eq!(Split::equal(2, 4).own(64), 32..48);
        assert_eq!(Split::default().own(5), 0..5);
        assert!(Split::weighted(1, vec![3, 0]).is_err() && Split::weighted(2, vec![3, 1]).is_err());
    }

    #[test]
    fn shares_are_read() {
        assert_eq!("auto".parse(), Ok(Shares::Measured));
        assert_eq!("3, 1".parse(), Ok(Shares::Given(vec![3, 1])));
        for text in ["auto", "3,1"] {
            assert_eq!(text.parse::<Shares>().unwrap().to_string(), text);
        }
        for wrong in ["", "3,", "0,1", "a", "1.5", "-1", "1000001"] {
            assert!(wrong.parse::<Shares>().is_err(), "{wrong}");
        }
    }
}
