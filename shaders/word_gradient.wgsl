// table [V, E]: table[id] += Σ gradient[row] over the rows listed for id; the batch brings the lists, by id.
//
// Bindings: gradient [T, E], table, ids [T] (the distinct ids, then NO_ID), starts [T + 1] (where each id's
// rows start in list), list [T].
// Dispatch: one workgroup for each token: the first of them have an id to do, the rest end at once.
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
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> gradient: array<L1>;
@group(0) @binding(2) var<storage, read_write> table: array<Lane>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read> list: array<u32>;

#include lane_total

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let index = workgroup_index(group, groups);
  if (index >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let id = ids[index];
  if (id == NO_ID) {
    return;
  }
  let lanes = immediates.columns / LANE;
  let end = starts[index + 1u];
  for (var first = 0u; first < lanes; first += THREADS) {
    let lane = first + local % THREADS;
    var sum = Lane(0.0);
    if (lane < lanes) {
      var i = starts[index] + local / THREADS;
      // Four rows on their way at a time: frequent ids have thousands, and one workgroup to wait for them.
      for (; i + 3u * ROWS < end; i += 4u * ROWS) {
        let a = Lane(gradient[list[i] * lanes + lane]);
        let b = Lane(gradient[list[i + ROWS] * lanes + lane]);
        let c = Lane(gradient[list[i + 2u * ROWS] * lanes + lane]);
        let d = Lane(gradient[list[i + 3u * ROWS] * lanes + lane]);
        sum += (a + b) + (c + d);
      }
      for (; i < end; i += ROWS) {
        sum += Lane(gradient[list[i] * lanes + lane]);
      }
    }
    sum = lane_total(sum, local);
    if (local < THREADS && lane < lanes) {
      table[id * lanes + lane] += sum;
    }
  }
}
