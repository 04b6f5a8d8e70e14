// Attention backward from registers alone, first kernel: the gradient of the queries, and delta [T, NH] = row sums of
// dO∘O for the second (attention_gradient_key_value_*). O is the context, dO its gradient; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dS = P∘(dropout(dO·vᵀ) − delta), dq = dS·k/√HEAD_SIZE.
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context [T, H], 4 log_sum_exp [T, NH], 5 context_gradient [T, H], 6 delta (written),
//   7 qkv_gradient [T, 3H] (the query's columns are written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: none. Each of 64 threads holds one query with its sums in registers and walks over the keys of its
//   sequence, four at a time (one block of draws); all threads of a workgroup read the same keys at a time. No
//   barriers, no workgroup memory: for software adapters, and right on every other.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32, keys in order; P is 0 for keys beyond the end of the sequence. The sum of a row of dS is zero; what
//   rounding leaves of it is taken back: from dq times the first key (any would do), which is all that the part
//   common to the keys adds and early in training as large as dq itself; and from delta, for the second kernel.

#if VECTOR
@group(0) @binding(3) var<storage, read> context: array<V3>;
#else
@group(0) @binding(3) var<storage, read> context: array<T3>;
#endif
@group(0) @binding(4) var<storage, read> log_sum_exp: array<f32>;
#if VECTOR
@group(0) @binding(5) var<storage, read> context_gradient: array<V5>;
#else
@group(0) @binding(5) var<storage, read> context_gradient: array<T5>;
#endif
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
alias GradientVector = V7;
alias GradientNumber = T7;
#if VECTOR
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<V7>;
#else
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<T7>;
#endif

#include attention_operands
#include attention_context
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
  var query: array<vec4<f32>, D4>;
  var upstream: array<vec4<f32>, D4>;
  var out: array<vec4<f32>, D4>;
  var mean = 0.0;
  for (var c = 0u; c < D4; c++) {
    query[c] = load_qkv(qkv_at(row, 0u, head), c) * SCORE_SCALE;
    upstream[c] = load_context_gradient(context_at(row, head), c);
    mean += dot(upstream[c], load_context(context_at(row, head), c));
  }
  var rest = vec4<f32>(0.0);
  let shift = log_sum_exp[row * immediates.heads + head];
  for (var key = 0u; key < length; key += 4u) {
    // Keys beyond the end: the last one again, masked below.
    let rows = start + min(vec4<u32>(key, key + 1u, key + 2u, key + 3u), vec4<u32>(length - 1u));
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    let at = vec4<u32>(qkv_at(0u, 1u, head)) + rows * (3u * immediates.heads * HEAD_SIZE);
    // The value's part begins H elements after the key's.
    let begin = at + immediates.heads * HEAD_SIZE;
    var s = vec4<f32>(0.0);
    var g = vec4<f32>(0.0);
    for (var c = 0u; c < D4; c++) {
      let q = query[c];
      s += vec4<f32>(
        dot(q, load_qkv(at.x, c)), dot(q, load_qkv(at.y, c)),
        dot(q, load_qkv(at.z, c)), dot(q, load_qkv(at.w, c)));
      let u = upstream[c];
      g += vec4<f32>(
        dot(u, load_qkv(begin.x, c)), dot(u, load_qkv(begin.y, c)),
        dot(u, load_qkv(begin.z, c)), dot(u, load_qkv(begin.w, c)));
    }
    if immediates.threshold != 0u {
      g *= dropout_factors(draws, (head << 16u) | own, key / 4u, immediates.threshold, immediates.scale);
    }
    g = select(vec4<f32>(0.0), exp(s - shift), exists) * (g - mean) * SCORE_SCALE;
    rest += g;
    for (var c = 0u; c < D4; c++) {
      out[c] += g.x * load_qkv(at.x, c) + g.y * load_qkv(at.y, c) + g.z * load_qkv(at.z, c) + g.w * load_qkv(at.w, c);
    }
  }
  let residue = rest.x + rest.y + rest.z + rest.w;
  delta[row * immediates.heads + head] = mean + residue / SCORE_SCALE;
  for (var c = 0u; c < D4; c++) {
    store_qkv_gradient(qkv_at(row, 0u, head), c, out[c] - residue * load_qkv(qkv_at(start, 1u, head), c));
  }
}
