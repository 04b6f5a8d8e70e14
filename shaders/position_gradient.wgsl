// table [P, E]: table[p] += Σ gradient[starts[b] + p] over the sequences b longer than p.
//
// Bindings: gradient [T, E], table, starts [B + 1] (first row of each sequence).
// Dispatch: one workgroup for each position.
// Tiles: THREADS threads across a row, each a lane of 4 channels (1 where E does not divide by 4: VEC 0), and ROWS
// rows at a time. ROWS 1 is for software adapters: no barriers.
// Numerics: f32; a thread adds every ROWS-th row in order, then ROWS sums are added in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  positions: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> gradient: array<L1>;
@group(0) @binding(2) var<storage, read_write> table: array<Lane>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;

#include lane_total

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let position = workgroup_index(group, groups);
  if (position >= immediates.positions) {
    return;
  }
  let sequences = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let lanes = immediates.columns / LANE;
  for (var first = 0u; first < lanes; first += THREADS) {
    let lane = first + local % THREADS;
    var sum = Lane(0.0);
    if (lane < lanes) {
      for (var sequence = local / THREADS; sequence < sequences; sequence += ROWS) {
        let row = starts[sequence] + position;
        if (row < starts[sequence + 1u]) {
          sum += Lane(gradient[row * lanes + lane]);
        }
      }
    }
    sum = lane_total(sum, local);
    if (local < THREADS && lane < lanes) {
      table[position * lanes + lane] += sum;
    }
  }
}
