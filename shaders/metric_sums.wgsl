// metrics[target k] += Σ over rows of source[row, k], k = 0..2.
//
// source [R, 3]; metrics [METRICS].
// Dispatch: one workgroup; R is at most some ten thousand, and one workgroup keeps the order fixed.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  target_0: u32,
  target_1: u32,
  target_2: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> metrics: array<f32>;

const THREADS: u32 = 256u;
var<workgroup> sums: array<vec3<f32>, THREADS>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  var sum = vec3<f32>(0.0);
  for (var row = thread; row < rows; row += THREADS) {
    sum += vec3<f32>(source[row * 3u], source[row * 3u + 1u], source[row * 3u + 2u]);
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if thread < half {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if thread == 0u {
    metrics[immediates.target_0] += sums[0].x;
    metrics[immediates.target_1] += sums[0].y;
    metrics[immediates.target_2] += sums[0].z;
  }
}
