//! Attention on GPUs: the kernels as data.

use crate::ops::{Candidate, Count, Dispatch, Grid, Kernels, Requirements, read, write};
use crate::tensor::{Dropout, Rows};

use super::{Attention, AttentionGradient};

/// Rows (queries, or keys in the second kernel of backward) of a workgroup, in every strategy.
const BLOCK: usize = 64;

/// Workgroup memory of a tiled kernel in its last product: the vectors of four that it holds, and those of them that the
/// tile of scores takes for each staged row.
#[derive(Clone, Copy)]
struct Stage {
    vectors: usize,
    tile: usize,
}

/// Forward and the gradient of queries: the tile shares the memory.
const SHARED: Stage = Stage { vectors: 1024, tile: 16 };
/// The gradient of keys and values: the tile has memory of its own.
const ROWS_ONLY: Stage = Stage { vectors: 384, tile: 0 };

#[derive(Clone, Copy)]
enum Strategy {
    Tiled,
    Registers,
}

/// What all kernels share.
struct Launch {
    strategy: Strategy,
    head_size: usize,
    constants: Vec<(&'static str, u32)>,
    immediates: Vec<u32>,
    grid: Grid,
}

impl Launch {
    fn new(
        strategy: Strategy,
        sequences: Rows,
        max_length: usize,
        heads: usize,
        head_size: usize,
        dropout: Dropout,
    ) -> Self {
        assert!(
            (1..=128).contains(&head_size),
            "attention: heads of {head_size} columns, 1 to 128 are supported"
        );
        let constants =
            vec![("HEAD_SIZE", head_size as u32), ("VECTOR", u32::from(head_size.is_multiple_of(4)))];
        // Immediates: the sequences (3 words), length and heads, dropout (3 words).
        let mut immediates = sequences.immediates().to_vec();
        immediates.extend([max_length as u32, heads as u32]);
        immediates.extend(dropout.immediates());
        let grid = Grid(vec![
            Count::Rows { rows: sequences, per: 1 },
            Count::Fixed(max_length.div_ceil(BLOCK)),
            Count::Fixed(heads),
        ]);
        Launch { strategy, head_size, constants, immediates, grid }
    }

    fn dispatch(&self, shader: &'static str, stage: Stage, bindings: Vec<crate::ops::Binding>) -> Dispatch {
        let mut constants = self.constants.clone();
        if let Strategy::Tiled = self.strategy {
            // Rows staged at a time, a power of two up to 32.
            let fit = (stage.vectors / (stage.tile + self.head_size.div_ceil(4))).min(32);
            constants.push(("STAGED", 1 << fit.ilog2()));
        }
        Dispatch { shader, constants, bindings, immediates: self.immediates.clone(), grid: self.grid.clone() }
    }
}

/// The tiled kernels first, where workgroup memory is memory of its own; the others are right everywhere.
fn both(make: impl Fn(Strategy) -> Vec<Dispatch>) -> Vec<Candidate> {
    let hardware = Requirements { hardware: true, ..Requirements::default() };
    vec![
        Candidate { strategy: "tiled", requires: hardware, dispatches: make(Strategy::Tiled) },
        Candidate {
            strategy: "registers",
            requires: Requirements::default(),
            dispatches: make(Strategy::Registers),
        },
    ]
}

impl Kernels for Attention {
    fn candidates(&self) -> Vec<Candidate> {
        both(|strategy| {
            let launch = Launch::new(
                strategy,
                self.sequences,
                self.max_length,
                self.heads,
                self.head_size,
                self.dropout,
            );
            let shader = match strategy {
                Strategy::Tiled => "attention_forward_tiled",
                Strategy::Registers => "attention_forward_registers",
            };
            let bindings =
                vec![read(self.qkv), read(self.starts), write(self.context), write(self.log_sum_exp)];
            vec![launch.dispatch(shader, SHARED, bindings)]
        })
    }
}

impl Kernels for AttentionGradient {
    fn candidates(&self) -> Vec<Candidate> {
        both(|strategy| {
            let launch = Launch::new(
                strategy,
                self.sequences,
                self.max_length,
                self.heads,
                self.head_size,
                self.dropout,
            );
            let [query, key_value] = match strategy {
                Strategy::Tiled => ["attention_gradient_query_tiled", "attention_gradient_key_value_tiled"],
                Strategy::Registers => {
                    ["attention_gradient_query_registers", "attention_gradient_key_value_registers"]
                }
            };
            // The first kernel leaves delta for the second.
            let query_bindings = vec![
                read(self.qkv),
                read(self.starts),
                read(self.context),
                read(self.log_sum_exp),
                read(self.context_gradient),
                write(self.delta),
                write(self.qkv_gradient),
            ];
            let key_value_bindings = vec![
                read(self.qkv),
                read(self.starts),
                read(self.log_sum_exp),
                read(self.context_gradient),
                read(self.delta),
                write(self.qkv_gradient),
            ];
            vec![
                launch.dispatch(query, SHARED, query_bindings),
                launch.dispatch(key_value, ROWS_ONLY, key_value_bindings),
            ]
        })
    }
}
