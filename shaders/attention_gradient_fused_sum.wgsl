// Attention backward in one pass, second of two kernels: the gradients of keys and values from the partial sums that
// attention_gradient_fused left.
//
// Bindings: 1 partials [T, parts, 2 (key, value), NH, D4], 2 starts, 3 qkv_gradient [T, 3H] (the columns of key and value
//   are written).
// Dispatch: one workgroup of 256 threads for each sequence, head and block of 64 rows (of max_length), a vector of the
//   head each and step.
// Constants: HEAD_SIZE, VECTOR and TILES as there: a part is TILES · 64 queries of a sequence.
// Numerics: f32, parts in order.

@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>;
alias GradientVector = V3;
alias GradientNumber = T3;
#if VECTOR
@group(0) @binding(3) var<storage, read_write> qkv_gradient: array<V3>;
#else
@group(0) @binding(3) var<storage, read_write> qkv_gradient: array<T3>;
#endif

const BLOCK: u32 = 64u;
const ROWS: u32 = 64u * TILES;

#include attention_block
#include attention_gradient_store

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let block = own_block(group, groups, BLOCK);
  if block.first >= block.length { return; }
  let parts = (immediates.max_length + ROWS - 1u) / ROWS;
  let written = (block.length + ROWS - 1u) / ROWS;
  let step = 2u * immediates.heads * D4;
  for (var i = local; i < 2u * BLOCK * D4; i += 256u) {
    let own = block.first + i / (2u * D4);
    if own >= block.length { break; }
    let row = block.start + own;
    let value = i / D4 % 2u;
    let c = i % D4;
    let at = ((row * parts * 2u + value) * immediates.heads + block.head) * D4 + c;
    var sum = partials[at];
    for (var part = 1u; part < written; part++) { sum += partials[at + part * step]; }
    store_qkv_gradient(qkv_at(row, 1u + value, block.head), c, sum);
  }
}
