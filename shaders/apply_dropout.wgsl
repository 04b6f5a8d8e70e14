// output [R, C] = input [R, C] × factor, each factor 0 or the scale; a copy where DROPOUT is 0.
//
// Bindings: input, output; positions [R] and sequences [R] where DROPOUT is 1.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where C does not divide by 4: VEC 0), so
// that reads and writes are contiguous and, with VEC, one block of draws serves one lane.
// Numerics: one product an element; draws by (site, sequence, position, channel), as norm_forward's.

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

@group(0) @binding(1) var<storage, read> input: array<L1>;
@group(0) @binding(2) var<storage, read_write> output: array<L2>;
#if DROPOUT
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> sequences: array<u32>;

#include lane_dropout
#endif

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
#if DROPOUT
  let key = sequence_key(immediates.site, sequences[row]);
  let position = positions[row];
#endif
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    var value = Lane(input[row * lanes + lane]);
#if DROPOUT
    value *= factors(key, position, lane);
#endif
    output[row * lanes + lane] = L2(value);
  }
}
