// One vector a sequence: output [B, 2H] = hidden[first row] ‖ Σ_t p_t · hidden[t], p the softmax of the logits over
// the allowed tokens of the sequence; statistics [B, 2] = (largest logit, Σ exp(logit − largest)). Where no token
// is allowed, the sum and the statistics are 0.
//
// Bindings: hidden [T, H], logits [T], allowed [T], starts [B + 1], output, statistics.
// Dispatch: per sequence, `blocks` workgroups of THREADS lanes of channels each. Every one computes the softmax for
// itself, some hundred numbers, which is cheaper than a second dispatch; the first of a sequence keeps it.
// Tiles: THREADS lanes of a row by ROWS rows at a time: with few sequences, enough threads to hide memory's
// latency. A lane is 4 channels where H divides by 4 (VEC), else 1.
// Numerics: f32; the largest allowed logit is taken off before exp; a thread adds every ROWS-th row in order, then
// ROWS sums in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  blocks: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> hidden: array<L1>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> allowed: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<L5>;
@group(0) @binding(6) var<storage, read_write> statistics: array<vec2<f32>>;

var<workgroup> values: array<f32, WIDTH>;
var<workgroup> sums: array<Lane, WIDTH>;

// The largest of the threads' values, given to all of them.
fn workgroup_largest(local: u32, value: f32) -> f32 {
  values[local] = value;
  for (var stride = WIDTH / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      values[local] = max(values[local], values[local + stride]);
    }
  }
  workgroupBarrier();
  let result = values[0];
  workgroupBarrier();
  return result;
}

// The sum of the threads' values, given to all of them.
fn workgroup_total(local: u32, value: f32) -> f32 {
  values[local] = value;
  for (var stride = WIDTH / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      values[local] += values[local + stride];
    }
  }
  workgroupBarrier();
  return values[0];
}

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let sequence = workgroup_index(group, groups) / immediates.blocks;
  let block = workgroup_index(group, groups) % immediates.blocks;
  if (sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let first = starts[sequence];
  let end = starts[sequence + 1u];

  var top = MASKED_SCORE;
  for (var row = first + local; row < end; row += WIDTH) {
    if (allowed[row] != 0u) {
      top = max(top, logits[row]);
    }
  }
  let largest = workgroup_largest(local, top);
  var part = 0.0;
  for (var row = first + local; row < end; row += WIDTH) {
    if (allowed[row] != 0u) {
      part += exp(logits[row] - largest);
    }
  }
  let total = workgroup_total(local, part);
  var inverse = 0.0;
  if (total > 0.0) {
    inverse = 1.0 / total;
  }

  let lanes = immediates.columns / LANE;
  let lane = block * THREADS + local % THREADS;
  // Threads beyond the last lane have no rows, and follow along for the barriers.
  let last = select(first, end, lane < lanes);
  var sum = Lane(0.0);
  for (var row = first + local / THREADS; row < last; row += ROWS) {
    if (allowed[row] != 0u) {
      sum += exp(logits[row] - largest) * inverse * Lane(hidden[row * lanes + lane]);
    }
  }
  sums[local] = sum;
  for (var stride = WIDTH / 2u; stride >= THREADS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      sums[local] += sums[local + stride];
    }
  }
  if (local < THREADS && lane < lanes) {
    output[sequence * 2u * lanes + lane] = L5(Lane(hidden[first * lanes + lane]));
    output[sequence * 2u * lanes + lanes + lane] = L5(sums[local]);
  }
  if (local == 0u && block == 0u) {
    statistics[sequence] = select(vec2<f32>(0.0), vec2<f32>(largest, total), total > 0.0);
  }
}
