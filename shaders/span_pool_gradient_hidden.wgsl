// Backward of span_pool to the hidden rows: hidden_gradient[t] = p_t · g_pool, and g_first besides at the
// first row of a sequence, with g_first ‖ g_pool its row of the output's gradient. p is 0 where not allowed.
//
// Bindings: logits [T], allowed [T], starts [B + 1], statistics [B, 2], output_gradient [B, 2H], hidden_gradient
// [T, H].
// Dispatch: SPLITS workgroups a sequence, each with every SPLITS-th group of ROWS rows: few sequences fill a GPU.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where H does not divide by 4: VEC 0), so
// that writes are contiguous.
// Numerics: f32; p from the largest logit and the sum that forward left.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> allowed: array<u32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> output_gradient: array<L5>;
@group(0) @binding(6) var<storage, read_write> hidden_gradient: array<L6>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let sequence = workgroup_index(group, groups) / SPLITS;
  let split = workgroup_index(group, groups) % SPLITS;
  if (sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let first = starts[sequence];
  let end = starts[sequence + 1u];
  let lanes = immediates.columns / LANE;
  let own = sequence * 2u * lanes;
  let pooled = own + lanes;
  for (var row = first + split * ROWS + local / THREADS; row < end; row += SPLITS * ROWS) {
    var probability = 0.0;
    if (allowed[row] != 0u) {
      probability = exp(logits[row] - statistics[sequence].x) / statistics[sequence].y;
    }
    for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
      var value = probability * Lane(output_gradient[pooled + lane]);
      if (row == first) {
        value += Lane(output_gradient[own + lane]);
      }
      hidden_gradient[row * lanes + lane] = L6(value);
    }
  }
}
