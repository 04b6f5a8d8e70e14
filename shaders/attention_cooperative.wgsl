// What attention's kernels on cooperative matrices share (f16 · f16 → f32, MATRIX × MATRIX, four subgroups of LANES);
// after attention_operands. The kernel says how many vectors of four TILE, SCORES and WEIGHTS are.
//
// Constants: HEAD_SIZE = FRAGMENTS · MATRIX, at most 64: what a subgroup keeps in registers. SCALARS 1 where matrices can
//   only be loaded from numbers (Metal), 0 where from vectors of four. SUBGROUP_BARRIERS 1 where a subgroup waits for
//   itself alone, for memory that is its own.
// Matrices that live through a loop have names: arrays of them would be indexed at run time, and spill.
// Barriers of subgroups: naga 30 makes of subgroupBarrier() an OpControlBarrier of scope Subgroup, whose semantics name
//   SubgroupMemory, which Vulkan ignores, and not WorkgroupMemory. So the lanes wait for each other, but by the letter
//   nothing orders what they wrote. On an H100 it held, in all tests, and saved 5 %; `selftest` is what trusts it on a
//   device, and the strategies "cooperative workgroup …" do without. Metal's simdgroup_barrier(mem_threadgroup) orders it.

#include cooperative_matrices

const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
// What dS is multiplied by before it is rounded to halves. With 1/√HEAD_SIZE in it, lest it overflow before dO does, of
// which it is a sum over the head. Times RAISE, by which dq and dk are divided, as halves run out at the other end where
// the loss scale is low.
const RAISE: f32 = 4.0;
const GRADIENT_SCALE: f32 = SCORE_SCALE * RAISE;
const SUBGROUPS: u32 = 4u;
const THREADS: u32 = SUBGROUPS * LANES;
// Rows of a workgroup, MATRIX a subgroup.
const ROWS: u32 = SUBGROUPS * MATRIX;
// The other dimension of a tile of scores, and the rows of a stage.
const WIDTH: u32 = 32u;
// In vectors of four: a row of a matrix; of the head as staged (halves, padded by 16 bytes against bank conflicts) and as
// it leaves (numbers); and what each thread fetches of an operand's stage, the last time perhaps nothing.
const M4: u32 = MATRIX / 4u;
const STRIDE: u32 = D4 + 2u;
const OUT_STRIDE: u32 = D4 + 1u;
const STAGED: u32 = WIDTH * D4;
const LOADS: u32 = (STAGED + THREADS - 1u) / THREADS;

// Memory, in vectors; matrices are loaded from element UNIT·vector on.
#if SCALARS
alias Halves = f16;
alias Floats = f32;
const UNIT: u32 = 4u;
#else
alias Halves = vec4<f16>;
alias Floats = vec4<f32>;
const UNIT: u32 = 1u;
#endif
// The two operands of a stage; at first, perhaps, those of the workgroup's rows.
var<workgroup> first_tile: array<Halves, UNIT * TILE>;
var<workgroup> second_tile: array<Halves, UNIT * TILE>;
// Of each subgroup: scores, at last what leaves; and what is made of them.
var<workgroup> scores: array<Floats, UNIT * SCORES>;
var<workgroup> weights: array<Halves, UNIT * WEIGHTS>;

fn put_first(at: u32, x: vec4<f16>) {
#if SCALARS
  first_tile[4u * at] = x.x;
  first_tile[4u * at + 1u] = x.y;
  first_tile[4u * at + 2u] = x.z;
  first_tile[4u * at + 3u] = x.w;
#else
  first_tile[at] = x;
#endif
}

fn put_second(at: u32, x: vec4<f16>) {
#if SCALARS
  second_tile[4u * at] = x.x;
  second_tile[4u * at + 1u] = x.y;
  second_tile[4u * at + 2u] = x.z;
  second_tile[4u * at + 3u] = x.w;
#else
  second_tile[at] = x;
#endif
}

fn put_weight(at: u32, x: vec4<f16>) {
#if SCALARS
  weights[4u * at] = x.x;
  weights[4u * at + 1u] = x.y;
  weights[4u * at + 2u] = x.z;
  weights[4u * at + 3u] = x.w;
#else
  weights[at] = x;
#endif
}

fn score(at: u32) -> vec4<f32> {
#if SCALARS
  return vec4<f32>(scores[4u * at], scores[4u * at + 1u], scores[4u * at + 2u], scores[4u * at + 3u]);
#else
  return scores[at];
#endif
}

fn put_score(at: u32, x: vec4<f32>) {
#if SCALARS
  scores[4u * at] = x.x;
  scores[4u * at + 1u] = x.y;
  scores[4u * at + 2u] = x.z;
  scores[4u * at + 3u] = x.w;
#else
  scores[at] = x;
#endif
}

// Whether there is a vector v of an operand's stage.
fn is_staged(v: u32) -> bool {
  return STAGED % THREADS == 0u || v < STAGED;
}

// Where vector v of rows of the head lies in a tile.
fn staged_at(v: u32) -> u32 {
  return v / D4 * STRIDE + v % D4;
}

// Where a subgroup waits for what its own lanes write; all subgroups come equally often.
fn meet() {
#if SUBGROUP_BARRIERS
  subgroupBarrier();
#else
  workgroupBarrier();
#endif
}

// Four elements of which `kept` are.
fn keep(x: vec4<f32>, kept: vec4<bool>) -> vec4<f32> {
  return select(vec4<f32>(0.0), x, kept);
}

// The sum, and the maximum, over the WIDTH / 4 = 8 lanes of a row, in the same order for each.
fn row_sum(x: f32) -> f32 {
  var sum = x;
  sum += subgroupShuffleXor(sum, 1u);
  sum += subgroupShuffleXor(sum, 2u);
  sum += subgroupShuffleXor(sum, 4u);
  return sum;
}

fn row_maximum(x: f32) -> f32 {
  var top = x;
  top = max(top, subgroupShuffleXor(top, 1u));
  top = max(top, subgroupShuffleXor(top, 2u));
  top = max(top, subgroupShuffleXor(top, 4u));
  return top;
}
