// Partial sums of the gradient of the segment table, over one block of rows each:
//   partials [PARTIALS, 2E]: Σ of gradient's rows in segment 0, then in segment 1. sum_partials.wgsl adds them up.
//
// Bindings: gradient [T, E], segments [T], partials.
// Dispatch: PARTIALS · ceil(lanes / THREADS) workgroups, partial sums in the outer order.
// Tiles and numerics: as norm_parameter_gradient.wgsl.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  partials: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> gradient: array<L1>;
@group(0) @binding(2) var<storage, read> segments: array<u32>;
@group(0) @binding(3) var<storage, read_write> partials: array<Lane>;

var<workgroup> sums: array<array<Lane, 2>, WIDTH>;

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

  var first = Lane(0.0);
  var second = Lane(0.0);
  for (var row = block * per_block + local / THREADS; row < end; row += ROWS) {
    let g = Lane(gradient[row * lanes + lane]);
    if (segments[row] == 0u) {
      first += g;
    } else {
      second += g;
    }
  }
  sums[local][0] = first;
  sums[local][1] = second;
  for (var stride = WIDTH / 2u; stride >= THREADS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      sums[local][0] += sums[local + stride][0];
      sums[local][1] += sums[local + stride][1];
    }
  }
  if (local < THREADS && lane < lanes) {
    partials[block * 2u * lanes + lane] = sums[local][0];
    partials[block * 2u * lanes + lanes + lane] = sums[local][1];
  }
}
