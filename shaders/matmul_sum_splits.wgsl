// Adds up the partial sums of a split product (matmul_*.wgsl with SPLIT):
//   FORM 1: C[m,n] = Σ_s partials[s, 0 .. m·n], m rows in use;
//   FORM 2: C[m,n] += the same, m = inner, and with BIAS_GRADIENT
//           bias_gradient[m] += Σ_s partials[s, m·n .. m·n + m].
//
// Bindings: 1 partials [splits, m·n (+ m in form 2)], 2 C, 3 bias_gradient [m].
// Dispatch: one thread for each element, 256 a workgroup: it is bound by memory, and adjacent threads read
//   adjacent elements.
// Numerics: f32, the splits in order.

#include matmul_immediates

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<T2>;
#if BIAS_GRADIENT
@group(0) @binding(3) var<storage, read_write> bias_gradient: array<f32>;
#endif

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
#if FORM == 2
  let m = immediates.inner;
  let product = m * immediates.n;
  let stride = product + m;
#else
  let m = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let product = m * immediates.n;
  let stride = product;
#endif
  let element = workgroup_index(group, groups) * 256u + thread;
#if BIAS_GRADIENT
  let elements = stride;
#else
  let elements = product;
#endif
  if element >= elements {
    return;
  }
  var sum = 0.0;
  for (var split = 0u; split < immediates.splits; split++) {
    sum += partials[split * stride + element];
  }
  if element < product {
#if FORM == 2
    c[immediates.first_c + element] += T2(sum);
#else
    c[immediates.first_c + element] = T2(sum);
#endif
  }
#if BIAS_GRADIENT
  if element >= product {
    bias_gradient[element - product] += sum;
  }
#endif
}
