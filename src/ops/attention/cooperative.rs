//! Attention on cooperative matrices: candidates for plans in half precision, and heads of whole matrices.

use crate::ops::{Binding, Candidate, Dispatch, Requirements};

/// Cooperative matrices, and how they are used.
struct Way {
    strategy: &'static str,
    /// Rows and columns of a matrix.
    matrix: usize,
    /// Of a subgroup.
    lanes: usize,
    /// Subgroups wait for themselves alone where only their own memory is concerned.
    subgroup_barriers: bool,
    /// Matrices are loaded from numbers, not from vectors of four, to which Metal has no such pointers.
    scalars: bool,
}

const fn way(
    strategy: &'static str,
    matrix: usize,
    lanes: usize,
    subgroup_barriers: bool,
    scalars: bool,
) -> Way {
    Way { strategy, matrix, lanes, subgroup_barriers, scalars }
}

/// NVIDIA's and RDNA's matrices have 16 rows, Apple's 8; so have lavapipe's, on whose 8 lanes all that the others use is
/// tested.
const WAYS: [Way; 8] = [
    way("cooperative 16/32", 16, 32, true, false),
    way("cooperative workgroup 16/32", 16, 32, false, false),
    way("cooperative 16/64", 16, 64, true, false),
    way("cooperative workgroup 16/64", 16, 64, false, false),
    way("cooperative 8/32", 8, 32, true, true),
    way("cooperative workgroup 8/32", 8, 32, false, true),
    way("cooperative 8/8", 8, 8, true, false),
    way("cooperative workgroup 8/8", 8, 8, false, true),
];

/// Subgroups of a workgroup, each with as many rows as a matrix has.
const SUBGROUPS: usize = 4;

/// Rows of a stage, and the other dimension of a tile of scores.
const WIDTH: usize = 32;

/// The widest head: its matrices fit the registers, and workgroup memory 48 KiB.
const WIDEST_HEAD: usize = 64;

/// A kernel: its shader, the tensors at its bindings, and its bytes of workgroup memory by size of a matrix and of the head.
pub(super) struct Kernel {
    pub shader: &'static str,
    pub bindings: Vec<Binding>,
    pub memory: fn(usize, usize) -> usize,
}

/// The candidates that suit the head. `dispatch` makes what all kernels of attention share: of a shader, its bindings, and
/// the rows that a workgroup takes.
pub(super) fn candidates(
    head_size: usize,
    kernels: &[Kernel],
    dispatch: impl Fn(&'static str, Vec<Binding>, usize) -> Dispatch,
) -> Vec<Candidate> {
    let suits = |way: &&Way| head_size.is_multiple_of(way.matrix) && head_size <= WIDEST_HEAD;
    let candidate = |way: &Way| {
        let launch = |kernel: &Kernel| {
            let mut dispatch = dispatch(kernel.shader, kernel.bindings.clone(), SUBGROUPS * way.matrix);
            dispatch.constants.extend([
                ("MATRIX", way.matrix as u32),
                ("LANES", way.lanes as u32),
                ("FRAGMENTS", (head_size / way.matrix) as u32),
                ("SUBGROUP_BARRIERS", u32::from(way.subgroup_barriers)),
                ("SCALARS", u32::from(way.scalars)),
            ]);
            dispatch
        };
        let memory = kernels.iter().map(|kernel| (kernel.memory)(way.matrix, head_size)).max();
        let requires = Requirements {
            workgroup_memory: memory.unwrap_or(0) as u32,
            subgroups: true,
            subgroup_barriers: way.subgroup_barriers,
            half: true,
            cooperative: Some((way.matrix as u32, way.lanes as u32)),
            hardware: true,
            ..Requirements::default()
        };
        let dispatches = kernels.iter().map(launch).collect();
        Candidate { strategy: way.strategy, requires, dispatches }
    };
    WAYS.iter().filter(suits).map(candidate).collect()
}

/// Bytes of as many rows of two operands: halves, padded by 8.
fn rows_of_two(rows: usize, head_size: usize) -> usize {
    2 * rows * (head_size + 8) * 2
}

/// Two stages; of each subgroup scores, or its output, in f32, and probabilities in halves; a factor for each row, and a
/// flag for each subgroup.
pub(super) fn forward_memory(matrix: usize, head_size: usize) -> usize {
    let row = 4 * (WIDTH + 8).max(head_size + 4) + 2 * (WIDTH + 8) + 4;
    rows_of_two(2 * WIDTH, head_size) + SUBGROUPS * (matrix * row + 4)
}

/// A stage, or q and dO; of each subgroup two tiles of scores, and dS; a sum for each row.
pub(super) fn query_memory(matrix: usize, head_size: usize) -> usize {
    let row = 2 * 4 * (WIDTH + 8) + 2 * (WIDTH + 8) + 4;
    rows_of_two(WIDTH.max(SUBGROUPS * matrix), head_size) + SUBGROUPS * matrix * row
}

/// A stage, and two numbers for each of its rows; of each subgroup two tiles of scores, P and dS.
pub(super) fn key_value_memory(matrix: usize, head_size: usize) -> usize {
    let row = 2 * 4 * (matrix + matrix / 2) + 2 * 2 * (matrix + 8);
    rows_of_two(WIDTH, head_size) + WIDTH * (8 + SUBGROUPS * row)
}
