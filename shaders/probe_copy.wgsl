// A probe of the memory's rate: output = input over [N, 4].
//
// Bindings: 1 input, 2 output (written).
// Dispatch: one workgroup for each 4·THREADS rows.
// Tiles: 4 vectors a thread; neighbours read and write neighbouring vectors.

struct Immediates {
  rows: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let first = workgroup_index(group, groups) * 4u * THREADS + local;
  for (var k = 0u; k < 4u; k++) {
    let row = first + k * THREADS;
    if row < immediates.rows { output[row] = input[row]; }
  }
}
