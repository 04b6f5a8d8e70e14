// Matrix product on cooperative matrices (tensor cores): operands rounded to f16, products summed in f32. For plans in
// half precision, and dimensions that are multiples of 4.
//
//   FORM 0 (Nt): C[m,n]  = A[m,k] · B[n,k]ᵀ    m rows in use, k = inner
//   FORM 1 (Nn): C[m,n]  = A[m,k] · B[k,n]     m rows in use, k = inner
//   FORM 2 (Tn): C[m,n] += A[k,m]ᵀ · B[k,n]    k rows in use, m = inner
// EPILOGUE, SPLIT, BIAS_GRADIENT, bindings: as in matmul_tiled.wgsl.
//
// Dispatch: one workgroup of SUBGROUPS_DOWN × SUBGROUPS_ACROSS subgroups, LANES lanes each, for each tile of C and each
//   split.
// Tiles: DOWN × ACROSS matrices of MATRIX × MATRIX (8 or 16: what the device has) a subgroup, BM × BN a workgroup, k in
//   steps of BK = KSTEPS · MATRIX. src/ops/matmul/cooperative.rs chooses them by the shape of the product.
//   - Every matrix has a variable of its own, made by #for: arrays of matrices lie in memory (25 TFLOP/s on an H100,
//     with names 97).
//   - Operands lie in workgroup memory as they lie in memory, along k or across it, and are loaded as rows or as columns:
//     nothing is transposed. A row is padded by 8 f16 against bank conflicts.
//   - The next step's elements are fetched into registers while this one's are multiplied, as they are in memory; what
//     lies beyond the edges is read from the last row or column, and beyond k put as zeros.
//   - Sums leave through workgroup memory, a matrix of each subgroup at a time, so that the epilogue knows where it is;
//     what it needs beside them is read before the first one leaves: between two barriers each read would wait for
//     memory. Partial sums of whole tiles, which nothing follows, go to memory as matrices.
//   - SCALAR: what matrices are loaded from and stored to is declared as scalars, as Metal wants it. SPIR-V takes vectors,
//     which are written at once.
// Numerics: f16 · f16 → f32, sums in the device's own order within a matrix, over k in steps. Bias gradients: each thread
//   sums in f32 what it fetches of A, its rows in order; the threads of a column are added in order.

#include matmul_vector_parts

#include cooperative_matrices

const SUBGROUPS: u32 = SUBGROUPS_DOWN * SUBGROUPS_ACROSS;
const THREADS: u32 = SUBGROUPS * LANES;
// Tiles are arrays of vectors of four, and so is everything that is counted in them: widths, strides, sizes.
const MATRIX4: u32 = MATRIX / 4u;
const K4: u32 = BK / 4u;
const PAD: u32 = 2u;
#if FORM == 2
const A_WIDTH: u32 = BM / 4u;
const A_HEIGHT: u32 = BK;
#else
const A_WIDTH: u32 = K4;
const A_HEIGHT: u32 = BM;
#endif
#if FORM == 0
const B_WIDTH: u32 = K4;
const B_HEIGHT: u32 = BN;
#else
const B_WIDTH: u32 = BN / 4u;
const B_HEIGHT: u32 = BK;
#endif
const A_STRIDE: u32 = A_WIDTH + PAD;
const B_STRIDE: u32 = B_WIDTH + PAD;
// Rows of a tile from one fetch of a thread to its next.
const A_ROWS: u32 = THREADS / A_WIDTH;
const B_ROWS: u32 = THREADS / B_WIDTH;
// One matrix of results.
const VECTORS: u32 = MATRIX * MATRIX4;

#if SCALAR
alias Half = f16;
alias Single = f32;
const UNIT: u32 = 4u;
#else
alias Half = vec4<f16>;
alias Single = vec4<f32>;
const UNIT: u32 = 1u;
#endif
var<workgroup> a_tile: array<Half, A_HEIGHT * A_STRIDE * UNIT>;
var<workgroup> b_tile: array<Half, B_HEIGHT * B_STRIDE * UNIT>;
var<workgroup> results: array<Single, max(SUBGROUPS * VECTORS, THREADS) * UNIT>;

fn put_a(at: u32, x: vec4<f16>) {
#if SCALAR
  a_tile[4u * at] = x.x;
  a_tile[4u * at + 1u] = x.y;
  a_tile[4u * at + 2u] = x.z;
  a_tile[4u * at + 3u] = x.w;
#else
  a_tile[at] = x;
#endif
}

fn put_b(at: u32, x: vec4<f16>) {
#if SCALAR
  b_tile[4u * at] = x.x;
  b_tile[4u * at + 1u] = x.y;
  b_tile[4u * at + 2u] = x.z;
  b_tile[4u * at + 3u] = x.w;
#else
  b_tile[at] = x;
#endif
}

fn put_result(at: u32, x: vec4<f32>) {
#if SCALAR
  results[4u * at] = x.x;
  results[4u * at + 1u] = x.y;
  results[4u * at + 2u] = x.z;
  results[4u * at + 3u] = x.w;
#else
  results[at] = x;
#endif
}

fn result(at: u32) -> vec4<f32> {
#if SCALAR
  return vec4<f32>(results[4u * at], results[4u * at + 1u], results[4u * at + 2u], results[4u * at + 3u]);
#else
  return results[at];
#endif
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
  let m = tile.m;
  let last_row = max(m, 1u) - 1u;
  let n4 = immediates.n / 4u;
  // This subgroup's part of the tile.
  let sub_row = subgroup / SUBGROUPS_ACROSS * (DOWN * MATRIX);
  let sub_column = subgroup % SUBGROUPS_ACROSS * (ACROSS * MATRIX);

  // This thread's first vector of each operand's tile (column x, row y); the others lie whole rows further.
  let ax = thread % A_WIDTH;
  let ay = thread / A_WIDTH;
  let a_to = ay * A_STRIDE + ax;
#if FORM == 2
  let a_width = m / 4u;
  let a_column = immediates.first_a / 4u + min(tile.row / 4u + ax, max(a_width, 1u) - 1u);
#else
  let a_width = tile.k / 4u;
#for L A_LOADS
  let a_row_$L = immediates.first_a / 4u + min(tile.row + ay + $Lu * A_ROWS, last_row) * a_width;
#end
#endif
  let bx = thread % B_WIDTH;
  let by = thread / B_WIDTH;
  let b_to = by * B_STRIDE + bx;
#if FORM == 0
  let b_width = tile.k / 4u;
#for L B_LOADS
  let b_row_$L = immediates.first_b / 4u + min(tile.column + by + $Lu * B_ROWS, immediates.n - 1u) * b_width;
#end
#else
  let b_column = immediates.first_b / 4u + min(tile.column / 4u + bx, n4 - 1u);
#endif
  // The last k there is to fetch.
  let k_last = max(tile.k_end, 1u) - 1u;

#for F DOWN
#for E ACROSS
  var sum_$F_$E = MatrixC();
#end
#end
#if BIAS_GRADIENT
  var column_sum = vec4<f32>();
#endif
#for L A_LOADS
  var a_next_$L = V1();
#end
#for L B_LOADS
  var b_next_$L = V2();
#end
#for L A_LOADS
#if FORM == 2
  a_next_$L = a[a_column + min(tile.k_start + ay + $Lu * A_ROWS, k_last) * a_width];
#else
  a_next_$L = a[a_row_$L + min(tile.k_start / 4u + ax, k_last / 4u)];
#endif
#end
#for L B_LOADS
#if FORM == 0
  b_next_$L = b[b_row_$L + min(tile.k_start / 4u + bx, k_last / 4u)];
#else
  b_next_$L = b[b_column + min(tile.k_start + by + $Lu * B_ROWS, k_last) * n4];
#endif
#end

  for (var k = tile.k_start; k < tile.k_end; k += BK) {
    workgroupBarrier();
#for L A_LOADS
#if FORM == 2
    let a_$L = select(V1(), a_next_$L, k + ay + $Lu * A_ROWS < tile.k_end);
#else
    let a_$L = select(V1(), a_next_$L, k + 4u * ax < tile.k_end);
#endif
    put_a(a_to + $Lu * A_ROWS * A_STRIDE, vec4<f16>(a_$L));
#if BIAS_GRADIENT
    column_sum += vec4<f32>(a_$L);
#endif
#end
#for L B_LOADS
#if FORM == 0
    let b_$L = select(V2(), b_next_$L, k + 4u * bx < tile.k_end);
#else
    let b_$L = select(V2(), b_next_$L, k + by + $Lu * B_ROWS < tile.k_end);
#endif
    put_b(b_to + $Lu * B_ROWS * B_STRIDE, vec4<f16>(b_$L));
#end
    workgroupBarrier();

    let next = k + BK;
#for L A_LOADS
#if FORM == 2
    a_next_$L = a[a_column + min(next + ay + $Lu * A_ROWS, k_last) * a_width];
#else
    a_next_$L = a[a_row_$L + min(next / 4u + ax, k_last / 4u)];
#endif
#end
#for L B_LOADS
#if FORM == 0
    b_next_$L = b[b_row_$L + min(next / 4u + bx, k_last / 4u)];
#else
    b_next_$L = b[b_column + min(next + by + $Lu * B_ROWS, k_last) * n4];
#endif
#end

#for Q KSTEPS
#for F DOWN
#if FORM == 2
    let left_$Q_$F = coopLoad<MatrixA>(
      &a_tile[($Qu * MATRIX * A_STRIDE + sub_row / 4u + $Fu * MATRIX4) * UNIT], A_STRIDE * UNIT);
#else
    let left_$Q_$F = coopLoadT<MatrixA>(
      &a_tile[((sub_row + $Fu * MATRIX) * A_STRIDE + $Qu * MATRIX4) * UNIT], A_STRIDE * UNIT);
#endif
#end
#for E ACROSS
#if FORM == 0
    let right_$Q_$E = coopLoad<MatrixB>(
      &b_tile[((sub_column + $Eu * MATRIX) * B_STRIDE + $Qu * MATRIX4) * UNIT], B_STRIDE * UNIT);
#else
    let right_$Q_$E = coopLoadT<MatrixB>(
      &b_tile[($Qu * MATRIX * B_STRIDE + sub_column / 4u + $Eu * MATRIX4) * UNIT], B_STRIDE * UNIT);
#endif
#end
#for E ACROSS
#for F DOWN
    sum_$F_$E = coopMultiplyAdd(left_$Q_$F, right_$Q_$E, sum_$F_$E);
#end
#end
#end
  }

#if SPLIT && SCALAR == 0
  // Loops of one pass at most: naga refuses conditions around matrices, and does not see that this one is the same for all.
  let whole = tile.exists && tile.row + BM <= m && tile.column + BN <= immediates.n;
  for (var once = whole; once; once = false) {
    let to = split_at(tile.split, m) + (tile.row + sub_row) * n4 + (tile.column + sub_column) / 4u;
#for F DOWN
#for E ACROSS
    let to_$F_$E = to + $Fu * MATRIX * n4 + $Eu * MATRIX4;
    let done_$F_$E = sum_$F_$E;
    coopStoreT(done_$F_$E, &c[to_$F_$E], n4);
#end
#end
  }
  for (var once = !whole; once; once = false) {
#else
  {
#endif
    let mine = subgroup * VECTORS;
    let mine_from = mine * UNIT;
#for F DOWN
#for E ACROSS
#for H READS
    let i_$F_$E_$H = tile.row + sub_row + $Fu * MATRIX + (lane + $Hu * LANES) / MATRIX4;
    let j_$F_$E_$H = tile.column / 4u + sub_column / 4u + $Eu * MATRIX4 + lane % MATRIX4;
    let beside_$F_$E_$H = beside(min(i_$F_$E_$H, last_row), min(j_$F_$E_$H, n4 - 1u));
#end
#end
#end
#for F DOWN
#for E ACROSS
    workgroupBarrier();
    let leaving_$F_$E = sum_$F_$E;
    coopStoreT(leaving_$F_$E, &results[mine_from], MATRIX4 * UNIT);
    workgroupBarrier();
#for H READS
    if lane + $Hu * LANES < VECTORS && i_$F_$E_$H < m && j_$F_$E_$H < n4 {
      finish(tile.split, i_$F_$E_$H, j_$F_$E_$H, m, result(mine + lane + $Hu * LANES), beside_$F_$E_$H);
    }
#end
#end
#end
  }
#if BIAS_GRADIENT
  workgroupBarrier();
  put_result(thread, column_sum);
  workgroupBarrier();
  let i4 = tile.row / 4u + thread;
  if tile.column == 0u && thread < A_WIDTH && i4 < m / 4u {
    var total = result(thread);
    for (var part = 1u; part < A_ROWS; part++) { total += result(part * A_WIDTH + thread); }
#if SPLIT
    c[split_at(tile.split, m) + m * n4 + i4] = V3(total);
#else
    bias_gradient[i4] += total;
#endif
  }
#endif
}
