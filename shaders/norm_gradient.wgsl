// Backward of a norm: with x̂ = (sum − mean)/σ and g = output_gradient·weight, row by row,
//   sum_gradient [R, C] = (g − mean(g) − x̂·mean(g·x̂))/σ,
//   input_gradient [R, C] = sum_gradient, under the dropout of the branch (BRANCH 1 only).
//   DROPOUT 0: none; 1: of the branch; 2: of output_gradient (it followed the norm: embeddings).
// PARTIALS 1: also partial sums of the gradients of weight and bias, over one block of rows each:
//   partials [partials, 2C]: Σ output_gradient·x̂, then Σ output_gradient, which sum_partials.wgsl adds up. Where adapters
//   have too few bindings for that (PARTIALS 0), norm_parameter_gradient.wgsl makes them.
//
// Bindings: output_gradient, sum, statistics [R, 2], weight [C], sum_gradient; partials where PARTIALS is 1;
// input_gradient where BRANCH is 1; positions [R] and sequences [R] where DROPOUT is not 0, from binding
// AT on.
// Dispatch: one workgroup for each of `partials` blocks of rows, or (PARTIALS 0) for each ROWS rows.
// Tiles: as norm_forward.wgsl, ROWS rows at a time; x̂ and g stay in registers, and so do a thread's partial sums.
// Numerics: f32; the sums of a row are added in a fixed tree; a thread adds every ROWS-th row of its block in order, then
// ROWS sums in a fixed tree. A block holds ceil(rows in use / partials) rows, and writes zeros where it has none.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  partials: u32,
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
#if PARTIALS
@group(0) @binding(6) var<storage, read_write> partials: array<Lane>;
#if BRANCH
@group(0) @binding(7) var<storage, read_write> input_gradient: array<L7>;
#endif
#else
#if BRANCH
@group(0) @binding(6) var<storage, read_write> input_gradient: array<L6>;
#endif
#endif
#if DROPOUT
@group(0) @binding(AT) var<storage, read> positions: array<u32>;
@group(0) @binding(AT + 1u) var<storage, read> sequences: array<u32>;

#include lane_dropout
#endif

#include row_total
#if PARTIALS
#include lane_total
#endif

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let index = workgroup_index(group, groups);
#if PARTIALS
  if (index >= immediates.partials) {
    return;
  }
  let per_block = (rows + immediates.partials - 1u) / immediates.partials;
#else
  let per_block = ROWS;
#endif
  let first = min(index * per_block, rows);
  let last = min(first + per_block, rows);
  let thread = local % THREADS;
  let count = f32(immediates.columns);
#if PARTIALS
  var weight_sums: array<Lane, PER_THREAD>;
  var bias_sums: array<Lane, PER_THREAD>;
#endif

  for (var step_row = first; step_row < last; step_row += ROWS) {
    // Threads beyond the last row follow along for the barriers, and touch no memory.
    let mine = step_row + local / THREADS;
    let row = min(mine, last - 1u);
    let lanes = select(0u, immediates.columns / LANE, mine < last);
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
        var g = Lane(output_gradient[start + lane]);
#if DROPOUT == 2
        g *= factors(key, position, lane);
#endif
        let x = (Lane(sum[start + lane]) - mean) * inverse_deviation;
#if PARTIALS
        weight_sums[i] += g * x;
        bias_sums[i] += g;
#endif
        g *= weight[lane];
        normalised[i] = x;
        gradient[i] = g;
        gradients += total(g);
        products += total(g * x);
      }
    }
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
#if PARTIALS
        input_gradient[start + lane] = L7(value);
#else
        input_gradient[start + lane] = L6(value);
#endif
#endif
      }
    }
  }

#if PARTIALS
  let all = immediates.columns / LANE;
  for (var i = 0u; i < PER_THREAD; i++) {
    let lane = thread + i * THREADS;
    let of_weight = lane_total(weight_sums[i], local);
    let of_bias = lane_total(bias_sums[i], local);
    // The first THREADS threads hold the totals of their lanes.
    if (local < THREADS && lane < all) {
      partials[index * 2u * all + lane] = of_weight;
      partials[index * 2u * all + all + lane] = of_bias;
    }
  }
#endif
}
