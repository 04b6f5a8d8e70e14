// Each token beside the chosen one of its sequence: output [T, 2H], output[t] = hidden[starts[b] + chosen[b]] ‖
// hidden[t], b = sequence_of_row[t].
//
// Bindings: hidden [T, H], starts [B + 1], chosen [B], sequence_of_row [T], output.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where H does not divide by 4: VEC 0), so
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

@group(0) @binding(1) var<storage, read> hidden: array<L1>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> chosen: array<u32>;
@group(0) @binding(4) var<storage, read> sequence_of_row: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<L5>;

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
  let sequence = sequence_of_row[row];
  let chosen_row = starts[sequence] + chosen[sequence];
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    output[row * 2u * lanes + lane] = L5(Lane(hidden[chosen_row * lanes + lane]));
    output[row * 2u * lanes + lanes + lane] = L5(Lane(hidden[row * lanes + lane]));
  }
}
