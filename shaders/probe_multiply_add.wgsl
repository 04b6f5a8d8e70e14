// A probe of the peak rate: output[i] = x after ROUNDS times x = a·x + b, from x = i / elements.
//
// Bindings: 1 output [N] (written).
// Dispatch: one workgroup for each 32·THREADS elements.
// Tiles: 8 vectors a thread, all in registers: 32 chains side by side, more than any unit is deep; four rounds
//   an iteration, so that the loop itself costs little.
// Numerics: f32; fused or not, as the device likes.

struct Immediates {
  elements: u32,
  rounds: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;

const A: vec4<f32> = vec4<f32>(0.999755859375);
const B: vec4<f32> = vec4<f32>(0.000244140625);

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  // Neighbours write neighbouring vectors.
  let first = workgroup_index(group, groups) * 8u * THREADS + local;
  if (first + 7u * THREADS) * 4u >= immediates.elements { return; }
  let factor = 1.0 / f32(immediates.elements);
  let step = vec4<f32>(f32(4u * THREADS) * factor);
  var x0 = (vec4<f32>(f32(4u * first)) + vec4<f32>(0.0, 1.0, 2.0, 3.0)) * factor;
  var x1 = x0 + step;
  var x2 = x1 + step;
  var x3 = x2 + step;
  var x4 = x3 + step;
  var x5 = x4 + step;
  var x6 = x5 + step;
  var x7 = x6 + step;
  for (var round = 0u; round < immediates.rounds; round += 4u) {
    for (var k = 0u; k < 4u; k++) {
      x0 = fma(x0, A, B);
      x1 = fma(x1, A, B);
      x2 = fma(x2, A, B);
      x3 = fma(x3, A, B);
      x4 = fma(x4, A, B);
      x5 = fma(x5, A, B);
      x6 = fma(x6, A, B);
      x7 = fma(x7, A, B);
    }
  }
  output[first] = x0;
  output[first + THREADS] = x1;
  output[first + 2u * THREADS] = x2;
  output[first + 3u * THREADS] = x3;
  output[first + 4u * THREADS] = x4;
  output[first + 5u * THREADS] = x5;
  output[first + 6u * THREADS] = x6;
  output[first + 7u * THREADS] = x7;
}
