// Adds up the partial sums of a product whose rows are split (matmul_*.wgsl with SPLIT, FORM 1):
//   C[m,n] = Σ_s partials[s, 0 .. m·n], m rows in use. (Those of FORM 2 are sum_partials.wgsl's.)
//
// Bindings: 1 partials [splits, m·n], 2 C.
// Dispatch: one thread for each element, 256 a workgroup: it is bound by memory, and adjacent threads read
//   adjacent elements.
// Numerics: f32, the splits in order.

#include matmul_immediates

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<T2>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let m = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let product = m * immediates.n;
  let element = workgroup_index(group, groups) * 256u + thread;
  if element >= product {
    return;
  }
  var sum = 0.0;
  for (var split = 0u; split < immediates.splits; split++) {
    sum += partials[split * product + element];
  }
  c[immediates.first_c + element] = T2(sum);
}
