// Sums over the THREADS threads of a workgroup that share a row.

#include lane_sum

#if THREADS != 1
var<workgroup> row_sums: array<f32, WIDTH>;
#endif

// The sum of `value` over the threads of a row, given to all of them.
fn row_total(value: f32, local: u32) -> f32 {
#if THREADS == 1
  return value;
#else
  let thread = local % THREADS;
  row_sums[local] = value;
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (thread < stride) {
      row_sums[local] += row_sums[local + stride];
    }
  }
  workgroupBarrier();
  let result = row_sums[local - thread];
  // `row_sums` is written again by the next call.
  workgroupBarrier();
  return result;
#endif
}
