//! Backward in one pass: five products where two kernels take seven, for partial sums of the gradients of keys and
//! values that a second kernel adds up, part by part.
//!
//! For plans in f32: delta is the row sum of dO∘O, whose error nobody takes back before dS goes into the gradient of the
//! keys. With a context rounded to f16 that error would be as large as the gradient early in training.

use crate::ops::{Binding, Candidate, Requirements, bind};
use crate::tensor::Rows;

use super::AttentionGradient;
use super::kernels::{Block, Launch, QUERIES};

/// Queries of a tile.
const TILE: usize = QUERIES.rows;
/// As many workgroups keep the units of a card busy, two for each of an H100's 132, four of a Radeon VII's 60.
const WORKGROUPS: usize = 256;
/// As many fill them better, which is worth a second part, but no more: each part is written and read, which on cards of
/// slower memory takes a twentieth of the products' time.
const MORE_WORKGROUPS: usize = 512;
/// Bytes of the partial sums at most: what every adapter binds.
const BYTES: usize = 128 << 20;

/// Parts of the queries of a sequence, and the tiles of each. Both follow from the capacities alone, so that sums have
/// the same order on every device.
struct Parts {
    count: usize,
    tiles: usize,
}

impl Parts {
    fn new(tokens: Rows, max_length: usize, heads: usize, head_size: usize) -> Self {
        let tiles = max_length.div_ceil(TILE).max(1);
        // Sequences of full length, which is what a full batch holds; shorter ones have fewer tiles and are more.
        let without = tokens.capacity.div_ceil(max_length.max(1)).max(1) * heads;
        let fit = BYTES / (tokens.capacity.max(1) * columns(heads, head_size) * size_of::<f32>());
        let wanted = WORKGROUPS.div_ceil(without).max(MORE_WORKGROUPS.div_ceil(without).min(2));
        let tiles_each = tiles.div_ceil(wanted.min(fit).clamp(1, tiles));
        Parts { count: tiles.div_ceil(tiles_each), tiles: tiles_each }
    }
}

/// Partial sums of a row and part: of keys and values, every head in whole vectors of four.
fn columns(heads: usize, head_size: usize) -> usize {
    2 * heads * head_size.next_multiple_of(4)
}

impl AttentionGradient {
    /// Columns of `partials` for these tokens, sequences of at most `max_length` and heads.
    pub fn partial_columns(tokens: Rows, max_length: usize, heads: usize, head_size: usize) -> usize {
        Parts::new(tokens, max_length, heads, head_size).count * columns(heads, head_size)
    }

    /// The candidate, where there are partial sums; `launch` as of kernels that choose themselves how much they stage.
    pub(super) fn fused(&self, mut launch: Launch) -> Option<Candidate> {
        let partials = self.partials?;
        let parts = Parts::new(self.tokens, self.max_length, self.heads, self.head_size);
        launch.constants.push(("TILES", parts.tiles as u32));
        let bindings = bind([
            self.qkv,
            self.starts,
            self.context,
            self.log_sum_exp,
            self.context_gradient,
            self.delta,
            partials,
            self.qkv_gradient,
        ]);
        let part = Block { rows: parts.tiles * TILE, ..QUERIES };
        let sum_bindings = vec![Binding::ReadBack(partials), self.starts.into(), self.qkv_gradient.into()];
        Some(Candidate {
            strategy: "fused",
            requires: Requirements { hardware: true, ..Requirements::default() },
            dispatches: vec![
                launch.dispatch("attention_gradient_fused", part, bindings),
                launch.dispatch("attention_gradient_fused_sum", QUERIES, sum_bindings),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Extent;

    #[test]
    fn parts_fill_a_card_and_fit_a_binding() {
        let parts = |tokens, max_length, heads, head_size| {
            let Parts { count, tiles } =
                Parts::new(Rows::of(Extent::Tokens, tokens), max_length, heads, head_size);
            (count, tiles)
        };
        // small: micro-batches of 16 and 64 at 512, 128 at 128; its generator.
        assert_eq!(parts(16 * 512, 512, 4, 64), (4, 2));
        assert_eq!(parts(64 * 512, 512, 4, 64), (2, 4));
        assert_eq!(parts(128 * 128, 128, 4, 64), (1, 2));
        assert_eq!(parts(64 * 512, 512, 1, 64), (4, 2));
        // base; in the second case two parts of 96 MiB are too many.
        assert_eq!(parts(16 * 512, 512, 12, 64), (2, 4));
        assert_eq!(parts(32 * 512, 512, 12, 64), (1, 8));
        // Tiles that do not divide, nothing at all, and more than a binding holds even in one part.
        assert_eq!(parts(20 * 640, 640, 4, 4), (4, 3));
        assert_eq!(parts(0, 0, 1, 1), (1, 1));
        assert_eq!(parts(1 << 18, 512, 16, 64), (1, 8));
    }
}
