// Partial sums of the gradients of a norm's weight and bias, over one block of rows each, for adapters that have too few
// bindings for norm_gradient.wgsl to make them on its way:
//   partials [PARTIALS, 2C]: Σ output_gradient·x̂, then Σ output_gradient, with x̂ = (sum − mean)/σ.
// DROPOUT 1: of output_gradient (it followed the norm: embeddings).
// sum_partials.wgsl adds them up.
//
// Bindings: output_gradient [R, C], sum [R, C], statistics [R, 2], partials; positions [R] and sequences [R] where
// DROPOUT is 1.
// Dispatch: PARTIALS · ceil(lanes / THREADS) workgroups, partial sums in the outer order; a lane is 4 channels
// where C divides by 4 (VEC), else 1.
// Tiles: THREADS lanes by ROWS rows at a time; THREADS is 16, so that a row's part is read as 256 contiguous
// bytes and narrow models still fill a GPU.
// Numerics: f32; a thread adds every ROWS-th row of its block in order, then ROWS sums in a fixed tree. Block
// b holds ceil(rows in use / PARTIALS) rows: the order depends on the number of rows alone.

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
@group(0) @binding(4) var<storage, read_write> partials: array<Lane>;
#if DROPOUT
@group(0) @binding(5) var<storage, read> positions: array<u32>;
@group(0) @binding(6) var<storage, read> sequences: array<u32>;

#include lane_dropout
#endif

var<workgroup> weight_sums: array<Lane, WIDTH>;
var<workgroup> bias_sums: array<Lane, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let lanes = immediates.columns / LANE;
  let strips = (lanes + THREADS - 1u) / THREADS;
  let index = workgroup_index(group, groups);
  let block = index / strips;
  let per_block = (rows + immediates.partials - 1u) / immediates.partials;
  // Blocks without rows write zeros: sum_partials.wgsl reads them too.
  if (block >= immediates.partials) {
    return;
  }
  let lane = (index % strips) * THREADS + local % THREADS;
  let end = select(0u, min((block + 1u) * per_block, rows), lane < lanes);

  var weight_sum = Lane(0.0);
  var bias_sum = Lane(0.0);
  for (var row = block * per_block + local / THREADS; row < end; row += ROWS) {
    var g = Lane(output_gradient[row * lanes + lane]);
#if DROPOUT
    g *= factors(sequence_key(immediates.site, sequences[row]), positions[row], lane);
#endif
    let statistic = statistics[row];
    weight_sum += g * ((Lane(sum[row * lanes + lane]) - statistic.x) * statistic.y);
    bias_sum += g;
  }
  weight_sums[local] = weight_sum;
  bias_sums[local] = bias_sum;
  for (var stride = WIDTH / 2u; stride >= THREADS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      weight_sums[local] += weight_sums[local + stride];
      bias_sums[local] += bias_sums[local + stride];
    }
  }
  // The first THREADS threads hold their own totals now.
  if (local < THREADS && lane < lanes) {
    partials[block * 2u * lanes + lane] = weight_sums[local];
    partials[block * 2u * lanes + lanes + lane] = bias_sums[local];
  }
}
