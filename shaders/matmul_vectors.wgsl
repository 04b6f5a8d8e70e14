// Matrix product by tiles in workgroup memory, for dimensions that are multiples of 4 (all but toy models).
//
//   FORM 0 (Nt): C[m,n]  = A[m,k] · B[n,k]ᵀ    m rows in use, k = inner
//   FORM 1 (Nn): C[m,n]  = A[m,k] · B[k,n]     m rows in use, k = inner
//   FORM 2 (Tn): C[m,n] += A[k,m]ᵀ · B[k,n]    k rows in use, m = inner
// EPILOGUE, SPLIT, BIAS_GRADIENT, bindings: as in matmul_tiled.wgsl.
//
// Dispatch: one workgroup of (BM/TM)·(BN/4) threads for each tile of C and each split.
// Tiles: C in BM × BN, TM × 4 a thread, k in steps of BK: 128 × 64, 8 × 4 and 16, or where C has few tiles 64 × 64,
//   8 × 4 and 8. Made for the compiler of the Radeon VII (tools/gcn-report), and right everywhere:
//   - 8 × 4 sums are the most that leave 4 waves a SIMD (64 registers); 3 reads of 16 bytes serve 32 multiply-adds.
//   - Memory is read as vec4. The loop over whole steps has no test: rows beyond the edges are clamped to the last
//     (what they give is not written), the remainder of k comes after the loop.
//   - Tiles lie k-major as scalars, for the transposing writes of operands that lie along k; compilers join the four
//     adjacent reads. For RADV to see that they are aligned, the workgroup has two dimensions. A row is padded by 4.
//   - The next step's elements are fetched into registers while this one's are multiplied, from straight code: behind a
//     loop or a condition the fetches would end up where nothing hides them.
// Numerics: f32, one running sum over the k of a split, in order. Bias gradients: THREADS / BM threads sum a
//   column of A's tiles, each its rows of every step; the threads' sums are added in order.

#include matmul_vector_parts

const TN: u32 = 4u;
const K4: u32 = BK / 4u;
const M4: u32 = BM / 4u;
const N4: u32 = BN / 4u;
const TX: u32 = BN / TN;
const TY: u32 = BM / TM;
const THREADS: u32 = TX * TY;
const A_STRIDE: u32 = BM + 4u;
const B_STRIDE: u32 = BN + 4u;
// Vectors that each thread fetches of a tile.
const A_LOADS: u32 = M4 * BK / THREADS;
const B_LOADS: u32 = N4 * BK / THREADS;
const AV: u32 = TM / 4u;
// Rows (along) or k (across) from one fetch of a thread to its next; the same in a tile; and in a tile from one
// component of a vector to the next.
#if FORM == 2
const A_ROWS: u32 = THREADS / M4;
const A_NEXT: u32 = A_ROWS * A_STRIDE;
const A_PART: u32 = 1u;
#else
const A_ROWS: u32 = THREADS / K4;
const A_NEXT: u32 = A_ROWS;
const A_PART: u32 = A_STRIDE;
#endif
#if FORM == 0
const B_ROWS: u32 = THREADS / K4;
const B_NEXT: u32 = B_ROWS;
const B_PART: u32 = B_STRIDE;
#else
const B_ROWS: u32 = THREADS / N4;
const B_NEXT: u32 = B_ROWS * B_STRIDE;
const B_PART: u32 = 1u;
#endif
var<workgroup> a_tile: array<f32, BK * A_STRIDE>;
var<workgroup> b_tile: array<f32, BK * B_STRIDE>;

// Which vector of a tile a thread fetches first: along k (row, quad of k) or across (k, quad of columns). The others
// lie whole rows further, so that one address serves all. Adjacent threads take adjacent vectors of memory.
fn along(thread: u32) -> vec2<u32> {
  return vec2<u32>(thread / K4, thread % K4);
}

fn across(thread: u32, width: u32) -> vec2<u32> {
  return vec2<u32>(thread / width, thread % width);
}

fn read_a(k: u32, at: u32) -> vec4<f32> {
  let i = k * A_STRIDE + at;
  return vec4<f32>(a_tile[i], a_tile[i + 1u], a_tile[i + 2u], a_tile[i + 3u]);
}

fn read_b(k: u32, at: u32) -> vec4<f32> {
  let i = k * B_STRIDE + at;
  return vec4<f32>(b_tile[i], b_tile[i + 1u], b_tile[i + 2u], b_tile[i + 3u]);
}

fn store_tiles(a_to: u32, a_next: array<vec4<f32>, A_LOADS>, b_to: u32, b_next: array<vec4<f32>, B_LOADS>) {
  for (var l = 0u; l < A_LOADS; l++) {
    let i = a_to + l * A_NEXT;
    a_tile[i] = a_next[l].x;
    a_tile[i + A_PART] = a_next[l].y;
    a_tile[i + 2u * A_PART] = a_next[l].z;
    a_tile[i + 3u * A_PART] = a_next[l].w;
  }
  for (var l = 0u; l < B_LOADS; l++) {
    let i = b_to + l * B_NEXT;
    b_tile[i] = b_next[l].x;
    b_tile[i + B_PART] = b_next[l].y;
    b_tile[i + 2u * B_PART] = b_next[l].z;
    b_tile[i + 3u * B_PART] = b_next[l].w;
  }
}

fn multiply_one(kk: u32, tx: u32, ty: u32, sums: ptr<function, array<vec4<f32>, TM>>) {
  let bv = read_b(kk, 4u * tx);
  for (var p = 0u; p < AV; p++) {
    let av = read_a(kk, 4u * (p * TY + ty));
    (*sums)[4u * p] += av.x * bv;
    (*sums)[4u * p + 1u] += av.y * bv;
    (*sums)[4u * p + 2u] += av.z * bv;
    (*sums)[4u * p + 3u] += av.w * bv;
  }
}

fn multiply_four(kk: u32, tx: u32, ty: u32, sums: ptr<function, array<vec4<f32>, TM>>) {
  multiply_one(kk, tx, ty, sums);
  multiply_one(kk + 1u, tx, ty, sums);
  multiply_one(kk + 2u, tx, ty, sums);
  multiply_one(kk + 3u, tx, ty, sums);
}

// Without a loop: see above.
fn multiply(tx: u32, ty: u32, sums: ptr<function, array<vec4<f32>, TM>>) {
  multiply_four(0u, tx, ty, sums);
  multiply_four(4u, tx, ty, sums);
#if BK == 16
  multiply_four(8u, tx, ty, sums);
  multiply_four(12u, tx, ty, sums);
#endif
}

#if BIAS_GRADIENT
// PARTS threads share a column of A's tile.
const PARTS: u32 = THREADS / BM;

fn sum_of_column(thread: u32) -> f32 {
  var sum = 0.0;
  for (var kk = 0u; kk < BK / PARTS; kk++) {
    sum += a_tile[(thread / BM * (BK / PARTS) + kk) * A_STRIDE + thread % BM];
  }
  return sum;
}
#endif

@compute @workgroup_size(TX, TY)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(local_invocation_id) local: vec3<u32>,
) {
  let tile = tile_of(workgroup_index(group, groups));
  if !tile.exists {
    return;
  }
  let n = immediates.n;
  let m = tile.m;
  let k = tile.k;
  let split = tile.split;
  let row = tile.row;
  let column = tile.column;
  let column_tile = column / BN;
  let k_start = tile.k_start;
  let k_end = tile.k_end;
  let whole = (k_end - k_start) / BK;

  let tx = local.x;
  let ty = local.y;
  // This thread's vectors of each operand at the first step; each fetch lies so many vectors further (across, where
  // that is uniform), and each step.
  var a_at: array<u32, A_LOADS>;
  var b_at: array<u32, B_LOADS>;
#if FORM == 2
  let a_place = across(thread, M4);
  let a_to = a_place.x * A_STRIDE + 4u * a_place.y;
  let a_step = K4 * m;
  let a_first = (immediates.first_a + (k_start + a_place.x) * m + min(row + 4u * a_place.y, m - 4u)) / 4u;
  for (var l = 0u; l < A_LOADS; l++) { a_at[l] = a_first; }
  let a_skip = A_ROWS * (m / 4u);
#else
  let a_place = along(thread);
  let a_to = 4u * a_place.y * A_STRIDE + a_place.x;
  let a_step = K4;
  let a_skip = 0u;
  for (var l = 0u; l < A_LOADS; l++) {
    a_at[l] = (immediates.first_a + min(row + a_place.x + l * A_ROWS, m - 1u) * k + k_start) / 4u + a_place.y;
  }
#endif
#if FORM == 0
  let b_place = along(thread);
  let b_to = 4u * b_place.y * B_STRIDE + b_place.x;
  let b_step = K4;
  let b_skip = 0u;
  for (var l = 0u; l < B_LOADS; l++) {
    b_at[l] = (immediates.first_b + min(column + b_place.x + l * B_ROWS, n - 1u) * k + k_start) / 4u + b_place.y;
  }
#else
  let b_place = across(thread, N4);
  let b_to = b_place.x * B_STRIDE + 4u * b_place.y;
  let b_step = K4 * n;
  let b_first = (immediates.first_b + (k_start + b_place.x) * n + min(column + 4u * b_place.y, n - 4u)) / 4u;
  for (var l = 0u; l < B_LOADS; l++) { b_at[l] = b_first; }
  let b_skip = B_ROWS * (n / 4u);
#endif

  var sums: array<vec4<f32>, TM>;
#if BIAS_GRADIENT
  var column_sum = 0.0;
#endif
  var a_next: array<vec4<f32>, A_LOADS>;
  var b_next: array<vec4<f32>, B_LOADS>;
  if whole > 0u {
    for (var l = 0u; l < A_LOADS; l++) { a_next[l] = vec4<f32>(a[a_at[l] + l * a_skip]); }
    for (var l = 0u; l < B_LOADS; l++) { b_next[l] = vec4<f32>(b[b_at[l] + l * b_skip]); }
  }
  for (var s = 0u; s < whole; s++) {
    workgroupBarrier();
    store_tiles(a_to, a_next, b_to, b_next);
    workgroupBarrier();
#if BIAS_GRADIENT
    if column_tile == 0u { column_sum += sum_of_column(thread); }
#endif
    // The last step fetches itself again, which costs less than a test.
    let next = min(s + 1u, whole - 1u);
    for (var l = 0u; l < A_LOADS; l++) { a_next[l] = vec4<f32>(a[a_at[l] + (l * a_skip + next * a_step)]); }
    for (var l = 0u; l < B_LOADS; l++) { b_next[l] = vec4<f32>(b[b_at[l] + (l * b_skip + next * b_step)]); }
    multiply(tx, ty, &sums);
  }
  let left = k_end - k_start - whole * BK;
  if left > 0u {
    for (var l = 0u; l < A_LOADS; l++) {
#if FORM == 2
      let inside = a_place.x + l * A_ROWS < left;
#else
      let inside = 4u * a_place.y < left;
#endif
      a_next[l] = vec4<f32>(0.0);
      if inside { a_next[l] = vec4<f32>(a[a_at[l] + (l * a_skip + whole * a_step)]); }
    }
    for (var l = 0u; l < B_LOADS; l++) {
#if FORM == 0
      let inside = 4u * b_place.y < left;
#else
      let inside = b_place.x + l * B_ROWS < left;
#endif
      b_next[l] = vec4<f32>(0.0);
      if inside { b_next[l] = vec4<f32>(b[b_at[l] + (l * b_skip + whole * b_step)]); }
    }
    workgroupBarrier();
    store_tiles(a_to, a_next, b_to, b_next);
    workgroupBarrier();
    multiply(tx, ty, &sums);
#if BIAS_GRADIENT
    if column_tile == 0u { column_sum += sum_of_column(thread); }
#endif
  }

  for (var p = 0u; p < TM; p++) {
    let i = row + ((p / 4u) * TY + ty) * 4u + p % 4u;
    let j = column + 4u * tx;
    if i < m && j < n { finish(split, i, j / 4u, m, sums[p], beside(i, j / 4u)); }
  }
#if BIAS_GRADIENT
  if column_tile == 0u {
    workgroupBarrier();
    b_tile[thread] = column_sum;
    workgroupBarrier();
    let i = row + 4u * thread;
    if thread < M4 && i < m {
      var total = read_b(0u, 4u * thread);
      for (var part = 1u; part < PARTS; part++) { total += read_b(0u, part * BM + 4u * thread); }
#if SPLIT
      c[split_at(split, m) + (m * n + i) / 4u] = V3(total);
#else
      bias_gradient[i / 4u] += total;
#endif
    }
  }
#endif
}
