// Attention backward, tiled, second kernel: the gradients of keys and values; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dv = dropout(P)ᵀ·dO,
//   dS = P∘(dropout(dO·vᵀ) − delta), dk = dSᵀ·q/√HEAD_SIZE.
// dO is the gradient of the context; delta comes from the first kernel (attention_gradient_query_*).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 log_sum_exp [T, NH], 4 context_gradient [T, H], 5 delta [T, NH],
//   6 qkv_gradient [T, 3H] (the columns of key and value are written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: 64 keys (rows) × 32 queries (columns). Thread (x, y) of 8 × 16 holds rows 4y..4y+3 and, of a
//   tile, columns 4x..4x+3 (one block of draws a column); of the output, vectors x, x+8, … of its rows. The products run
//   over the head in steps of 16 through 6 KiB of workgroup memory; the tile goes through another 8 KiB to become
//   the left side of the next product: 14 KiB, whatever the head size. Each thread reads 2 numbers from workgroup
//   memory for 4 multiply-adds. STAGED: rows staged at a time for that product, so many as 6 KiB hold.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, queries in order; P is 0 for queries beyond the end of the sequence.

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  max_length: u32,
  heads: u32,
  threshold: u32,
  keep_scale: f32,
  site: u32,
}
var<immediate> immediates: Immediates;

#if VECTOR
@group(0) @binding(1) var<storage, read> qkv: array<V1>;
#else
@group(0) @binding(1) var<storage, read> qkv: array<T1>;
#endif
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>;
#if VECTOR
@group(0) @binding(4) var<storage, read> context_gradient: array<V4>;
#else
@group(0) @binding(4) var<storage, read> context_gradient: array<T4>;
#endif
@group(0) @binding(5) var<storage, read> delta: array<f32>;
#if VECTOR
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<V6>;
#else
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<T6>;
#endif

const ROWS: u32 = 64u;
const COLUMNS: u32 = 32u;
const SCORE_SCALE: f32 = inverseSqrt(f32(HEAD_SIZE));
// Columns of a head, in vectors of four.
const D4: u32 = (HEAD_SIZE + 3u) / 4u;
// Vectors of output columns a thread holds: 8 threads share a row.
const OUT: u32 = (D4 + 7u) / 8u;

// Operands of the product in progress: rows 0..63 of one, then rows 0..31 of the other, 4 vectors each; or the
// rows that a tile is multiplied with.
var<workgroup> stage: array<vec4<f32>, 384>;
// A tile of ROWS × COLUMNS numbers, as vectors of four rows.
var<workgroup> tile: array<vec4<f32>, 512>;

// Where vector c of a staged row lies: permuted so that threads that read rows 4 apart (and 8 of them at once on
// the side of 32) meet different banks.
fn row_slot(row: u32, c: u32) -> u32 {
  return row * 4u + (c ^ ((row >> 2u) & 3u));
}

fn column_slot(column: u32, c: u32) -> u32 {
  return 256u + (column ^ ((column >> 2u) & 1u)) * 4u + (c ^ ((column >> 3u) & 3u));
}

// The same for a thread's own rows 4y + i: x + 4i; and columns 4x + j: y + 4j where j is even, z + 4j where it is odd.
fn own_slots(thread: vec2<u32>, c: u32) -> vec3<u32> {
  let row = 16u * thread.y + (c ^ (thread.y & 3u));
  let column = 256u + 16u * thread.x + (c ^ ((thread.x >> 1u) & 3u));
  let swap = 4u * (thread.x & 1u);
  return vec3<u32>(row, column + swap, column - swap);
}

// Where the vector of rows 4·y..4·y+3 of a column of the tile lies.
fn tile_slot(column: u32, y: u32) -> u32 {
  return column * 16u + (y ^ ((column >> 2u) & 7u));
}

// Puts this thread's numbers into the tile, one vector a column. The caller sees to the barriers.
fn to_tile(thread: vec2<u32>, columns: mat4x4<f32>) {
  tile[tile_slot(4u * thread.x, thread.y)] = columns[0];
  tile[tile_slot(4u * thread.x + 1u, thread.y)] = columns[1];
  tile[tile_slot(4u * thread.x + 2u, thread.y)] = columns[2];
  tile[tile_slot(4u * thread.x + 3u, thread.y)] = columns[3];
}

// Sum over the 8 threads of a row group, in their order.
fn sum_over_row(thread: vec2<u32>, partial: vec4<f32>) -> vec4<f32> {
  workgroupBarrier();
  stage[thread.x * 16u + thread.y] = partial;
  workgroupBarrier();
  var total = stage[thread.y];
  for (var x = 1u; x < 8u; x++) {
    total += stage[x * 16u + thread.y];
  }
  return total;
}

// a·b for four b. Scores are summed in blocks of four, because exp passes their rounding on: one chain of multiply-adds
// over the head errs twice as much.
fn dots(a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(a, b0), dot(a, b1), dot(a, b2), dot(a, b3));
}

// sums + a·b for four b: as sums of vectors every multiplication is a multiply-add, as dot products a quarter is not.
fn add_products(sums: vec4<f32>, a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
  var s = sums;
  s += a.x * vec4<f32>(b0.x, b1.x, b2.x, b3.x);
  s += a.y * vec4<f32>(b0.y, b1.y, b2.y, b3.y);
  s += a.z * vec4<f32>(b0.z, b1.z, b2.z, b3.z);
  s += a.w * vec4<f32>(b0.w, b1.w, b2.w, b3.w);
  return s;
}

// Adds a row of the stage, from its first vector, times this thread's rows of a column of the tile. Four columns from a
// multiple of four on lie 16 vectors apart, so that one address serves them.
fn add_outer(slot: u32, first: u32, columns: array<u32, OUT>, sums: ptr<function, array<vec4<f32>, 4u * OUT>>) {
  let p = tile[slot];
  for (var m = 0u; m < OUT; m++) {
    let v = stage[columns[m] + first];
    (*sums)[m] += p.x * v;
    (*sums)[OUT + m] += p.y * v;
    (*sums)[2u * OUT + m] += p.z * v;
    (*sums)[3u * OUT + m] += p.w * v;
  }
}

#include attention_operands

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_context_gradient(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(context_gradient[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(context_gradient[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(context_gradient[begin + 1u]); }
  if count > 2u { v.z = f32(context_gradient[begin + 2u]); }
  if count > 3u { v.w = f32(context_gradient[begin + 3u]); }
  return v;
#endif
}

fn store_qkv_gradient(at: u32, c: u32, v: vec4<f32>) {
#if VECTOR
  qkv_gradient[at / 4u + c] = V6(v);
#else
  let to = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  qkv_gradient[to] = T6(v.x);
  if count > 1u { qkv_gradient[to + 1u] = T6(v.y); }
  if count > 2u { qkv_gradient[to + 2u] = T6(v.z); }
  if count > 3u { qkv_gradient[to + 3u] = T6(v.w); }
#endif
}

// k·q of keys first_row + 4y.. and queries first_column + 4x..: one row of the result a key.
fn scores(thread: vec2<u32>, start: u32, length: u32, first_row: u32, first_column: u32, head: u32) -> mat4x4<f32> {
  let local = thread.y * 8u + thread.x;
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += 4u) {
    workgroupBarrier();
    for (var t = local; t < 256u; t += 128u) {
      let row = first_row + t / 4u;
      let c = first + t % 4u;
      var v = vec4<f32>(0.0);
      if row < length && c < D4 { v = load_qkv(qkv_at(start + row, 1u, head), c); }
      stage[row_slot(t / 4u, t % 4u)] = v;
    }
    let column = first_column + local / 4u;
    let c = first + local % 4u;
    var v = vec4<f32>(0.0);
    if column < length && c < D4 { v = load_qkv(qkv_at(start + column, 0u, head), c); }
    stage[column_slot(local / 4u, local % 4u)] = v;
    workgroupBarrier();
    for (var k = 0u; k < min(4u, D4); k++) {
      let first = own_slots(thread, k);
      let b0 = stage[first.y];
      let b1 = stage[first.z + 4u];
      let b2 = stage[first.y + 8u];
      let b3 = stage[first.z + 12u];
      for (var i = 0u; i < 4u; i++) {
        s[i] += dots(stage[first.x + 4u * i], b0, b1, b2, b3);
      }
    }
  }
  return s;
}

// v·dO of the same.
fn value_products(thread: vec2<u32>, start: u32, length: u32, first_row: u32, first_column: u32, head: u32) -> mat4x4<f32> {
  let local = thread.y * 8u + thread.x;
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += 4u) {
    workgroupBarrier();
    for (var t = local; t < 256u; t += 128u) {
      let row = first_row + t / 4u;
      let c = first + t % 4u;
      var v = vec4<f32>(0.0);
      if row < length && c < D4 { v = load_qkv(qkv_at(start + row, 2u, head), c); }
      stage[row_slot(t / 4u, t % 4u)] = v;
    }
    let column = first_column + local / 4u;
    let c = first + local % 4u;
    var v = vec4<f32>(0.0);
    if column < length && c < D4 { v = load_context_gradient(context_at(start + column, head), c); }
    stage[column_slot(local / 4u, local % 4u)] = v;
    workgroupBarrier();
    for (var k = 0u; k < min(4u, D4); k++) {
      let first = own_slots(thread, k);
      let b0 = stage[first.y];
      let b1 = stage[first.z + 4u];
      let b2 = stage[first.y + 8u];
      let b3 = stage[first.z + 12u];
      for (var i = 0u; i < 4u; i++) {
        s[i] = add_products(s[i], stage[first.x + 4u * i], b0, b1, b2, b3);
      }
    }
  }
  return s;
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let blocks = (immediates.max_length + ROWS - 1u) / ROWS;
  let index = workgroup_index(group, groups);
  let sequence = index / (blocks * immediates.heads);
  if sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity) { return; }
  let head = index / blocks % immediates.heads;
  let start = starts[sequence];
  let length = starts[sequence + 1u] - start;
  let first_row = index % blocks * ROWS;
  if first_row >= length { return; }
  let thread = vec2<u32>(local % 8u, local / 8u);
  let own = first_row + 4u * thread.y;
  // The output's vectors that this thread holds; beyond the end of the head the last again, which is not written.
  var columns: array<u32, OUT>;
  for (var m = 0u; m < OUT; m++) {
    columns[m] = thread.x + 8u * m;
    if D4 % 8u != 0u { columns[m] = min(columns[m], D4 - 1u); }
  }
  let draws = sequence_key(immediates.site, sequence);
  var key_out: array<vec4<f32>, 4u * OUT>;
  var value_out: array<vec4<f32>, 4u * OUT>;
  for (var first_column = 0u; first_column < length; first_column += COLUMNS) {
    // One row a query: s becomes probabilities after dropout, g the gradients of the scores.
    var s = transpose(scores(thread, start, length, first_row, first_column, head));
    var g = transpose(value_products(thread, start, length, first_row, first_column, head));
    for (var j = 0u; j < 4u; j++) {
      let query = first_column + 4u * thread.x + j;
      if query < length {
        let at = (start + query) * immediates.heads + head;
        let probability = exp(s[j] * SCORE_SCALE - log_sum_exp[at]);
        var factor = vec4<f32>(1.0);
        if immediates.threshold != 0u {
          let row = (head << 16u) | query;
          factor = dropout_factors(draws, row, own / 4u, immediates.threshold, immediates.keep_scale);
        }
        s[j] = probability * factor;
        g[j] = probability * (g[j] * factor - delta[at]) * SCORE_SCALE;
      } else {
        s[j] = vec4<f32>(0.0);
        g[j] = vec4<f32>(0.0);
      }
    }
    // What was read from the tile last lies before several barriers.
    to_tile(thread, s);
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_column + part >= length { break; }
      workgroupBarrier();
      for (var t = local; t < STAGED * D4; t += 128u) {
        let column = first_column + part + t / D4;
        let c = t % D4;
        var v = vec4<f32>(0.0);
        if column < length { v = load_context_gradient(context_at(start + column, head), c); }
        stage[t] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 4u) {
        let p = tile_slot(part + k, thread.y);
        add_outer(p, k * D4, columns, &value_out);
        add_outer(p + 16u, k * D4 + D4, columns, &value_out);
        add_outer(p + 32u, k * D4 + 2u * D4, columns, &value_out);
        add_outer(p + 48u, k * D4 + 3u * D4, columns, &value_out);
      }
    }
    workgroupBarrier();
    to_tile(thread, g);
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_column + part >= length { break; }
      workgroupBarrier();
      for (var t = local; t < STAGED * D4; t += 128u) {
        let column = first_column + part + t / D4;
        let c = t % D4;
        var v = vec4<f32>(0.0);
        if column < length { v = load_qkv(qkv_at(start + column, 0u, head), c); }
        stage[t] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 4u) {
        let p = tile_slot(part + k, thread.y);
        add_outer(p, k * D4, columns, &key_out);
        add_outer(p + 16u, k * D4 + D4, columns, &key_out);
        add_outer(p + 32u, k * D4 + 2u * D4, columns, &key_out);
        add_outer(p + 48u, k * D4 + 3u * D4, columns, &key_out);
      }
    }
  }
  for (var i = 0u; i < 4u; i++) {
    if own + i < length {
      for (var m = 0u; m < OUT; m++) {
        let c = thread.x + 8u * m;
        if c < D4 {
          store_qkv_gradient(qkv_at(start + own + i, 1u, head), c, key_out[i * OUT + m]);
          store_qkv_gradient(qkv_at(start + own + i, 2u, head), c, value_out[i * OUT + m]);
        }
      }
    }
  }
}
