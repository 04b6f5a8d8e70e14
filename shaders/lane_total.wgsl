// Sums over the ROWS threads of a workgroup that share a lane (THREADS lanes).

#if ROWS != 1
var<workgroup> sums: array<Lane, WIDTH>;
#endif

// The sum of `value` over the ROWS threads that share a lane, in a fixed tree; right in the first of them.
fn lane_total(value: Lane, local: u32) -> Lane {
#if ROWS == 1
  return value;
#else
  workgroupBarrier();
  sums[local] = value;
  for (var stride = WIDTH / 2u; stride >= THREADS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      sums[local] += sums[local + stride];
    }
  }
  return sums[local];
#endif
}
