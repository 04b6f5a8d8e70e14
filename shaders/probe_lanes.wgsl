// A probe of subgroups: how many lanes has one here? Drivers whose adapters name a range (RDNA: 32 to 64) choose for each
// kernel; this one looks to them like our products: THREADS a workgroup, and a multiply-add of cooperative matrices of
// MATRIX × MATRIX (8 or 16; 0: without).
//
// Bindings: 1 output [3] (written): lanes of a subgroup, subgroups of the workgroup, and what keeps the product.
// Dispatch: one workgroup.

#if MATRIX
#include cooperative_matrices
#endif

@group(0) @binding(1) var<storage, read_write> output: array<u32>;

#if MATRIX
const ELEMENTS: u32 = MATRIX * MATRIX;
var<workgroup> operand: array<f16, ELEMENTS>;
var<workgroup> results: array<f32, ELEMENTS>;
#endif

@compute @workgroup_size(THREADS)
fn main(
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_size) lanes: u32,
  @builtin(num_subgroups) subgroups: u32,
) {
  var sum = 0.0;
#if MATRIX
  for (var i = thread; i < ELEMENTS; i += THREADS) { operand[i] = f16(1.0); }
  workgroupBarrier();
  let left = coopLoadT<MatrixA>(&operand[0], MATRIX);
  let right = coopLoadT<MatrixB>(&operand[0], MATRIX);
  let product = coopMultiplyAdd(left, right, MatrixC());
  // All subgroups write the same.
  coopStoreT(product, &results[0], MATRIX);
  workgroupBarrier();
  sum = results[0];
#endif
  if thread == 0u {
    output[0] = lanes;
    output[1] = subgroups;
    output[2] = u32(sum);
  }
}
