// Backward of span_pool to the logits: logits_gradient[t] += p_t · g_pool·(hidden[t] − pooled) for every
// allowed token, with g_pool and pooled the second halves of its sequence's rows of output_gradient and output.
//
// Bindings: hidden [T, H], logits [T], allowed [T], starts [B + 1], statistics [B, 2], output [B, 2H],
// output_gradient [B, 2H], logits_gradient [T].
// Dispatch: SPLITS workgroups a sequence, each with every SPLITS-th group of ROWS rows: few sequences fill a GPU.
// Tiles: THREADS threads share a row, each with every THREADS-th lane of 4 channels (1 where H does not divide by
// 4: VEC 0), so that reads are contiguous.
// Numerics: f32; the difference is taken before the sum, so that nothing cancels after it; sums in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> hidden: array<L1>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> allowed: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> output: array<L6>;
@group(0) @binding(7) var<storage, read> output_gradient: array<L7>;
@group(0) @binding(8) var<storage, read_write> logits_gradient: array<f32>;

#include lane_sum

var<workgroup> sums: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let sequence = workgroup_index(group, groups) / SPLITS;
  let split = workgroup_index(group, groups) % SPLITS;
  if (sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let first = starts[sequence];
  let end = starts[sequence + 1u];
  let lanes = immediates.columns / LANE;
  let pooled = sequence * 2u * lanes + lanes;
  let thread = local % THREADS;
  // The bounds are those of the workgroup: all threads meet at the barriers.
  for (var group_row = first + split * ROWS; group_row < end; group_row += SPLITS * ROWS) {
    let row = group_row + local / THREADS;
    // Threads beyond the last row have no lanes.
    let count = select(0u, lanes, row < end);
    var sum = 0.0;
    for (var lane = thread; lane < count; lane += THREADS) {
      let difference = Lane(hidden[row * lanes + lane]) - Lane(output[pooled + lane]);
      sum += total(Lane(output_gradient[pooled + lane]) * difference);
    }
    sums[local] = sum;
    for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
      workgroupBarrier();
      if (thread < stride) {
        sums[local] += sums[local + stride];
      }
    }
    if (thread == 0u && row < end) {
      if (allowed[row] != 0u) {
        let probability = exp(logits[row] - statistics[sequence].x) / statistics[sequence].y;
        logits_gradient[row] += probability * sums[local];
      }
    }
    // `sums` is written again for the next rows.
    workgroupBarrier();
  }
}
