//! Attention on GPUs: the kernels as data.

use crate::ops::immediates::{DropoutWords, RowWords, immediates};
use crate::ops::{Binding, Candidate, Count, Dispatch, Grid, Kernels, Limit, Requirements, bind};
use crate::tensor::{Dropout, Rows};

use super::cooperative::{self, Kernel};
use super::{Attention, AttentionGradient};

/// What one workgroup takes on: its rows (queries, or keys in the second kernel of backward), and the vectors of four
/// that its memory holds in a tiled kernel's last product.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub rows: usize,
    pub vectors: usize,
}

/// All kernels but the next.
pub(super) const QUERIES: Block = Block { rows: 64, vectors: 1024 };
/// The tiled gradient of keys and values: half the memory of a workgroup for each.
const KEYS: Block = Block { rows: 32, vectors: 384 };

#[derive(Clone, Copy)]
enum Strategy {
    Tiled,
    Registers,
}

immediates! {
    /// Of all kernels.
    struct Immediates {
        sequences: RowWords,
        max_length: u32,
        heads: u32,
        dropout: DropoutWords,
    }
}

/// The widest head that the kernels keep in registers.
const WIDEST_HEAD: usize = 128;

fn limits(head_size: usize) -> Vec<Limit> {
    vec![Limit {
        what: "columns of a head",
        value: head_size,
        most: WIDEST_HEAD,
        advice: "take more heads, or --device cpu",
    }]
}

/// What all kernels share.
pub(super) struct Launch {
    strategy: Strategy,
    head_size: usize,
    pub constants: Vec<(&'static str, u32)>,
    immediates: Immediates,
    sequences: Rows,
    max_length: usize,
    heads: usize,
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
        let constants =
            vec![("HEAD_SIZE", head_size as u32), ("VECTOR", u32::from(head_size.is_multiple_of(4)))];
        let immediates = Immediates {
            sequences: sequences.into(),
            max_length: max_length as u32,
            heads: heads as u32,
            dropout: dropout.into(),
        };
        Launch { strategy, head_size, constants, immediates, sequences, max_length, heads }
    }

    pub fn dispatch(&self, shader: &'static str, block: Block, bindings: Vec<Binding>) -> Dispatch {
        let mut constants = self.constants.clone();
        if let Strategy::Tiled = self.strategy {
            // Rows of the head staged at a time, each with its part of the tile: a power of two up to 32.
            let fit = (block.vectors / (block.rows / 4 + self.head_size.div_ceil(4))).clamp(1, 32);
            constants.push(("STAGED", 1 << fit.ilog2()));
        }
        let grid = Grid(vec![
            Count::Rows { rows: self.sequences, per: 1 },
            Count::Fixed(self.max_length.div_ceil(block.rows)),
            Count::Fixed(self.heads),
        ]);
        Dispatch { shader, constants, bindings, immediates: self.immediates.into(), grid }
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

impl Attention {
    fn launch(&self, strategy: Strategy) -> Launch {
        Launch::new(strategy, self.sequences, self.max_length, self.heads, self.head_size, self.dropout)
    }
}

impl AttentionGradient {
    fn launch(&self, strategy: Strategy) -> Launch {
        Launch::new(strategy, self.sequences, self.max_length, self.heads, self.head_size, self.dropout)
    }
}

/// A dispatch of a kernel on cooperative matrices, but for its own constants.
fn of_rows(launch: Launch) -> impl Fn(&'static str, Vec<Binding>, usize) -> Dispatch {
    move |shader, bindings, rows| launch.dispatch(shader, Block { rows, vectors: 0 }, bindings)
}

impl Kernels for Attention {
    fn candidates(&self) -> Vec<Candidate> {
        let bindings = bind([self.qkv, self.starts, self.context, self.log_sum_exp]);
        let kernels = [Kernel {
            shader: "attention_forward_cooperative",
            bindings: bindings.clone(),
            memory: cooperative::forward_memory,
        }];
        let launch = of_rows(self.launch(Strategy::Registers));
        let mut candidates = cooperative::candidates(self.head_size, &kernels, launch);
        candidates.extend(both(|strategy| {
            let shader = match strategy {
                Strategy::Tiled => "attention_forward_tiled",
                Strategy::Registers => "attention_forward_registers",
            };
            vec![self.launch(strategy).dispatch(shader, QUERIES, bindings.clone())]
        }));
        candidates
    }

    fn limits(&self) -> Vec<Limit> {
        limits(self.head_size)
    }
}

impl Kernels for AttentionGradient {
    fn candidates(&self) -> Vec<Candidate> {
        // The first kernel leaves delta for the second.
        let query_bindings = bind([
            self.qkv,
            self.starts,
            self.context,
            self.log_sum_exp,
            self.context_gradient,
            self.delta,
            self.qkv_gradient,
        ]);
        let mut key_value_bindings = bind([self.qkv, self.starts, self.log_sum_exp, self.context_gradient]);
        key_value_bindings.extend([Binding::ReadBack(self.delta), self.qkv_gradient.into()]);
        let kernels = [
            Kernel {
                shader: "attention_gradient_query_cooperative",
                bindings: query_bindings.clone(),
                memory: cooperative::query_memory,
            },
            Kernel {
                shader: "attention_gradient_key_value_cooperative",
                bindings: key_value_bindings.clone(),
                memory: cooperative::key_value_memory,
            },
        ];
        let launch = of_rows(self.launch(Strategy::Registers));
        let mut candidates = cooperative::candidates(self.head_size, &kernels, launch);
        candidates.extend(self.fused(self.launch(Strategy::Registers)));
        candidates.extend(both(|strategy| {
            let launch = self.launch(strategy);
            let (query, key_value, keys) = match strategy {
                Strategy::Tiled => {
                    ("attention_gradient_query_tiled", "attention_gradient_key_value_tiled", KEYS)
                }
                Strategy::Registers => {
                    ("attention_gradient_query_registers", "attention_gradient_key_value_registers", QUERIES)
                }
            };
            vec![
                launch.dispatch(query, QUERIES, query_bindings.clone()),
                launch.dispatch(key_value, keys, key_value_bindings.clone()),
            ]
        }));
        candidates
    }

    fn limits(&self) -> Vec<Limit> {
        limits(self.head_size)
    }
}
