// Attention backward, tiled, first kernel: the gradient of the queries, and delta [T, NH] = row sums of dO∘O for the
// second (attention_gradient_key_value_*). O is the context, dO its gradient; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dS = P∘(dropout(dO·vᵀ) − delta), dq = dS·k/√HEAD_SIZE.
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context [T, H], 4 log_sum_exp [T, NH], 5 context_gradient [T, H], 6 delta (written),
//   7 qkv_gradient [T, 3H] (the query's columns are written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: 64 queries (rows) × 64 keys (columns). Thread (x, y) of 16 × 16 holds rows 4y..4y+3 and, of a tile, columns
//   4x..4x+3 (one block of draws a row); of the output, vectors x, x+16 of its rows. 16 scores, 16 sums that join them
//   (then 16 of dO·vᵀ) and 16 of output fit the 64 registers with which the Radeon VII runs 4 waves, for heads up to 64.
//   q·kᵀ and dO·vᵀ run over the head in steps of 32 columns (16 for heads up to 16) through 16 KiB of workgroup memory;
//   then dS goes through it, STAGED columns at a time with as many rows of the keys: as many as fit, at most 32.
//   Operands lie with four rows a vector (keys, the last time, with four columns), so that two reads of 16 bytes at
//   constant offsets serve 16 multiply-adds.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, keys in order; P is 0 for keys beyond the end of the sequence. Scores are summed in blocks of BLOCK,
//   as in forward, the other products in chains. The sum of a row of dS is zero; what rounding leaves of it is taken
//   back: from dq times the first key (any would do), which is all that the part common to the keys adds and early in
//   training as large as dq itself; and from delta, for the second kernel.

#if VECTOR
@group(0) @binding(3) var<storage, read> context: array<V3>;
#else
@group(0) @binding(3) var<storage, read> context: array<T3>;
#endif
@group(0) @binding(4) var<storage, read> log_sum_exp: array<f32>;
#if VECTOR
@group(0) @binding(5) var<storage, read> context_gradient: array<V5>;
#else
@group(0) @binding(5) var<storage, read> context_gradient: array<T5>;
#endif
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
alias GradientVector = V7;
alias GradientNumber = T7;
#if VECTOR
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<V7>;
#else
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<T7>;
#endif

const ROWS: u32 = 64u;
const COLUMNS: u32 = 64u;
// Vectors of output columns a thread holds: 16 threads share a row.
const OUT: u32 = (D4 + 15u) / 16u;
// Columns of the head that go through workgroup memory at a time, in vectors of four; and the products that are summed
// before they join the score: exp passes on what sums round, and one chain over the head errs twice as much.
const STEP: u32 = select(4u, 8u, HEAD_SIZE > 16u);
const BLOCK: u32 = select(4u, 16u, HEAD_SIZE > 16u);

// Operands of the product in progress. Scores: 4·STEP columns of the head of 64 rows, then of the other 64, a vector
// holding four rows. Output: STAGED columns of the tile, a vector holding four rows, then as many rows of the head.
var<workgroup> stage: array<vec4<f32>, 1024>;

#include attention_operands
#include attention_context
#include attention_gradient_operands
#include attention_scores
#include attention_value_products
#include attention_outer

// A number of the stage.
fn stage_number(i: u32) -> f32 {
  return stage[i / 4u][i % 4u];
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let block = own_block(group, groups, ROWS);
  let head = block.head;
  let start = block.start;
  let length = block.length;
  let first_row = block.first;
  if first_row >= length { return; }
  let draws = sequence_key(immediates.site, block.sequence);
  // Of row local % 64 of the workgroup's, one register each here for four where every thread keeps its own rows': the
  // first quarter of the threads holds the logarithm, the second the sum of dO∘O; and each a quarter of the sum of dS.
  var known = 0.0;
  {
    let row = start + min(first_row + local % 64u, length - 1u);
    if local < 64u {
      known = log_sum_exp[row * immediates.heads + head];
    } else if local < 128u {
      let at = context_at(row, head);
      for (var c = 0u; c < D4; c++) {
        known += dot(load_context_gradient(at, c), load_context(at, c));
      }
    }
  }
  var rest = 0.0;
  var out: array<vec4<f32>, 4u * OUT>;
  for (var first_column = 0u; first_column < length; first_column += COLUMNS) {
    var s = scores(local, start, length, first_row, first_column, head);
    var g = value_products(local, start, length, first_row, first_column, head);
    let t = again(local, 4u * first_column);
    let thread = vec2<u32>(t % 16u, t / 16u);
    let own = first_row + 4u * thread.y;
    workgroupBarrier();
    if t < 128u { stage[t / 4u][t % 4u] = known; }
    workgroupBarrier();
    let key = first_column + 4u * thread.x;
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    for (var i = 0u; i < 4u; i++) {
      let shift = stage_number(4u * thread.y + i);
      s[i] = select(vec4<f32>(0.0), exp(s[i] * SCORE_SCALE - shift), exists) * SCORE_SCALE;
    }
    for (var i = 0u; i < 4u; i++) {
      if immediates.threshold != 0u {
        let row = (head << 16u) | (own + i);
        g[i] *= dropout_factors(draws, row, key / 4u, immediates.threshold, immediates.scale);
      }
      g[i] = s[i] * (g[i] - stage_number(64u + 4u * thread.y + i));
      stage[256u + thread.x * 16u + thread.y][i] = (g[i].x + g[i].y) + (g[i].z + g[i].w);
    }
    workgroupBarrier();
    for (var x = 0u; x < 4u; x++) {
      rest += stage_number(1024u + (4u * (t / 64u) + x) * 64u + t % 64u);
    }
    let tile = transpose(g);
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_column + part >= length { break; }
      workgroupBarrier();
      stage_tile(tile, thread, part, 0u, 16u);
      for (var t = local; t < STAGED * D4; t += 256u) {
        let column = min(first_column + part + t / D4, length - 1u);
        stage[STAGED * 16u + t] = load_qkv(qkv_at(start + column, 1u, head), t % D4);
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 8u) {
        for (var j = 0u; j < 8u; j++) {
          add_outer((k + j) * 16u + thread.y, STAGED * 16u + (k + j) * D4, thread.x, &out);
        }
      }
    }
  }
  workgroupBarrier();
  stage[local / 4u][local % 4u] = rest;
  workgroupBarrier();
  if local >= 64u && local < 128u && first_row + local - 64u < length {
    let r = local - 64u;
    let residue = (stage_number(r) + stage_number(64u + r)) + (stage_number(128u + r) + stage_number(192u + r));
    delta[(start + first_row + r) * immediates.heads + head] = known + residue / SCORE_SCALE;
  }
  let thread = vec2<u32>(local % 16u, local / 16u);
  let own = first_row + 4u * thread.y;
  let residue = (stage[thread.y] + stage[16u + thread.y]) + (stage[32u + thread.y] + stage[48u + thread.y]);
  for (var i = 0u; i < 4u; i++) {
    if own + i < length {
      for (var m = 0u; m < OUT; m++) {
        let c = thread.x + 16u * m;
        if c < D4 {
          let key = load_qkv(qkv_at(start, 1u, head), c);
          store_qkv_gradient(qkv_at(start + own + i, 0u, head), c, out[i * OUT + m] - residue[i] * key);
        }
      }
    }
  }
}
