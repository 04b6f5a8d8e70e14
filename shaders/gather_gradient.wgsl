// output [T, C]: output[t] = gradient[slots[t]], or 0 where row t is in no slot (NO_SLOT, or padding).
//
// Bindings: gradient [M, C], slots [T], output.
// Dispatch: one workgroup for each ROWS rows of the output.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where C does not divide by 4: VEC 0), so
// that reads and writes are contiguous.
// Numerics: a copy.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> gradient: array<L1>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<L3>;

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
  let slot = slots[row];
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    var value = Lane(0.0);
    // PADDING is the lowest that is no slot.
    if (slot < PADDING) {
      value = Lane(gradient[slot * lanes + lane]);
    }
    output[row * lanes + lane] = L3(value);
  }
}
