// GELU in its exact form, element by element over [R, C].
//   GRADIENT 0: output = gelu(input);
//   GRADIENT 1: output = output_gradient·gelu′(input).
//
// Bindings: input, output; output_gradient where GRADIENT is 1.
// Dispatch: one workgroup for each ROWS rows of the output.
// Tiles: THREADS threads a row, each a lane of 4 channels at a time (1 where C does not divide by 4: VEC 0), so
// that reads and writes are contiguous.
// Numerics: f32, Φ and φ of the prelude.

#include lanes

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> input: array<L1>;
@group(0) @binding(2) var<storage, read_write> output: array<L2>;
#if GRADIENT
@group(0) @binding(3) var<storage, read> output_gradient: array<L3>;
#endif

fn element(x: f32) -> f32 {
#if GRADIENT
  return gelu_derivative(x);
#else
  return gelu(x);
#endif
}

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
  for (var lane = local % THREADS; lane < lanes; lane += THREADS) {
    let at = row * lanes + lane;
    let x = Lane(input[at]);
#if VEC
    var value = Lane(element(x.x), element(x.y), element(x.z), element(x.w));
#else
    var value = element(x);
#endif
#if GRADIENT
    value *= Lane(output_gradient[at]);
#endif
    output[at] = L2(value);
  }
}
