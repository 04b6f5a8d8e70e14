// Attention backward from registers alone, second kernel: the gradients of keys and values; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dv = dropout(P)ᵀ·dO,
//   dS = P∘(dropout(dO·vᵀ) − delta), dk = dSᵀ·q/√HEAD_SIZE.
// dO is the gradient of the context; delta comes from the first kernel (attention_gradient_query_*).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 log_sum_exp [T, NH], 4 context_gradient [T, H], 5 delta [T, NH],
//   6 qkv_gradient [T, 3H] (the columns of key and value are written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: none. Each of 64 threads holds one key with its sums in registers and walks over the queries of its
//   sequence; all threads of a workgroup read the same queries at a time. No barriers, no workgroup
//   memory: for software adapters, and right on every other.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, queries in order.

@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>;
#if VECTOR
@group(0) @binding(4) var<storage, read> context_gradient: array<V4>;
#else
@group(0) @binding(4) var<storage, read> context_gradient: array<T4>;
#endif
@group(0) @binding(5) var<storage, read> delta: array<f32>;
alias GradientVector = V6;
alias GradientNumber = T6;
#if VECTOR
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<V6>;
#else
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<T6>;
#endif

#include attention_operands
#include attention_gradient_operands

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let block = own_block(group, groups, 64u);
  let head = block.head;
  let start = block.start;
  let length = block.length;
  let own = block.first + local;
  if own >= length { return; }
  let draws = sequence_key(immediates.site, block.sequence);
  let row = start + own;
  var key: array<vec4<f32>, D4>;
  var value: array<vec4<f32>, D4>;
  var key_out: array<vec4<f32>, D4>;
  var value_out: array<vec4<f32>, D4>;
  for (var c = 0u; c < D4; c++) {
    key[c] = load_qkv(qkv_at(row, 1u, head), c) * SCORE_SCALE;
    value[c] = load_qkv(qkv_at(row, 2u, head), c);
  }
  for (var query = 0u; query < length; query++) {
    let begin = qkv_at(start + query, 0u, head);
    let upstream_at = context_at(start + query, head);
    var s = 0.0;
    var g = 0.0;
    for (var c = 0u; c < D4; c++) {
      s += dot(key[c], load_qkv(begin, c));
      g += dot(value[c], load_context_gradient(upstream_at, c));
    }
    let at = (start + query) * immediates.heads + head;
    let probability = exp(s - log_sum_exp[at]);
    var factor = 1.0;
    if immediates.threshold != 0u {
      // Four neighbouring threads draw the same block; each keeps its own quarter.
      let factors =
        dropout_factors(draws, (head << 16u) | query, own / 4u, immediates.threshold, immediates.scale);
      factor = factors[own % 4u];
    }
    let kept = probability * factor;
    g = probability * (g * factor - delta[at]) * SCORE_SCALE;
    for (var c = 0u; c < D4; c++) {
      value_out[c] += kept * load_context_gradient(upstream_at, c);
      key_out[c] += g * load_qkv(begin, c);
    }
  }
  for (var c = 0u; c < D4; c++) {
    store_qkv_gradient(qkv_at(row, 1u, head), c, key_out[c]);
    store_qkv_gradient(qkv_at(row, 2u, head), c, value_out[c]);
  }
}
