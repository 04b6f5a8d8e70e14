enable f16;
enable wgpu_cooperative_matrix;
// Matrix product on cooperative matrices (tensor cores): operands rounded to f16, products summed in f32. For plans in
// half precision, and dimensions that are multiples of 4.
//
//   FORM 0 (Nt): C[m,n]  = A[m,k] · B[n,k]ᵀ    m rows in use, k = inner
//   FORM 1 (Nn): C[m,n]  = A[m,k] · B[k,n]     m rows in use, k = inner
//   FORM 2 (Tn): C[m,n] += A[k,m]ᵀ · B[k,n]    k rows in use, m = inner
// EPILOGUE, SPLIT, BIAS_GRADIENT, bindings: as in matmul_tiled.wgsl.
//
// Dispatch: one workgroup of four subgroups, LANES lanes each, for each tile of C and each split.
// Tiles: C in BM × BN, a quarter of it a subgroup, in matrices of MATRIX × MATRIX (8 or 16: what the device has); k in
//   steps of BK. Operands lie in workgroup memory as they lie in memory, along k or across it, and are loaded as rows or
//   as columns: nothing is transposed. Rows are padded by 8 f16 against bank conflicts. The next step's elements
//   are fetched into registers while this one's are multiplied. Sums leave through workgroup memory, a matrix at a
//   time, so that the epilogue knows where it is.
// Numerics: f16 · f16 → f32, sums in the device's own order within a matrix, over k in steps.

#include matmul_vector_parts

#if MATRIX == 16
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
#else
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
#endif

const THREADS: u32 = 4u * LANES;
const K4: u32 = BK / 4u;
const M4: u32 = BM / 4u;
const N4: u32 = BN / 4u;
const PAD: u32 = 8u;
// Vectors that each thread fetches of a tile.
const A_LOADS: u32 = M4 * BK / THREADS;
const B_LOADS: u32 = N4 * BK / THREADS;
#if FORM == 2
const A_WIDTH: u32 = BM;
const A_HEIGHT: u32 = BK;
#else
const A_WIDTH: u32 = BK;
const A_HEIGHT: u32 = BM;
#endif
#if FORM == 0
const B_WIDTH: u32 = BK;
const B_HEIGHT: u32 = BN;
#else
const B_WIDTH: u32 = BN;
const B_HEIGHT: u32 = BK;
#endif
const A_STRIDE: u32 = A_WIDTH + PAD;
const B_STRIDE: u32 = B_WIDTH + PAD;
// Matrices of a subgroup's quarter, down and across, and elements of one.
const DOWN: u32 = BM / 2u / MATRIX;
const ACROSS: u32 = BN / 2u / MATRIX;
const ELEMENTS: u32 = MATRIX * MATRIX;

var<workgroup> a_tile: array<f16, A_HEIGHT * A_STRIDE>;
var<workgroup> b_tile: array<f16, B_HEIGHT * B_STRIDE>;
var<workgroup> results: array<f32, 4u * ELEMENTS>;

// Vector l of this thread of an operand's tile, zeros beyond the edges.
fn fetch_a(tile: Tile, thread: u32, l: u32, k_from: u32) -> vec4<f16> {
  let v = l * THREADS + thread;
#if FORM == 2
  let k = k_from + v / M4;
  let i = tile.row + v % M4 * 4u;
  let at = k * tile.m + i;
#else
  let i = tile.row + v / K4;
  let k = k_from + v % K4 * 4u;
  let at = i * tile.k + k;
#endif
  var result = vec4<f16>();
  if i < tile.m && k < tile.k_end {
    result = vec4<f16>(a[(immediates.first_a + at) / 4u]);
  }
  return result;
}

fn fetch_b(tile: Tile, thread: u32, l: u32, k_from: u32) -> vec4<f16> {
  let v = l * THREADS + thread;
#if FORM == 0
  let j = tile.column + v / K4;
  let k = k_from + v % K4 * 4u;
  let at = j * tile.k + k;
#else
  let k = k_from + v / N4;
  let j = tile.column + v % N4 * 4u;
  let at = k * immediates.n + j;
#endif
  var result = vec4<f16>();
  if j < immediates.n && k < tile.k_end {
    result = vec4<f16>(b[(immediates.first_b + at) / 4u]);
  }
  return result;
}

fn put_a(thread: u32, l: u32, x: vec4<f16>) {
  let v = l * THREADS + thread;
  let to = v / (A_WIDTH / 4u) * A_STRIDE + v % (A_WIDTH / 4u) * 4u;
  a_tile[to] = x.x;
  a_tile[to + 1u] = x.y;
  a_tile[to + 2u] = x.z;
  a_tile[to + 3u] = x.w;
}

fn put_b(thread: u32, l: u32, x: vec4<f16>) {
  let v = l * THREADS + thread;
  let to = v / (B_WIDTH / 4u) * B_STRIDE + v % (B_WIDTH / 4u) * 4u;
  b_tile[to] = x.x;
  b_tile[to + 1u] = x.y;
  b_tile[to + 2u] = x.z;
  b_tile[to + 3u] = x.w;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  // Without a tile it goes through all of it and writes nothing: cooperative operations must not lie behind a condition.
  let tile = tile_of(workgroup_index(group, groups));
  // This subgroup's quarter of the tile.
  let quarter_row = subgroup / 2u * (BM / 2u);
  let quarter_column = subgroup % 2u * (BN / 2u);

  var sums: array<MatrixC, DOWN * ACROSS>;
  for (var f = 0u; f < DOWN * ACROSS; f++) { sums[f] = MatrixC(); }
#if BIAS_GRADIENT
  var column_sums = array<f32, (BM + THREADS - 1u) / THREADS>();
#endif
  var a_next: array<vec4<f16>, A_LOADS>;
  var b_next: array<vec4<f16>, B_LOADS>;
  for (var l = 0u; l < A_LOADS; l++) { a_next[l] = fetch_a(tile, thread, l, tile.k_start); }
  for (var l = 0u; l < B_LOADS; l++) { b_next[l] = fetch_b(tile, thread, l, tile.k_start); }
  for (var k = tile.k_start; k < tile.k_end; k += BK) {
    workgroupBarrier();
    for (var l = 0u; l < A_LOADS; l++) { put_a(thread, l, a_next[l]); }
    for (var l = 0u; l < B_LOADS; l++) { put_b(thread, l, b_next[l]); }
    workgroupBarrier();
    for (var l = 0u; l < A_LOADS; l++) { a_next[l] = fetch_a(tile, thread, l, k + BK); }
    for (var l = 0u; l < B_LOADS; l++) { b_next[l] = fetch_b(tile, thread, l, k + BK); }
#if BIAS_GRADIENT
    if tile.column == 0u {
      for (var column = thread; column < BM; column += THREADS) {
        var sum = 0.0;
        for (var kk = 0u; kk < BK; kk++) { sum += f32(a_tile[kk * A_STRIDE + column]); }
        column_sums[column / THREADS] += sum;
      }
    }
#endif
    for (var kk = 0u; kk < BK; kk += MATRIX) {
      var left: array<MatrixA, DOWN>;
      for (var f = 0u; f < DOWN; f++) {
        let i = quarter_row + f * MATRIX;
#if FORM == 2
        left[f] = coopLoad<MatrixA>(&a_tile[kk * A_STRIDE + i], A_STRIDE);
#else
        left[f] = coopLoadT<MatrixA>(&a_tile[i * A_STRIDE + kk], A_STRIDE);
#endif
      }
      for (var e = 0u; e < ACROSS; e++) {
        let j = quarter_column + e * MATRIX;
#if FORM == 0
        let right = coopLoad<MatrixB>(&b_tile[j * B_STRIDE + kk], B_STRIDE);
#else
        let right = coopLoadT<MatrixB>(&b_tile[kk * B_STRIDE + j], B_STRIDE);
#endif
        for (var f = 0u; f < DOWN; f++) {
          sums[f * ACROSS + e] = coopMultiplyAdd(left[f], right, sums[f * ACROSS + e]);
        }
      }
    }
  }

  for (var f = 0u; f < DOWN * ACROSS; f++) {
    workgroupBarrier();
    coopStoreT(sums[f], &results[subgroup * ELEMENTS], MATRIX);
    workgroupBarrier();
    for (var v = lane; v < ELEMENTS / 4u; v += LANES) {
      let i = tile.row + quarter_row + f / ACROSS * MATRIX + v / (MATRIX / 4u);
      let j = tile.column + quarter_column + f % ACROSS * MATRIX + v % (MATRIX / 4u) * 4u;
      if i < tile.m && j < immediates.n {
        let at = subgroup * ELEMENTS + 4u * v;
        let product = vec4<f32>(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
        finish(tile.split, i, j / 4u, tile.m, product);
      }
    }
  }
#if BIAS_GRADIENT
  if tile.column == 0u {
    for (var column = thread; column < BM; column += THREADS) {
      let i = tile.row + column;
      if i < tile.m {
#if SPLIT
        let n = immediates.n;
        c[(tile.split * (tile.m * n + tile.m) + tile.m * n + i) / 4u][i % 4u] = T3(column_sums[column / THREADS]);
#else
        bias_gradient[i / 4u][i % 4u] += column_sums[column / THREADS];
#endif
      }
    }
  }
#endif
}
