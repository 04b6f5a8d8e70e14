// Attention backward, tiled, first kernel: the gradient of the queries, and delta [T, NH] = row sums of dO∘O for the
// second (attention_gradient_key_value_*). O is the context, dO its gradient; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dS = P∘(dropout(dO·vᵀ) − delta), dq = dS·k/√HEAD_SIZE.
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context [T, H], 4 log_sum_exp [T, NH], 5 context_gradient [T, H], 6 delta (written),
//   7 qkv_gradient [T, 3H] (the query's columns are written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: 64 queries (rows) × 32 keys (columns). Thread (x, y) of 8 × 16 holds rows 4y..4y+3 and, of a
//   tile, columns 4x..4x+3 (one block of draws a row); of the output, vectors x, x+8, … of its rows. The products run
//   over the head in steps of 16 through 6 KiB of workgroup memory; the tile goes through another 8 KiB to become
//   the left side of the next product: 14 KiB, whatever the head size. Each thread reads 2 numbers from workgroup
//   memory for 4 multiply-adds. STAGED: rows staged at a time for that product, so many as 6 KiB hold.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, keys in order; P is 0 for keys beyond the end of the sequence. The sum of a row of dS is zero; what
//   rounding leaves of it is taken back: from dq times the first key (any would do), which is all that the part
//   common to the keys adds and early in training as large as dq itself; and from delta, for the second kernel.

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
#if VECTOR
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<V7>;
#else
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<T7>;
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

// First element of a head's part (0 query, 1 key, 2 value) in a row.
fn qkv_at(row: u32, part: u32, head: u32) -> u32 {
  return ((row * 3u + part) * immediates.heads + head) * HEAD_SIZE;
}

// The same in a matrix [T, H].
fn context_at(row: u32, head: u32) -> u32 {
  return (row * immediates.heads + head) * HEAD_SIZE;
}

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_qkv(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(qkv[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(qkv[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(qkv[begin + 1u]); }
  if count > 2u { v.z = f32(qkv[begin + 2u]); }
  if count > 3u { v.w = f32(qkv[begin + 3u]); }
  return v;
#endif
}

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_context(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(context[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(context[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(context[begin + 1u]); }
  if count > 2u { v.z = f32(context[begin + 2u]); }
  if count > 3u { v.w = f32(context[begin + 3u]); }
  return v;
#endif
}

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
  qkv_gradient[at / 4u + c] = V7(v);
#else
  let to = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  qkv_gradient[to] = T7(v.x);
  if count > 1u { qkv_gradient[to + 1u] = T7(v.y); }
  if count > 2u { qkv_gradient[to + 2u] = T7(v.z); }
  if count > 3u { qkv_gradient[to + 3u] = T7(v.w); }
#endif
}

// q·k of queries first_row + 4y.. and keys first_column + 4x..: one row of the result a query.
fn scores(thread: vec2<u32>, start: u32, length: u32, first_row: u32, first_column: u32, head: u32) -> mat4x4<f32> {
  let local = thread.y * 8u + thread.x;
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += 4u) {
    workgroupBarrier();
    for (var t = local; t < 256u; t += 128u) {
      let row = first_row + t / 4u;
      let c = first + t % 4u;
      var v = vec4<f32>(0.0);
      if row < length && c < D4 { v = load_qkv(qkv_at(start + row, 0u, head), c); }
      stage[row_slot(t / 4u, t % 4u)] = v;
    }
    let column = first_column + local / 4u;
    let c = first + local % 4u;
    var v = vec4<f32>(0.0);
    if column < length && c < D4 { v = load_qkv(qkv_at(start + column, 1u, head), c); }
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

// dO·v of the same.
fn value_products(thread: vec2<u32>, start: u32, length: u32, first_row: u32, first_column: u32, head: u32) -> mat4x4<f32> {
  let local = thread.y * 8u + thread.x;
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += 4u) {
    workgroupBarrier();
    for (var t = local; t < 256u; t += 128u) {
      let row = first_row + t / 4u;
      let c = first + t % 4u;
      var v = vec4<f32>(0.0);
      if row < length && c < D4 { v = load_context_gradient(context_at(start + row, head), c); }
      stage[row_slot(t / 4u, t % 4u)] = v;
    }
    let column = first_column + local / 4u;
    let c = first + local % 4u;
    var v = vec4<f32>(0.0);
    if column < length && c < D4 { v = load_qkv(qkv_at(start + column, 2u, head), c); }
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
  var partial = vec4<f32>(0.0);
  var shift = vec4<f32>(0.0);
  for (var i = 0u; i < 4u; i++) {
    if own + i < length {
      let row = start + own + i;
      let at = context_at(row, head);
      for (var c = thread.x; c < D4; c += 8u) {
        partial[i] += dot(load_context_gradient(at, c), load_context(at, c));
      }
      shift[i] = log_sum_exp[row * immediates.heads + head];
    }
  }
  let mean = sum_over_row(thread, partial);
  var rest = vec4<f32>(0.0);
  var out: array<vec4<f32>, 4u * OUT>;
  for (var first_column = 0u; first_column < length; first_column += COLUMNS) {
    let s = scores(thread, start, length, first_row, first_column, head);
    var g = value_products(thread, start, length, first_row, first_column, head);
    let key = first_column + 4u * thread.x;
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    for (var i = 0u; i < 4u; i++) {
      if immediates.threshold != 0u {
        let row = (head << 16u) | (own + i);
        g[i] *= dropout_factors(draws, row, key / 4u, immediates.threshold, immediates.keep_scale);
      }
      let probability = select(vec4<f32>(0.0), exp(s[i] * SCORE_SCALE - shift[i]), exists);
      g[i] = probability * (g[i] - mean[i]) * SCORE_SCALE;
      rest[i] += g[i].x + g[i].y + g[i].z + g[i].w;
    }
    // What was read from the tile last lies before several barriers.
    to_tile(thread, transpose(g));
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_column + part >= length { break; }
      workgroupBarrier();
      for (var t = local; t < STAGED * D4; t += 128u) {
        let column = first_column + part + t / D4;
        let c = t % D4;
        var v = vec4<f32>(0.0);
        if column < length { v = load_qkv(qkv_at(start + column, 1u, head), c); }
        stage[t] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 4u) {
        let p = tile_slot(part + k, thread.y);
        add_outer(p, k * D4, columns, &out);
        add_outer(p + 16u, k * D4 + D4, columns, &out);
        add_outer(p + 32u, k * D4 + 2u * D4, columns, &out);
        add_outer(p + 48u, k * D4 + 3u * D4, columns, &out);
      }
    }
  }
  let residue = sum_over_row(thread, rest);
  for (var i = 0u; i < 4u; i++) {
    if own + i < length {
      if thread.x == 0u {
        delta[(start + own + i) * immediates.heads + head] = mean[i] + residue[i] / SCORE_SCALE;
      }
      for (var m = 0u; m < OUT; m++) {
        let c = thread.x + 8u * m;
        if c < D4 {
          let key = load_qkv(qkv_at(start, 1u, head), c);
          store_qkv_gradient(qkv_at(start + own + i, 0u, head), c, out[i * OUT + m] - residue[i] * key);
        }
      }
    }
  }
}
