// sum [T, E] = word[ids] + position[positions] + segment[segments]; norm_forward.wgsl normalises it.
//
// Bindings: ids [T], positions [T], segments [T], word [V, E], position [P, E], segment [2, E], sum.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, a lane of 4 channels each (1 where E does not divide by 4: VEC 0), so that table
// rows are read in contiguous pieces.
// Numerics: f32, (word + position) + segment.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> segments: array<u32>;
@group(0) @binding(4) var<storage, read> word: array<Lane>;
@group(0) @binding(5) var<storage, read> position: array<Lane>;
@group(0) @binding(6) var<storage, read> segment: array<Lane>;
@group(0) @binding(7) var<storage, read_write> sum: array<L7>;

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
  let word_at = ids[row] * lanes;
  let position_at = positions[row] * lanes;
  let segment_at = segments[row] * lanes;
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    sum[row * lanes + lane] = L7(word[word_at + lane] + position[position_at + lane] + segment[segment_at + lane]);
  }
}
