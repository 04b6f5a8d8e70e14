//! Dropout of packed rows on the CPU: the factors of a row, drawn again wherever they are needed.

use anyhow::{Result, ensure};

use crate::tensor::{Dropout, TensorId, random};

use super::{Memory, Scalar};

/// Counters drawn together: enough independent draws to fill the widest vector registers.
const DRAWS: usize = 16;

/// Channels whose factors are made together: four 16-bit draws a counter.
const CHANNELS: usize = 4 * DRAWS;

/// Fails where dropout is on, and there are no coordinates to draw at.
pub(super) fn check_coordinates(
    dropouts: &[Dropout],
    positions: Option<TensorId>,
    sequences: Option<TensorId>,
) -> Result<()> {
    let given = positions.is_some() && sequences.is_some();
    ensure!(given || !dropouts.iter().any(Dropout::is_on), "dropout needs positions and sequences");
    Ok(())
}

/// Dropout at one site over the rows of a micro-batch.
#[derive(Clone, Copy)]
pub(super) struct RowDropout<'a> {
    dropout: Dropout,
    key: [u32; 2],
    first_sequence: u32,
    positions: &'a [u32],
    sequences: &'a [u32],
}

impl<'a> RowDropout<'a> {
    /// `None` where dropout is off, or without `positions` and `sequences` (u32 `[rows]`), of which ops check with
    /// [`check_coordinates`] that they are there where it is on.
    pub fn new<S: Scalar>(
        memory: &Memory<'a, S>,
        dropout: Dropout,
        positions: Option<TensorId>,
        sequences: Option<TensorId>,
    ) -> Option<Self> {
        let (true, Some(positions), Some(sequences)) = (dropout.is_on(), positions, sequences) else {
            return None;
        };
        Some(RowDropout {
            dropout,
            key: memory.values.key,
            first_sequence: memory.values.first_sequence,
            positions: memory.read_uint(positions),
            sequences: memory.read_uint(sequences),
        })
    }

    /// Calls `f(first channel, factors)` for consecutive channels of row `row`, until all `columns` are done.
    /// A factor is 0 or the scale.
    #[inline(always)]
    pub fn factors<S: Scalar>(&self, row: usize, columns: usize, mut f: impl FnMut(usize, &[S])) {
        let sequence = self.first_sequence.wrapping_add(self.sequences[row]);
        let key = random::derive(self.key, self.dropout.site, sequence);
        let position = self.positions[row];
        let threshold = self.dropout.threshold as u16;
        let scale = S::of(f64::from(self.dropout.scale));
        let mut first = 0;
        while first < columns {
            let mut words = [0u32; 2 * DRAWS];
            for (draw, pair) in words.chunks_exact_mut(2).enumerate() {
                let [a, b] = random::threefry(key, [position, (first / 4 + draw) as u32]);
                // Low half-words first whatever the machine, so that the bytes below are in channel order.
                pair[0] = a.to_le();
                pair[1] = b.to_le();
            }
            let halves: [u16; CHANNELS] = bytemuck::cast(words);
            let mut factors = [S::ZERO; CHANNELS];
            for (factor, half) in factors.iter_mut().zip(halves) {
                *factor = if u16::from_le(half) < threshold { S::ZERO } else { scale };
            }
            f(first, &factors[..CHANNELS.min(columns - first)]);
            first += CHANNELS;
        }
    }

    /// Multiplies `values`, all of row `row`, by their factors.
    #[inline(always)]
    pub fn apply<S: Scalar>(&self, row: usize, values: &mut [S]) {
        self.factors(row, values.len(), |first, factors| {
            for (value, &factor) in values[first..].iter_mut().zip(factors) {
                *value *= factor;
            }
        });
    }
}
