// Attention backward in one pass, first of two kernels: the gradient of the queries, and what each part of the queries
// adds to the gradients of keys and values, which attention_gradient_fused_sum adds up; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dS = P∘(dropout(dO·vᵀ) − delta), dq = dS·k/√HEAD_SIZE,
//   dv = dropout(P)ᵀ·dO, dk = dSᵀ·q/√HEAD_SIZE: five products, where two kernels without partial sums compute seven.
// O is the context, dO its gradient; delta are the row sums of dO∘O, left in memory for the workgroup itself.
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context [T, H], 4 log_sum_exp [T, NH], 5 context_gradient [T, H], 6 delta [T, NH]
//   (written), 7 partials [T, parts, 2 (key, value), NH, D4] (written), 8 qkv_gradient [T, 3H] (the query's columns).
// Dispatch: one workgroup for each sequence, head and part, TILES tiles of queries, of max_length; parts beyond the end
//   of their sequence return at once, so work follows the real lengths.
// Tiles: 64 queries (rows) × 64 keys (columns), keys innermost. Thread (x, y) of 16 × 16 holds of scores rows 4y..4y+3
//   and columns 4x..4x+3 (one block of draws a row), of outputs vectors x, x+16 of rows (dq) or keys (dk, dv)
//   4y..4y+3. Scores, the probabilities that dv and dS need, and one output beside dq are never more than 48 numbers:
//   the 64 registers with which the Radeon VII runs 4 waves, for heads up to 64. That is why dq is what stays in
//   registers and dk and dv go through memory, 4 vectors each a thread and tile, and why P goes into dv before dO·vᵀ.
//   The sums of a part are read and written by one thread only, which starts the next tile of queries from them.
//   q·kᵀ and dO·vᵀ run over the head in steps of 32 columns (16 for heads up to 16) through 16 KiB of workgroup memory;
//   then P or dS goes through it, STAGED rows or columns at a time with as many rows of dO, q or k.
//   Two reads of 16 bytes at constant offsets serve 16 multiply-adds throughout.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors); TILES.
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4]. Dropped
//   probabilities are kept as negative numbers: dS needs their size. dS and delta are held divided by the scale.
// Numerics: f32; keys, or queries of a part, in order, parts after that; P is 0 for queries and keys beyond the end of
//   the sequence. Scores are summed in blocks of BLOCK, as in forward, the other products in chains. The sum of a row of
//   dS is zero but for rounding, so that dq is the same of keys less the first one (any would do): of what all keys
//   share that rounding would add as much as dq itself early in training.

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
@group(0) @binding(7) var<storage, read_write> partials: array<vec4<f32>>;
alias GradientVector = V8;
alias GradientNumber = T8;
#if VECTOR
@group(0) @binding(8) var<storage, read_write> qkv_gradient: array<V8>;
#else
@group(0) @binding(8) var<storage, read_write> qkv_gradient: array<T8>;
#endif

// Queries and keys of a tile, and queries of a workgroup.
const TILE: u32 = 64u;
const ROWS: u32 = TILE * TILES;
// Vectors of output columns a thread holds: 16 threads share a row.
const OUT: u32 = (D4 + 15u) / 16u;
// Columns of the head that go through workgroup memory at a time, in vectors of four; and the products that are summed
// before they join the score: exp passes on what sums round, and one chain over the head errs twice as much.
const STEP: u32 = select(4u, 8u, HEAD_SIZE > 16u);
const BLOCK: u32 = select(4u, 16u, HEAD_SIZE > 16u);
// Queries or keys that go through it at a time in the other products.
const STAGED: u32 = select(32u, 16u, D4 > 16u);
const UNROLL: u32 = 16u;
// What stage_head stages.
const QUERIES: u32 = 0u;
const KEYS: u32 = 1u;
const UPSTREAM: u32 = 2u;

var<workgroup> stage: array<vec4<f32>, 1024>;

#include attention_operands
#include attention_context
#include attention_gradient_operands
#include attention_scores
#include attention_value_products
#include attention_outer

// Where a workgroup is: sequence, head and part, and the first query and key of its tile.
struct Place {
  head: u32,
  start: u32,
  length: u32,
  part: u32,
  row: u32,
  key: u32,
}

// Where a thread's partial sums are: of its first key (the last of the sequence if that is beyond its end), how far from
// key to key, and the last key and vector that there are from there.
struct Own {
  at: u32,
  step: u32,
  last: u32,
  columns: u32,
}

fn own_partials(t: u32, value: bool, place: Place) -> Own {
  let parts = (immediates.max_length + ROWS - 1u) / ROWS;
  let key = min(place.key + t / 16u * 4u, place.length - 1u);
  let c = min(t % 16u, D4 - 1u);
  let row = ((place.start + key) * parts + place.part) * 2u + u32(value);
  return Own(
    (row * immediates.heads + place.head) * D4 + c, parts * 2u * immediates.heads * D4, place.length - 1u - key, D4 - 1u - c);
}

// STAGED rows of the head from `first` on (the last of the sequence for those beyond its end), behind a part of a tile.
fn stage_head(what: u32, t: u32, place: Place, first: u32) {
  for (var m = 0u; m < (STAGED * D4 + 255u) / 256u; m++) {
    let i = t + 256u * m;
    if STAGED * D4 % 256u != 0u && i >= STAGED * D4 { return; }
    let row = place.start + min(first + i / D4, place.length - 1u);
    // The same for all m where it can be.
    let c = select(i % D4, t % D4, 256u % D4 == 0u);
    var v: vec4<f32>;
    if what == UPSTREAM {
      v = load_context_gradient(context_at(row, place.head), c);
    } else {
      v = load_qkv(qkv_at(row, what, place.head), c);
      if what == KEYS { v -= load_qkv(qkv_at(place.start, KEYS, place.head), c); }
    }
    stage[16u * STAGED + i] = v;
  }
}

// Puts those of a thread's four rows of a tile that belong to STAGED from `first` on into the stage, times `factor`;
// negative ones as zeros if they are probabilities. Here, as numbers that are computed before stay in registers.
fn stage_rows(rows: mat4x4<f32>, probabilities: bool, factor: f32, thread: vec2<u32>, first: u32) {
  if 4u * thread.y / STAGED != first / STAGED { return; }
  let to = 4u * thread.y % STAGED * 16u + thread.x;
  for (var i = 0u; i < 4u; i++) {
    let row = select(rows[i], max(rows[i], vec4<f32>(0.0)), probabilities);
    stage[to + 16u * i] = row * factor;
  }
}

// The products of what is staged.
fn add_staged(thread: vec2<u32>, sums: ptr<function, array<vec4<f32>, 4u * OUT>>) {
  for (var k = 0u; k < STAGED; k += UNROLL) {
    for (var j = 0u; j < UNROLL; j++) {
      add_outer((k + j) * 16u + thread.y, STAGED * 16u + (k + j) * D4, thread.x, sums);
    }
  }
}

// Adds what the queries of a tile give to the gradient of its values (`value`) or keys; `rows` are P or dS of the thread.
fn add_to_partials(value: bool, rows: mat4x4<f32>, factor: f32, local: u32, place: Place, multiple: u32) {
  var sums: array<vec4<f32>, 4u * OUT>;
  if place.row != place.part * ROWS {
    let own = own_partials(again(local, multiple * place.key), value, place);
    for (var i = 0u; i < 4u; i++) {
      for (var m = 0u; m < OUT; m++) {
        sums[i * OUT + m] = partials[own.at + min(i, own.last) * own.step + min(16u * m, own.columns)];
      }
    }
  }
  for (var first = 0u; first < TILE; first += STAGED) {
    if place.row + first >= place.length { break; }
    let t = again(local, multiple * place.key + 256u * first);
    let thread = vec2<u32>(t % 16u, t / 16u);
    workgroupBarrier();
    stage_rows(rows, value, factor, thread, first);
    stage_head(select(QUERIES, UPSTREAM, value), t, place, place.row + first);
    workgroupBarrier();
    add_staged(thread, &sums);
  }
  let t = again(local, (multiple + 4u) * place.key);
  let own = own_partials(t, value, place);
  for (var i = 0u; i < 4u; i++) {
    if place.key + t / 16u * 4u + i < place.length {
      for (var m = 0u; m < OUT; m++) {
        if t % 16u + 16u * m < D4 { partials[own.at + i * own.step + 16u * m] = sums[i * OUT + m]; }
      }
    }
  }
}

// P of a thread's queries and keys from their scores; of probabilities that dropout takes the negative.
fn probabilities(scores: mat4x4<f32>, local: u32, place: Place, draws: vec2<u32>) -> mat4x4<f32> {
  var s = scores;
  let t = again(local, 4u * place.key);
  let key = place.key + 4u * (t % 16u);
  let query = place.row + 4u * (t / 16u);
  for (var i = 0u; i < 4u; i++) {
    let at = (place.start + min(query + i, place.length - 1u)) * immediates.heads + place.head;
    // No probability of queries beyond the end.
    let shift = select(-MASKED_SCORE, log_sum_exp[at], query + i < place.length);
    s[i] = exp(s[i] * SCORE_SCALE - shift);
  }
  if place.key + TILE > place.length {
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(place.length);
    for (var i = 0u; i < 4u; i++) { s[i] = select(vec4<f32>(0.0), s[i], exists); }
  }
  if immediates.threshold != 0u {
    for (var i = 0u; i < 4u; i++) {
      let row = (place.head << 16u) | (query + i);
      let bits = dropout_block(draws, row, key / 4u);
      s[i] = select(-s[i], s[i], bits >= vec4<u32>(immediates.threshold));
    }
  }
  return s;
}

// Row sums of dO∘O of a tile's queries over the scale of dropout, for this workgroup itself.
fn leave_delta(t: u32, place: Place) {
  let row = place.start + min(place.row + t / 4u, place.length - 1u);
  let at = context_at(row, place.head);
  var quarter = 0.0;
  for (var m = 0u; m < (D4 + 3u) / 4u; m++) {
    let c = t % 4u + 4u * m;
    if D4 % 4u == 0u || c < D4 { quarter += dot(load_context_gradient(at, c), load_context(at, c)); }
  }
  workgroupBarrier();
  stage[t / 4u][t % 4u] = quarter;
  workgroupBarrier();
  if t < 64u && place.row + t < place.length {
    let quarters = stage[t];
    delta[(place.start + place.row + t) * immediates.heads + place.head] =
      ((quarters.x + quarters.y) + (quarters.z + quarters.w)) / immediates.scale;
  }
  storageBarrier();
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let block = own_block(group, groups, ROWS);
  if block.first >= block.length { return; }
  let draws = sequence_key(immediates.site, block.sequence);
  var place = Place(block.head, block.start, block.length, block.first / ROWS, 0u, 0u);
  for (place.row = block.first; place.row < min(block.first + ROWS, block.length); place.row += TILE) {
    leave_delta(again(local, 4u * place.row), place);
    var out: array<vec4<f32>, 4u * OUT>;
    for (place.key = 0u; place.key < place.length; place.key += TILE) {
      let s = scores(local, place.start, place.length, place.row, place.key, place.head);
      let p = probabilities(s, local, place, draws);
      add_to_partials(true, p, immediates.scale, local, place, 8u);
      // dO·v, then dS over the scale of dropout.
      var g = value_products(local, place.start, place.length, place.row, place.key, place.head);
      {
        let query = place.row + again(local, 16u * place.key) / 16u * 4u;
        for (var i = 0u; i < 4u; i++) {
          let at = (place.start + min(query + i, place.length - 1u)) * immediates.heads + place.head;
          g[i] = max(p[i], vec4<f32>(0.0)) * g[i] - abs(p[i]) * delta[at];
        }
      }
      add_to_partials(false, g, SCORE_SCALE * immediates.scale, local, place, 20u);
      let tile = transpose(g);
      for (var first = 0u; first < TILE; first += STAGED) {
        if place.key + first >= place.length { break; }
        let t = again(local, 28u * place.key + 256u * first);
        let thread = vec2<u32>(t % 16u, t / 16u);
        workgroupBarrier();
        stage_tile(tile, thread, first, 0u, 16u);
        stage_head(KEYS, t, place, place.key + first);
        workgroupBarrier();
        add_staged(thread, &out);
      }
    }
    let t = again(local, 8u * place.row);
    let query = place.row + t / 16u * 4u;
    for (var i = 0u; i < 4u; i++) {
      if query + i < place.length {
        for (var m = 0u; m < OUT; m++) {
          let c = t % 16u + 16u * m;
          if c < D4 {
            let dq = out[i * OUT + m] * (SCORE_SCALE * immediates.scale);
            store_qkv_gradient(qkv_at(place.start + query + i, 0u, place.head), c, dq);
          }
        }
      }
    }
  }
}
