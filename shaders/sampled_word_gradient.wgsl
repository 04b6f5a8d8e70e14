// table [V, E]: table[sampled[m]] += gradient[masked_rows[m]] over the masked slots m in use. The ids were drawn on
// the device, so no list by id exists: the workgroup of the first slot with an id adds all slots with that id, the
// workgroups of later ones end.
//
// Bindings: gradient [T, E], table, sampled [M], masked_rows [M].
// Dispatch: one workgroup for each masked slot in use.
// Search: a window of WIDTH·32 slots at a time; every thread compares some, and marks equal ones in a bit mask.
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
@group(0) @binding(3) var<storage, read> sampled: array<u32>;
@group(0) @binding(4) var<storage, read> masked_rows: array<u32>;

// Slots of one window that have the workgroup's id, a bit each, and one more than the last word with a bit.
var<workgroup> equal: array<atomic<u32>, WIDTH>;
var<workgroup> words: atomic<u32>;
// 1 where a slot before the workgroup's own has its id.
var<workgroup> earlier: atomic<u32>;

#include lane_total

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let slot = workgroup_index(group, groups);
  let slots = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  if (slot >= slots) {
    return;
  }
  let id = sampled[slot];
  if (local == 0u) {
    atomicStore(&earlier, 0u);
  }
  workgroupBarrier();
  for (var other = local; other < slot; other += WIDTH) {
    if (sampled[other] == id) {
      atomicStore(&earlier, 1u);
    }
  }
  workgroupBarrier();
  // The same for all threads: nothing writes it any more.
  if (atomicLoad(&earlier) != 0u) {
    return;
  }

  let lanes = immediates.columns / LANE;
  for (var window = slot; window < slots; window += WIDTH * 32u) {
    workgroupBarrier();
    atomicStore(&equal[local], 0u);
    if (local == 0u) {
      atomicStore(&words, 0u);
    }
    workgroupBarrier();
    for (var i = 0u; i < 32u; i++) {
      let place = i * WIDTH + local;
      if (window + place < slots && sampled[window + place] == id) {
        atomicOr(&equal[place / 32u], 1u << (place % 32u));
        atomicMax(&words, place / 32u + 1u);
      }
    }
    workgroupBarrier();
    let word_count = atomicLoad(&words);
    for (var first = 0u; first < lanes; first += THREADS) {
      let lane = first + local % THREADS;
      var sum = Lane(0.0);
      if (lane < lanes) {
        var number = 0u;
        for (var word = 0u; word < word_count; word++) {
          var bits = atomicLoad(&equal[word]);
          while (bits != 0u) {
            let bit = firstTrailingBit(bits);
            bits &= bits - 1u;
            // The threads of a lane take turns.
            if (number % ROWS == local / THREADS) {
              sum += Lane(gradient[masked_rows[window + word * 32u + bit] * lanes + lane]);
            }
            number++;
          }
        }
      }
      sum = lane_total(sum, local);
      if (local < THREADS && lane < lanes) {
        table[id * lanes + lane] += sum;
      }
    }
  }
}
