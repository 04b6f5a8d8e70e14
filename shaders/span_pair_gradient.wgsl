// Backward of span_pair: with c_t ‖ h_t the gradient of row t of its output, hidden_gradient [T, H] =
// h_t, + residual[t] where RESIDUAL is 1, + Σ c_t′ over the rows t′ of the sequence where t is its chosen row.
//
// Bindings: output_gradient [T, 2H], starts [B + 1], chosen [B], hidden_gradient; residual [T, H] where RESIDUAL
// is 1.
// Dispatch: per sequence, `blocks` workgroups of THREADS lanes of channels each.
// Tiles: THREADS lanes of a row by ROWS rows at a time: with few sequences, enough threads to hide memory's
// latency. A lane is 4 channels where H divides by 4 (VEC), else 1.
// Numerics: f32; a thread adds every ROWS-th row in order, then ROWS sums in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  blocks: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> output_gradient: array<L1>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> chosen: array<u32>;
@group(0) @binding(4) var<storage, read_write> hidden_gradient: array<L4>;
#if RESIDUAL
@group(0) @binding(5) var<storage, read> residual: array<L5>;
#endif

var<workgroup> sums: array<Lane, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let sequence = workgroup_index(group, groups) / immediates.blocks;
  let block = workgroup_index(group, groups) % immediates.blocks;
  if (sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let first = starts[sequence];
  let chosen_row = first + chosen[sequence];
  let lanes = immediates.columns / LANE;
  let lane = block * THREADS + local % THREADS;
  // Threads beyond the last lane have no rows, and follow along for the barriers.
  let end = select(first, starts[sequence + 1u], lane < lanes);
  var sum = Lane(0.0);
  for (var row = first + local / THREADS; row < end; row += ROWS) {
    sum += Lane(output_gradient[row * 2u * lanes + lane]);
  }
  sums[local] = sum;
  for (var stride = WIDTH / 2u; stride >= THREADS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      sums[local] += sums[local + stride];
    }
  }
  workgroupBarrier();
  for (var row = first + local / THREADS; row < end; row += ROWS) {
    var value = Lane(output_gradient[row * 2u * lanes + lanes + lane]);
#if RESIDUAL
    value += Lane(residual[row * lanes + lane]);
#endif
    if (row == chosen_row) {
      value += sums[local % THREADS];
    }
    hidden_gradient[row * lanes + lane] = L4(value);
  }
}
