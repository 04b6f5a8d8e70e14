// partials[first + block] = Σ of squares of 4,096 gradients.
//
// Dispatch: one workgroup of 256 a block; a thread sums 16 elements 256 apart, then a tree: errors stay small
// and the order is fixed.
struct Immediates {
  elements: u32,
  first: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let block = workgroup_index(group, groups);
  if block * 4096u >= immediates.elements {
    return;
  }
  var sum = 0.0;
  for (var i = 0u; i < 16u; i += 1u) {
    let at = block * 4096u + i * 256u + thread;
    if at < immediates.elements {
      let g = gradient[at];
      sum += g * g;
    }
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half /= 2u) {
    if thread < half {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if thread == 0u {
    partials[immediates.first + block] = sums[0];
  }
}
