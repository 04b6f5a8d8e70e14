// The discriminator's input: ids[t] = sampled[slot] at masked slots, else input_ids[t]; labels[t] = replaced.
//
// input_ids, slots, ids, labels [T]; sampled, masked_ids [M].
// Dispatch: one thread a row, 64 a workgroup: the work is a look-up, and neighbouring rows read neighbouring words.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> input_ids: array<u32>;
@group(0) @binding(2) var<storage, read> slots: array<u32>;
@group(0) @binding(3) var<storage, read> sampled: array<u32>;
@group(0) @binding(4) var<storage, read> masked_ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> labels: array<u32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = workgroup_index(group, groups) * 64u + thread;
  if row >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity) {
    return;
  }
  let slot = slots[row];
  if slot >= PADDING {
    // No slot, or padding, which does not count.
    ids[row] = input_ids[row];
    labels[row] = select(IGNORED, 0u, slot == NO_SLOT);
  } else {
    ids[row] = sampled[slot];
    labels[row] = select(0u, 1u, sampled[slot] != masked_ids[slot]);
  }
}
