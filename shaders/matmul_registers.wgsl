// Matrix product from registers alone, with its epilogue: no barriers, no workgroup memory.
// For software adapters, where workgroup memory is only more memory; and the baseline the others are measured by.
//
//   FORM 0 (Nt): C[m,n]  = A[m,k] · B[n,k]ᵀ    m rows in use, k = inner
//   FORM 1 (Nn): C[m,n]  = A[m,k] · B[k,n]     m rows in use, k = inner
//   FORM 2 (Tn): C[m,n] += A[k,m]ᵀ · B[k,n]    k rows in use, m = inner
// EPILOGUE (forms 0 and 1): 0 none, 1 + bias[n], 2 before = + bias[n] and C = gelu(before),
//   3 · gelu′(before), 4 + residual; `before` and `residual` are [m,n] from their first element.
// SPLIT (forms 1 and 2): k is cut into `splits` parts; C is then the partial sums [splits, m·n] or, in form 2,
//   [splits, m·n + m]: a product and the column sums of A for each part (written, not added), which
//   matmul_sum_splits adds up.
// BIAS_GRADIENT (form 2): bias_gradient[m] += column sums of A, by the workgroups of the first column tile.
//
// Bindings: 1 A, 2 B, 3 C or the partial sums, 4 bias, before, residual or bias_gradient, 5 before (EPILOGUE 2).
// Dispatch: one workgroup of (BM/TM)·(BN/TN) threads for each tile of C and each split.
// Tiles: C in BM × BN (32 × 32: 16 threads of TM × TN = 8 × 8, because on lavapipe every load of memory costs much
//   more than the arithmetic; 4 × 4 runs at half the rate). Rows and columns outside C are those at its edge,
//   computed again and not written, so that the loop has no conditions.
// Numerics: f32, one running sum over the k of a split, in order.

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  n: u32,
  inner: u32,
  first_a: u32,
  first_b: u32,
  first_c: u32,
  splits: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> a: array<T1>;
@group(0) @binding(2) var<storage, read> b: array<T2>;
@group(0) @binding(3) var<storage, read_write> c: array<T3>;
#if EPILOGUE == 1
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#endif
#if EPILOGUE == 2
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> before: array<T5>;
#endif
#if EPILOGUE == 3
@group(0) @binding(4) var<storage, read> before: array<T4>;
#endif
#if EPILOGUE == 4
@group(0) @binding(4) var<storage, read> residual: array<T4>;
#endif
#if BIAS_GRADIENT
#if SPLIT == 0
@group(0) @binding(4) var<storage, read_write> bias_gradient: array<f32>;
#endif
#endif

// Writes element (i, j) of the product of split number `split`.
fn finish(split: u32, i: u32, j: u32, m: u32, product: f32) {
  let n = immediates.n;
  let at = i * n + j;
#if SPLIT
#if FORM == 2
  c[split * (m * n + m) + at] = T3(product);
#else
  c[split * m * n + at] = T3(product);
#endif
#else
#if FORM == 2
  c[immediates.first_c + at] += T3(product);
#else
#if EPILOGUE == 0
  c[immediates.first_c + at] = T3(product);
#endif
#if EPILOGUE == 1
  c[immediates.first_c + at] = T3(product + bias[j]);
#endif
#if EPILOGUE == 2
  let x = product + bias[j];
  before[at] = T5(x);
  c[immediates.first_c + at] = T3(gelu(x));
#endif
#if EPILOGUE == 3
  c[immediates.first_c + at] = T3(product * gelu_derivative(f32(before[at])));
#endif
#if EPILOGUE == 4
  c[immediates.first_c + at] = T3(product + f32(residual[at]));
#endif
#endif
#endif
}

#if BIAS_GRADIENT
// Adds (or puts into this split's partial sums) the sum of column i of A.
fn finish_bias(split: u32, i: u32, m: u32, sum: f32) {
#if SPLIT
  c[split * (m * immediates.n + m) + m * immediates.n + i] = T3(sum);
#else
  bias_gradient[i] += sum;
#endif
}
#endif

const TX: u32 = BN / TN;
const TY: u32 = BM / TM;
const THREADS: u32 = TX * TY;

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
  let column_tile = tile % column_tiles;
  let part = ((k + immediates.splits - 1u) / immediates.splits + BK - 1u) / BK * BK;
  let k_start = min(split * part, k);
  let k_end = min(k_start + part, k);

  let tx = thread % TX;
  let i = tile / column_tiles * BM + thread / TX * TM;
  let j = column_tile * BN + tx * TN;
  // First elements of this thread's rows of A and columns of B at k = 0.
  var a_at: array<u32, TM>;
  var b_at: array<u32, TN>;
  for (var p = 0u; p < TM; p++) {
#if FORM == 2
    a_at[p] = immediates.first_a + min(i + p, m - 1u);
#else
    a_at[p] = immediates.first_a + min(i + p, m - 1u) * k;
#endif
  }
  for (var q = 0u; q < TN; q++) {
#if FORM == 0
    b_at[q] = immediates.first_b + min(j + q, n - 1u) * k;
#else
    b_at[q] = immediates.first_b + min(j + q, n - 1u);
#endif
  }
#if FORM == 2
  let a_step = m;
#else
  let a_step = 1u;
#endif
#if FORM == 0
  let b_step = 1u;
#else
  let b_step = n;
#endif
  var sums: array<f32, TM * TN>;
  for (var kk = k_start; kk < k_end; kk++) {
    var bs: array<f32, TN>;
    for (var q = 0u; q < TN; q++) {
      bs[q] = f32(b[b_at[q] + kk * b_step]);
    }
    for (var p = 0u; p < TM; p++) {
      let x = f32(a[a_at[p] + kk * a_step]);
      for (var q = 0u; q < TN; q++) {
        sums[p * TN + q] += x * bs[q];
      }
    }
  }
  for (var p = 0u; p < TM; p++) {
    for (var q = 0u; q < TN; q++) {
      if i + p < m && j + q < n {
        finish(split, i + p, j + q, m, sums[p * TN + q]);
      }
    }
  }
#if BIAS_GRADIENT
  // Columns of A are summed once: by the first threads of the first column tile.
  if column_tile == 0u && tx == 0u {
    for (var p = 0u; p < TM && i + p < m; p++) {
      var sum = 0.0;
      for (var kk = k_start; kk < k_end; kk++) {
        sum += f32(a[a_at[p] + kk * a_step]);
      }
      finish_bias(split, i + p, m, sum);
    }
  }
#endif
}
