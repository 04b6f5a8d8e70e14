//! Counter-based random numbers with logical coordinates.
//!
//! Threefry-2x32 with 13 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
//! A draw is a pure function of a key and a counter, so it depends on what is drawn (step, op, sequence,
//! head, position, channel), never on when or where: backward passes regenerate what forward passes drew,
//! and resuming needs only the number of the step. `shaders/prelude.wgsl` holds the same function.

/// Rounds used everywhere in Inazuma: the fewest that pass BigCrush, by the authors' own tests.
pub const ROUNDS: u32 = 13;

const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
const PARITY: u32 = 0x1BD1_1BDA;

/// Threefry-2x32 with `rounds` rounds: one 64-bit block from a 64-bit key and a 64-bit counter.
#[inline(always)]
pub fn threefry_rounds(key: [u32; 2], counter: [u32; 2], rounds: u32) -> [u32; 2] {
    let schedule = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut x0 = counter[0].wrapping_add(schedule[0]);
    let mut x1 = counter[1].wrapping_add(schedule[1]);
    let mut round = 0;
    while round < rounds {
        x0 = x0.wrapping_add(x1);
        x1 = x1.rotate_left(ROTATIONS[(round % 8) as usize]) ^ x0;
        round += 1;
        if round % 4 == 0 {
            let injection = round / 4;
            x0 = x0.wrapping_add(schedule[(injection % 3) as usize]);
            x1 = x1.wrapping_add(schedule[((injection + 1) % 3) as usize]).wrapping_add(injection);
        }
    }
    [x0, x1]
}

/// Threefry-2x32-13, the generator of every draw.
#[inline(always)]
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    threefry_rounds(key, counter, ROUNDS)
}

/// A key of its own for a purpose under `key`: keys form a tree, each level one coordinate pair.
#[inline(always)]
pub fn derive(key: [u32; 2], a: u32, b: u32) -> [u32; 2] {
    threefry(key, [a, b])
}

/// The root key of a run.
pub fn root(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// A sequential stream of draws under one key, for host-side work (masking, cutting examples, initialisation).
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: u64,
    spare: Option<u32>,
}

impl Stream {
    /// A stream that starts at counter 0 of `key`.
    pub fn new(key: [u32; 2]) -> Self {
        Stream::at(key, 0)
    }

    /// A stream of `key` from a later counter on: what [`Stream::new`] gives after as many blocks, two draws of 32 bits or
    /// one of [`Stream::uniform`] each.
    pub fn at(key: [u32; 2], counter: u64) -> Self {
        Stream { key, counter, spare: None }
    }

    /// 32 uniform bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let counter = [self.counter as u32, (self.counter >> 32) as u32];
        self.counter += 1;
        let [first, second] = threefry(self.key, counter);
        self.spare = Some(second);
        first
    }

    /// Uniform in [0, 1) with 53 bits.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let low = u64::from(self.next_u32());
        ((high << 32 | low) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n, without modulo bias (Lemire's multiply and reject). `n` must be positive.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        debug_assert!(n > 0);
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            let low = product as u32;
            if low >= n.wrapping_neg() % n {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, threefry2x32, 13 and 20 rounds).
    #[test]
    fn threefry_matches_random123() {
        let pi = ([0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3]);
        let cases = [
            (13, [0, 0], [0, 0], [0x9d1c5ec6, 0x8bd50731]),
            (13, [!0, !0], [!0, !0], [0xfd36d048, 0x2d17272c]),
            (13, pi.0, pi.1, [0xba3e4725, 0xf27d669e]),
            (20, [0, 0], [0, 0], [0x6b200159, 0x99ba4efe]),
            (20, [!0, !0], [!0, !0], [0x1cb996fc, 0xbb002be7]),
            (20, pi.0, pi.1, [0xc4923a9c, 0x483df7a0]),
        ];
        for (rounds, key, counter, expected) in cases {
            assert_eq!(threefry_rounds(key, counter, rounds), expected, "{rounds} rounds");
        }
    }

    #[test]
    fn below_is_in_range_and_covers_it() {
        let mut stream = Stream::new(root(7));
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[stream.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (140..=260).contains(&n)), "{seen:?}");
    }
}
