// Adds the partial sums of replaced_token_gradient up, in order: weight_gradient += Σ, bias_gradient += Σ.
//
// partials [PARTIALS, H + 1]; weight_gradient [H], bias_gradient [1].
// Dispatch: one thread a column, 64 a workgroup; neighbouring threads read neighbouring columns.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> weight_gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> bias_gradient: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let column = workgroup_index(group, groups) * 64u + thread;
  let columns = immediates.columns;
  if column > columns {
    return;
  }
  var sum = 0.0;
  for (var part = 0u; part < PARTIALS; part += 1u) {
    sum += partials[part * (columns + 1u) + column];
  }
  if column == columns {
    bias_gradient[0] += sum;
  } else {
    weight_gradient[column] += sum;
  }
}
