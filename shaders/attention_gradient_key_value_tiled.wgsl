// Attention backward, tiled, second kernel: the gradients of keys and values; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dv = dropout(P)ᵀ·dO,
//   dS = P∘(dropout(dO·vᵀ) − delta), dk = dSᵀ·q/√HEAD_SIZE.
// dO is the gradient of the context; delta comes from the first kernel (attention_gradient_query_*).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 log_sum_exp [T, NH], 4 context_gradient [T, H], 5 delta [T, NH],
//   6 qkv_gradient [T, 3H] (the columns of key and value are written).
// Dispatch: one workgroup for each sequence, head and block of 32 keys (of max_length); blocks beyond the end of their
//   sequence return at once, so work follows the real lengths.
// Tiles: 32 keys × 64 queries. The first half of the 256 threads computes q·kᵀ, P and dv, the second dO·vᵀ, dS and dk:
//   thread (x, y) of 16 × 8 in its half holds keys 4y..4y+3 and, of a tile, queries 4x..4x+3; of its output, vectors
//   x, x+16 of its keys. So a thread has one output: with 16 numbers of a tile and 16 sums that join them it fits the 64
//   registers with which the Radeon VII runs 4 waves, for heads up to 64. The halves meet once a tile: P goes to the
//   second, what dropout keeps to the first, which would else draw alone while the other waits.
//   Products run over the head in steps of 16 columns; then P and dS go through the same 12 KiB, STAGED queries at a time
//   with as many rows of dO and q: as many as fit, at most 32. Two reads of 16 bytes serve 16 multiply-adds throughout.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, queries in order; P is 0 for queries beyond the end of the sequence. Scores are summed in blocks of
//   BLOCK, as in forward.

@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>;
#if VECTOR
@group(0) @binding(4) var<storage, read> context_gradient: array<V4>;
#else
@group(0) @binding(4) var<storage, read> context_gradient: array<T4>;
#endif
@group(0) @binding(5) var<storage, read> delta: array<f32>;
alias GradientVector = V6;
alias GradientNumber = T6;
#if VECTOR
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<V6>;
#else
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<T6>;
#endif

const ROWS: u32 = 32u;
const COLUMNS: u32 = 64u;
// Vectors of output columns a thread holds: 16 threads share a row.
const OUT: u32 = (D4 + 15u) / 16u;
// Columns of the head that go through workgroup memory at a time, in vectors of four; and the products that are summed
// before they join the score: exp passes on what sums round, and one chain over the head errs twice as much.
const STEP: u32 = 4u;
const BLOCK: u32 = select(4u, 16u, HEAD_SIZE > 16u);
// Vectors of workgroup memory of a half.
const HALF: u32 = 384u;

// Operands of the product in progress, the first half's, then the second's. Of a tile: 4·STEP columns of the head of 32
// keys, then of 64 queries, a vector holding four rows. Of the output: STAGED queries of the tile, a vector holding four
// keys, then as many rows of the head. In between P, four vectors a thread, and a number for each thread.
var<workgroup> stage: array<vec4<f32>, 768>;

#include attention_operands
#include attention_outer
#include attention_gradient_operands

// Four rows from `first` on (the last of the sequence for those beyond its end) of vector c of the head, one row a
// vector: of keys (key true) or queries in the first half, of values or dO in the second.
fn fetch(half: u32, key: bool, start: u32, length: u32, first: u32, head: u32, c: u32) -> mat4x4<f32> {
  var block = mat4x4<f32>();
  if D4 % STEP != 0u && c >= D4 { return block; }
  let row = vec4<u32>(start) + min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(length - 1u));
  if half == 1u && !key {
    block[0] = load_context_gradient(context_at(row.x, head), c);
    block[1] = load_context_gradient(context_at(row.y, head), c);
    block[2] = load_context_gradient(context_at(row.z, head), c);
    block[3] = load_context_gradient(context_at(row.w, head), c);
  } else {
    let part = select(0u, 1u + half, key);
    block[0] = load_qkv(qkv_at(row.x, part, head), c);
    block[1] = load_qkv(qkv_at(row.y, part, head), c);
    block[2] = load_qkv(qkv_at(row.z, part, head), c);
    block[3] = load_qkv(qkv_at(row.w, part, head), c);
  }
  return block;
}

// q·k in the first half, dO·v in the second, of four queries and four keys: a vector of keys for each query.
fn tile_products(local: u32, start: u32, length: u32, first_key: u32, first_query: u32, head: u32) -> mat4x4<f32> {
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += STEP) {
    let t = again(local, 64u * first);
    let half = t / 128u;
    let own = t % 128u;
    // 64 threads of a half stage queries, 32 keys, a block of 4 × 4 each.
    let key = own >= 64u;
    let row = select(first_query + 4u * (own % 16u), first_key + 4u * (own % 8u), key);
    let c = select(own / 16u, own / 8u % 4u, key);
    var block = mat4x4<f32>();
    if own < 96u { block = transpose(fetch(half, key, start, length, row, head, first + c)); }
    workgroupBarrier();
    if own < 96u {
      let to = half * HALF + select(128u + 64u * c + own % 16u, 32u * c + own % 8u, key);
      let next = select(16u, 8u, key);
      stage[to] = block[0];
      stage[to + next] = block[1];
      stage[to + 2u * next] = block[2];
      stage[to + 3u * next] = block[3];
    }
    workgroupBarrier();
    let keys = half * HALF + own / 16u;
    let queries = half * HALF + 128u + own % 16u;
    for (var begin = 0u; begin < 4u * STEP; begin += BLOCK) {
      let sums = chains(queries + begin * 16u, 16u, keys + begin * 8u, 8u);
      s = mat4x4<f32>(s[0] + sums[0], s[1] + sums[1], s[2] + sums[2], s[3] + sums[3]);
    }
  }
  return s;
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
  let first_key = block.first;
  if first_key >= length { return; }
  let draws = sequence_key(immediates.site, block.sequence);
  var out: array<vec4<f32>, 4u * OUT>;
  for (var first_query = 0u; first_query < length; first_query += COLUMNS) {
    // The scores, then P after dropout in the first half; dO·v, then dS in the second.
    var s = tile_products(local, start, length, first_key, first_query, head);
    let t = again(local, 4u * first_query);
    let half = t / 128u;
    let own = t % 128u;
    let thread = vec2<u32>(own % 16u, own / 16u);
    let query = first_query + 4u * thread.x;
    workgroupBarrier();
    if half == 0u {
      for (var j = 0u; j < 4u; j++) {
        let at = (start + min(query + j, length - 1u)) * immediates.heads + head;
        s[j] = select(vec4<f32>(0.0), exp(s[j] * SCORE_SCALE - log_sum_exp[at]), query + j < length);
        stage[128u * j + own] = s[j];
      }
    } else {
      var kept = 0u;
      for (var j = 0u; j < 4u; j++) {
        let at = (start + min(query + j, length - 1u)) * immediates.heads + head;
        if immediates.threshold != 0u {
          let row = (head << 16u) | (query + j);
          let factor = dropout_factors(
            draws, row, first_key / 4u + thread.y, immediates.threshold, immediates.scale);
          let bits = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), factor > vec4<f32>(0.0));
          kept |= (bits.x | bits.y | bits.z | bits.w) << (4u * j);
          s[j] *= factor;
        }
        s[j] = (s[j] - delta[at]) * SCORE_SCALE;
      }
      // As a number: as bits it would be a subnormal one, and those may become zero.
      stage[512u + own / 4u][own % 4u] = f32(kept);
    }
    workgroupBarrier();
    if half == 1u {
      for (var j = 0u; j < 4u; j++) { s[j] *= stage[128u * j + own]; }
    } else if immediates.threshold != 0u {
      let kept = vec4<u32>(u32(stage[512u + own / 4u][own % 4u]));
      for (var j = 0u; j < 4u; j++) {
        let bits = kept & (vec4<u32>(1u, 2u, 4u, 8u) << vec4<u32>(4u * j));
        s[j] *= select(vec4<f32>(0.0), vec4<f32>(immediates.scale), bits != vec4<u32>(0u));
      }
    }
    let tile = half * HALF;
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_query + part >= length { break; }
      workgroupBarrier();
      stage_tile(s, thread, part, tile, 8u);
      for (var i = own; i < STAGED * D4; i += 128u) {
        let row = start + min(first_query + part + i / D4, length - 1u);
        var v: vec4<f32>;
        if half == 0u {
          v = load_context_gradient(context_at(row, head), i % D4);
        } else {
          v = load_qkv(qkv_at(row, 0u, head), i % D4);
        }
        stage[tile + STAGED * 8u + i] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 8u) {
        for (var j = 0u; j < 8u; j++) {
          add_outer(tile + (k + j) * 8u + thread.y, tile + STAGED * 8u + (k + j) * D4, thread.x, &out);
        }
      }
    }
  }
  let half = local / 128u;
  let x = local % 16u;
  let key = first_key + local % 128u / 16u * 4u;
  for (var i = 0u; i < 4u; i++) {
    if key + i < length {
      for (var m = 0u; m < OUT; m++) {
        let c = x + 16u * m;
        if c < D4 { store_qkv_gradient(qkv_at(start + key + i, 2u - half, head), c, out[i * OUT + m]); }
      }
    }
  }
}
