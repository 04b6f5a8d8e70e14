// Attention forward from registers alone: context [T, H] = dropout(softmax(q·kᵀ / √HEAD_SIZE))·v within each
// sequence and head, and log_sum_exp [T, NH] = ln Σ exp(score).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context (written), 4 log_sum_exp (written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: none. Each of 64 threads holds one query with its sums in registers and walks over the keys of its
//   sequence, four at a time (one block of draws); all threads of a workgroup read the same keys at a time. No
//   barriers, no workgroup memory: for software adapters, and right on every other.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32; running maximum and sum (online softmax), keys in order; keys beyond the end get MASKED_SCORE.

#if VECTOR
@group(0) @binding(3) var<storage, read_write> context: array<V3>;
#else
@group(0) @binding(3) var<storage, read_write> context: array<T3>;
#endif
@group(0) @binding(4) var<storage, read_write> log_sum_exp: array<f32>;

#include attention_operands
#include attention_context_store

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
  var query: array<vec4<f32>, D4>;
  var out: array<vec4<f32>, D4>;
  for (var c = 0u; c < D4; c++) {
    query[c] = load_qkv(qkv_at(start + own, 0u, head), c) * SCORE_SCALE;
  }
  var highest = MASKED_SCORE;
  var sum = 0.0;
  for (var key = 0u; key < length; key += 4u) {
    // Keys beyond the end: the last one again, masked below.
    let rows = start + min(vec4<u32>(key, key + 1u, key + 2u, key + 3u), vec4<u32>(length - 1u));
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    let at = vec4<u32>(qkv_at(0u, 1u, head)) + rows * (3u * immediates.heads * HEAD_SIZE);
    var s = vec4<f32>(0.0);
    for (var c = 0u; c < D4; c++) {
      let q = query[c];
      s += vec4<f32>(
        dot(q, load_qkv(at.x, c)), dot(q, load_qkv(at.y, c)),
        dot(q, load_qkv(at.z, c)), dot(q, load_qkv(at.w, c)));
    }
    s = select(vec4<f32>(MASKED_SCORE), s, exists);
    let top = max(max(max(s.x, s.y), max(s.z, s.w)), highest);
    let correction = exp(highest - top);
    highest = top;
    s = exp(s - top);
    sum = sum * correction + ((s.x + s.y) + (s.z + s.w));
    if immediates.threshold != 0u {
      let row = (head << 16u) | own;
      s *= dropout_factors(draws, row, key / 4u, immediates.threshold, immediates.scale);
    }
    // The value's part begins H elements after the key's.
    let begin = at + immediates.heads * HEAD_SIZE;
    for (var c = 0u; c < D4; c++) {
      out[c] = out[c] * correction + s.x * load_qkv(begin.x, c) + s.y * load_qkv(begin.y, c)
        + s.z * load_qkv(begin.z, c) + s.w * load_qkv(begin.w, c);
    }
  }
  let row = start + own;
  for (var c = 0u; c < D4; c++) {
    store_context(context_at(row, head), c, out[c] / sum);
  }
  log_sum_exp[row * immediates.heads + head] = highest + ln_positive(sum);
}
