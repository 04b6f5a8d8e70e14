// Matrix product from registers alone, with its epilogue: no barriers, no workgroup memory.
// For software adapters, where workgroup memory is only more memory; and the baseline the others are measured by.
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
// Tiles: C in BM × BN (32 × 32: 16 threads of TM × TN = 8 × 8, because on lavapipe every load of memory costs much
//   more than the arithmetic; 4 × 4 runs at half the rate). Rows and columns outside C are those at its edge,
//   computed again and not written, so that the loop has no conditions.
// Numerics: f32, one running sum over the k of a split, in order.

#include matmul_scalar_parts

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
