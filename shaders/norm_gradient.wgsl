// Backward of a norm, row by row: with x̂ = (sum − mean)/σ and g = output_gradient·weight,
//   sum_gradient [R, C] = (g − mean(g) − x̂·mean(g·x̂))/σ,
//   input_gradient [R, C] = sum_gradient, under the dropout of the branch (BRANCH 1 only).
//   DROPOUT 0: none; 1: of the branch; 2: of output_gradient (it followed the norm: embeddings).
// The gradients of weight and bias are norm_parameter_gradient.wgsl's.
//
// Bindings: output_gradient, sum, statistics [R, 2], weight [C], sum_gradient; input_gradient where BRANCH is 1;
// positions [R] and sequences [R] where DROPOUT is not 0.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: as norm_forward.wgsl; x̂ and g stay in registers.
// Numerics: f32; partial sums are added in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  threshold: u32,
  scale: f32,
  site: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> output_gradient: array<L1>;
@group(0) @binding(2) var<storage, read> sum: array<L2>;
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<Lane>;
@group(0) @binding(5) var<storage, read_write> sum_gradient: array<L5>;
#if BRANCH
@group(0) @binding(6) var<storage, read_write> input_gradient: array<L6>;
#endif
#if DROPOUT
#if BRANCH
@group(0) @binding(7) var<storage, read> positions: array<u32>;
@group(0) @binding(8) var<storage, read> sequences: array<u32>;
#else
@group(0) @binding(6) var<storage, read> positions: array<u32>;
@group(0) @binding(7) var<storage, read> sequences: array<u32>;
#endif

#include lane_dropout
#endif

#include row_total

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let first_row = workgroup_index(group, groups) * ROWS;
  if (first_row >= rows) {
    return;
  }
  let thread = local % THREADS;
  // Threads beyond the last row follow along for the barriers, and touch no memory.
  let row = min(first_row + local / THREADS, rows - 1u);
  let lanes = select(0u, immediates.columns / LANE, first_row + local / THREADS < rows);
  let start = row * (immediates.columns / LANE);
  let mean = statistics[row].x;
  let inverse_deviation = statistics[row].y;
#if DROPOUT
  let key = sequence_key(immediates.site, sequences[row]);
  let position = positions[row];
#endif

  var normalised: array<Lane, PER_THREAD>;
  var gradient: array<Lane, PER_THREAD>;
  var gradients = 0.0;
  var products = 0.0;
  for (var i = 0u; i < PER_THREAD; i++) {
    let lane = thread + i * THREADS;
    if (lane < lanes) {
      var g = Lane(output_gradient[start + lane]) * weight[lane];
#if DROPOUT == 2
      g *= factors(key, position, lane);
#endif
      let x = (Lane(sum[start + lane]) - mean) * inverse_deviation;
      normalised[i] = x;
      gradient[i] = g;
      gradients += total(g);
      products += total(g * x);
    }
  }
  let count = f32(immediates.columns);
  let a = row_total(gradients, local) / count;
  let b = row_total(products, local) / count;

  for (var i = 0u; i < PER_THREAD; i++) {
    let lane = thread + i * THREADS;
    if (lane < lanes) {
      var value = (gradient[i] - a - normalised[i] * b) * inverse_deviation;
      sum_gradient[start + lane] = L5(value);
#if BRANCH
#if DROPOUT == 1
      value *= factors(key, position, lane);
#endif
      input_gradient[start + lane] = L6(value);
#endif
    }
  }
}
