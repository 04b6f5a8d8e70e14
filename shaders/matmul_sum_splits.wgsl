// Adds up the partial sums of a product whose rows are split (matmul_*.wgsl with SPLIT, FORM 0 or 1), and does what follows:
//   C[m,n] = Σ_s partials[s, 0 .. m·n], m rows in use, through the epilogue (EPILOGUE, as in matmul_tiled.wgsl). (Those of
//   FORM 2 are sum_partials.wgsl's.)
//
// Bindings: 1 partials [splits, m·n], 2 C, 3 bias, before or residual, 4 before (EPILOGUE 2).
// Dispatch: one thread for each element, 256 a workgroup: it is bound by memory, and adjacent threads read
//   adjacent elements. Sixteen parts are read at a time, what is left four at a time: one read after the other, a hundred
//   parts would take a hundred latencies.
// Numerics: f32, the splits in order.

#include matmul_immediates

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<T2>;
#if EPILOGUE == 1
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif
#if EPILOGUE == 2
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> before: array<T4>;
alias Before = T4;
#endif
#if EPILOGUE == 3
@group(0) @binding(3) var<storage, read_write> before: array<T3>;
alias Before = T3;
#endif
#if EPILOGUE == 4
@group(0) @binding(3) var<storage, read> residual: array<T3>;
#endif
alias Result = T2;

#include matmul_scalar_epilogue

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
  var split = 0u;
  for (; split + 16u <= immediates.splits; split += 16u) {
#for P 16
    let part_$P = partials[(split + $Pu) * product + element];
#end
#for P 16
    sum += part_$P;
#end
  }
  let last = immediates.splits - 1u;
  for (; split < immediates.splits; split += 4u) {
#for P 4
    let part_$P = partials[min(split + $Pu, last) * product + element];
#end
#for P 4
    sum += select(0.0, part_$P, split + $Pu <= last);
#end
  }
  follow(immediates.first_c + element, element, element % immediates.n, sum);
}
