// output = LayerNorm(sum)·weight + bias over rows of C channels, with what surrounds it.
//   RESIDUAL 1: sum [R, C] = residual [R, C] + dropout(input [R, C]), left in `input` for backward;
//   RESIDUAL 0: sum is `input`, only read.
//   DROPOUT 0: none; 1: of input (needs RESIDUAL 1); 2: of output (the embeddings).
// Also writes statistics [R, 2]: mean and 1/σ of each row.
//
// Bindings: input, weight [C], bias [C], statistics, output; residual where RESIDUAL is 1; positions [R] and
// sequences [R] where DROPOUT is not 0.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, each with PER_THREAD lanes kept in registers, so that a row is read from memory
// once; a lane is 4 channels where C divides by 4 (VEC), else 1. THREADS·ROWS is 64, one wave on AMD, where
// barriers then cost next to nothing. THREADS 1 is for software adapters: no barriers at all.
// Numerics: f32; variance in two passes; partial sums are added in a fixed tree.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  epsilon: f32,
  threshold: u32,
  scale: f32,
  site: u32,
}
var<immediate> immediates: Immediates;

#if RESIDUAL
@group(0) @binding(1) var<storage, read_write> input: array<L1>;
@group(0) @binding(6) var<storage, read> residual: array<L6>;
#else
@group(0) @binding(1) var<storage, read> input: array<L1>;
#endif
@group(0) @binding(2) var<storage, read> weight: array<Lane>;
@group(0) @binding(3) var<storage, read> bias: array<Lane>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> output: array<L5>;
#if DROPOUT
#if RESIDUAL
@group(0) @binding(7) var<storage, read> positions: array<u32>;
@group(0) @binding(8) var<storage, read> sequences: array<u32>;
#else
@group(0) @binding(6) var<storage, read> positions: array<u32>;
@group(0) @binding(7) var<storage, read> sequences: array<u32>;
#endif

#include lane_dropout
#endif

#include row_total

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let first_row = workgroup_index(group, groups) * ROWS;
  if (first_row >= rows) {
    return;
  }
  let thread = local % THREADS;
  // Threads beyond the last row follow along for the barriers, and touch no memory.
  let row = min(first_row + local / THREADS, rows - 1u);
  let lanes = select(0u, immediates.columns / LANE, first_row + local / THREADS < rows);
  let start = row * (immediates.columns / LANE);
#if DROPOUT
  let key = sequence_key(immediates.site, sequences[row]);
  let position = positions[row];
#endif

  var x: array<Lane, PER_THREAD>;
  var sum = 0.0;
  for (var i = 0u; i < PER_THREAD; i++) {
    let lane = thread + i * THREADS;
    if (lane < lanes) {
      var value = Lane(input[start + lane]);
#if DROPOUT == 1
      value *= factors(key, position, lane);
#endif
#if RESIDUAL
      value += Lane(residual[start + lane]);
      input[start + lane] = L1(value);
#endif
      x[i] = value;
      sum += total(value);
    }
  }
  let count = f32(immediates.columns);
  let mean = row_total(sum, local) / count;

  var squares = 0.0;
  for (var i = 0u; i < PER_THREAD; i++) {
    if (thread + i * THREADS < lanes) {
      let deviation = x[i] - mean;
      squares += total(deviation * deviation);
    }
  }
  let inverse_deviation = 1.0 / sqrt(row_total(squares, local) / count + immediates.epsilon);

  for (var i = 0u; i < PER_THREAD; i++) {
    let lane = thread + i * THREADS;
    if (lane < lanes) {
      var value = (x[i] - mean) * inverse_deviation * weight[lane] + bias[lane];
#if DROPOUT == 2
      value *= factors(key, position, lane);
#endif
      output[start + lane] = L5(value);
    }
  }
  if (thread == 0u && lanes > 0u) {
    statistics[row] = vec2<f32>(mean, inverse_deviation);
  }
}
