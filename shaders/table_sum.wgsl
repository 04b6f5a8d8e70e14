// The sum of two tables, element by element over [R, C]: sum = base + delta.
//
// Bindings: base, delta, sum; all f32.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where C does not divide by 4: VEC 0), so
// that reads and writes are contiguous.
// Numerics: f32, one rounding.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> base: array<L1>;
@group(0) @binding(2) var<storage, read> delta: array<L2>;
@group(0) @binding(3) var<storage, read_write> sum: array<L3>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let row = workgroup_index(group, groups) * ROWS + local / THREADS;
  if (row >= rows) {
    return;
  }
  let lanes = immediates.columns / LANE;
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    let at = row * lanes + lane;
    sum[at] = base[at] + delta[at];
  }
}
