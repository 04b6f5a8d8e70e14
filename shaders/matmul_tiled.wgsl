// Matrix product by tiles in workgroup memory, with its epilogue.
//
//   FORM 0 (Nt): C[m,n]  = A[m,k] · B[n,k]ᵀ    m rows in use, k = inner
//   FORM 1 (Nn): C[m,n]  = A[m,k] · B[k,n]     m rows in use, k = inner
//   FORM 2 (Tn): C[m,n] += A[k,m]ᵀ · B[k,n]    k rows in use, m = inner
// EPILOGUE (forms 0 and 1): 0 none, 1 + bias[n], 2 before = + bias[n] and C = gelu(before),
//   3 · gelu′(before), and before = gelu(before), 4 + residual; `before` and `residual` are [m,n] from their first element.
// SPLIT: k is cut into `splits` parts; C is then the partial sums [splits, m·n] or, in form 2, [splits, m·n + m]: a
//   product and the column sums of A for each part (written, not added), which matmul_sum_splits (forms 0 and 1, with
//   the epilogue: EPILOGUE is 0 here) and sum_partials (form 2) add up.
// BIAS_GRADIENT (form 2): bias_gradient[m] += column sums of A, by the workgroups of the first column tile.
//
// Bindings: 1 A, 2 B, 3 C or the partial sums, 4 bias, before, residual or bias_gradient, 5 before (EPILOGUE 2).
// Dispatch: one workgroup of (BM/TM)·(BN/TN) threads for each tile of C and each split.
// Tiles: C in BM × BN (64 × 64: 256 threads of TM × TN = 4 × 4), k in steps of 16. Both operand tiles lie k-major in
//   workgroup memory as vec4, so that a thread's operands of one k are one 16-byte read each; a row is padded by
//   one vec4 to spread the transposing writes over the banks (8.5 KiB). The next step's elements are fetched into
//   registers while this one's are multiplied. Tiles are taken in groups of 8 rows, so that workgroups which run
//   together share their operands in the cache.
// Numerics: f32, one running sum over the k of a split, in order.

#include matmul_scalar_parts

const TX: u32 = BN / TN;
const TY: u32 = BM / TM;
const THREADS: u32 = TX * TY;
// vec4 rows of the tiles, with padding.
const A_STRIDE: u32 = BM / 4u + 1u;
const B_STRIDE: u32 = BN / 4u + 1u;
// vec4 that each thread fetches of a tile, and computes with.
const A_LOADS: u32 = BK * BM / 4u / THREADS;
const B_LOADS: u32 = BK * BN / 4u / THREADS;
const AV: u32 = TM / 4u;
const BV: u32 = TN / 4u;
const GROUP_ROWS: u32 = 8u;

var<workgroup> a_tile: array<vec4<f32>, BK * A_STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, BK * B_STRIDE>;

// Where vec4 number `load` of thread `thread` lies in a tile of `width` columns: (k, quad of columns).
// Adjacent threads take adjacent elements of memory.
#if FORM == 2
fn a_place(thread: u32, load: u32) -> vec2<u32> {
  let e = load * THREADS + thread;
  return vec2<u32>(e / (BM / 4u), e % (BM / 4u));
}
#else
fn a_place(thread: u32, load: u32) -> vec2<u32> {
  let e = load * THREADS + thread;
  return vec2<u32>(e % BK, e / BK);
}
#endif
#if FORM == 0
fn b_place(thread: u32, load: u32) -> vec2<u32> {
  let e = load * THREADS + thread;
  return vec2<u32>(e % BK, e / BK);
}
#else
fn b_place(thread: u32, load: u32) -> vec2<u32> {
  let e = load * THREADS + thread;
  return vec2<u32>(e / (BN / 4u), e % (BN / 4u));
}
#endif

// A of rows i..i+3 at k; 0 outside.
fn fetch_a(i: u32, k: u32, m: u32, k_end: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
  if k < k_end {
#if FORM == 2
    let at = immediates.first_a + k * m + i;
    if i < m { v.x = f32(a[at]); }
    if i + 1u < m { v.y = f32(a[at + 1u]); }
    if i + 2u < m { v.z = f32(a[at + 2u]); }
    if i + 3u < m { v.w = f32(a[at + 3u]); }
#else
    let inner = immediates.inner;
    let at = immediates.first_a + i * inner + k;
    if i < m { v.x = f32(a[at]); }
    if i + 1u < m { v.y = f32(a[at + inner]); }
    if i + 2u < m { v.z = f32(a[at + 2u * inner]); }
    if i + 3u < m { v.w = f32(a[at + 3u * inner]); }
#endif
  }
  return v;
}

// B of columns j..j+3 at k; 0 outside.
fn fetch_b(j: u32, k: u32, k_end: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
  let n = immediates.n;
  if k < k_end {
#if FORM == 0
    let inner = immediates.inner;
    let at = immediates.first_b + j * inner + k;
    if j < n { v.x = f32(b[at]); }
    if j + 1u < n { v.y = f32(b[at + inner]); }
    if j + 2u < n { v.z = f32(b[at + 2u * inner]); }
    if j + 3u < n { v.w = f32(b[at + 3u * inner]); }
#else
    let at = immediates.first_b + k * n + j;
    if j < n { v.x = f32(b[at]); }
    if j + 1u < n { v.y = f32(b[at + 1u]); }
    if j + 2u < n { v.z = f32(b[at + 2u]); }
    if j + 3u < n { v.w = f32(b[at + 3u]); }
#endif
  }
  return v;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let n = immediates.n;
#if FORM == 2
  let m = immediates.inner;
  let k = rows;
#else
  let m = rows;
  let k = immediates.inner;
#endif
  let row_tiles = (m + BM - 1u) / BM;
  let column_tiles = (n + BN - 1u) / BN;
  let index = workgroup_index(group, groups);
  if index >= row_tiles * column_tiles * immediates.splits {
    return;
  }
  let split = index / (row_tiles * column_tiles);
  let tile = index % (row_tiles * column_tiles);
  let first_tile = tile / (GROUP_ROWS * column_tiles) * GROUP_ROWS;
  let group_rows = min(row_tiles - first_tile, GROUP_ROWS);
  let row = (first_tile + tile % (GROUP_ROWS * column_tiles) % group_rows) * BM;
  let column_tile = tile % (GROUP_ROWS * column_tiles) / group_rows;
  let column = column_tile * BN;
  // The part of k that is this split's: whole steps, so that only the last one has a remainder.
  let part = ((k + immediates.splits - 1u) / immediates.splits + BK - 1u) / BK * BK;
  let k_start = min(split * part, k);
  let k_end = min(k_start + part, k);

  let tx = thread % TX;
  let ty = thread / TX;
  var sums: array<vec4<f32>, TM * BV>;
#if BIAS_GRADIENT
  var column_sums = vec4<f32>(0.0);
#endif
  var a_next: array<vec4<f32>, A_LOADS>;
  var b_next: array<vec4<f32>, B_LOADS>;
  for (var l = 0u; l < A_LOADS; l++) {
    let place = a_place(thread, l);
    a_next[l] = fetch_a(row + 4u * place.y, k_start + place.x, m, k_end);
  }
  for (var l = 0u; l < B_LOADS; l++) {
    let place = b_place(thread, l);
    b_next[l] = fetch_b(column + 4u * place.y, k_start + place.x, k_end);
  }
  for (var first = k_start; first < k_end; first += BK) {
    workgroupBarrier();
    for (var l = 0u; l < A_LOADS; l++) {
      let place = a_place(thread, l);
      a_tile[place.x * A_STRIDE + place.y] = a_next[l];
    }
    for (var l = 0u; l < B_LOADS; l++) {
      let place = b_place(thread, l);
      b_tile[place.x * B_STRIDE + place.y] = b_next[l];
    }
    workgroupBarrier();
    if first + BK < k_end {
      for (var l = 0u; l < A_LOADS; l++) {
        let place = a_place(thread, l);
        a_next[l] = fetch_a(row + 4u * place.y, first + BK + place.x, m, k_end);
      }
      for (var l = 0u; l < B_LOADS; l++) {
        let place = b_place(thread, l);
        b_next[l] = fetch_b(column + 4u * place.y, first + BK + place.x, k_end);
      }
    }
    for (var kk = 0u; kk < BK; kk++) {
      var bs: array<vec4<f32>, BV>;
      for (var q = 0u; q < BV; q++) {
        bs[q] = b_tile[kk * B_STRIDE + q * TX + tx];
      }
      for (var p = 0u; p < AV; p++) {
        let av = a_tile[kk * A_STRIDE + p * TY + ty];
        for (var q = 0u; q < BV; q++) {
          sums[(4u * p) * BV + q] += av.x * bs[q];
          sums[(4u * p + 1u) * BV + q] += av.y * bs[q];
          sums[(4u * p + 2u) * BV + q] += av.z * bs[q];
          sums[(4u * p + 3u) * BV + q] += av.w * bs[q];
        }
      }
    }
#if BIAS_GRADIENT
    if column_tile == 0u && thread < BM / 4u {
      for (var kk = 0u; kk < BK; kk++) {
        column_sums += a_tile[kk * A_STRIDE + thread];
      }
    }
#endif
  }

  for (var p = 0u; p < TM; p++) {
    let i = row + ((p / 4u) * TY + ty) * 4u + p % 4u;
    for (var q = 0u; q < BV; q++) {
      let j = column + (q * TX + tx) * 4u;
      let s = sums[p * BV + q];
      if i < m {
        if j < n { finish(split, i, j, m, s.x); }
        if j + 1u < n { finish(split, i, j + 1u, m, s.y); }
        if j + 2u < n { finish(split, i, j + 2u, m, s.z); }
        if j + 3u < n { finish(split, i, j + 3u, m, s.w); }
      }
    }
  }
#if BIAS_GRADIENT
  if column_tile == 0u && thread < BM / 4u {
    let i = row + 4u * thread;
    if i < m { finish_bias(split, i, m, column_sums.x); }
    if i + 1u < m { finish_bias(split, i + 1u, m, column_sums.y); }
    if i + 2u < m { finish_bias(split, i + 2u, m, column_sums.z); }
    if i + 3u < m { finish_bias(split, i + 3u, m, column_sums.w); }
  }
#endif
}
