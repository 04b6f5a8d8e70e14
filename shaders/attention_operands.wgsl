// Operands of all kernels but those that only add up: queries, keys and values at binding 1; needs HEAD_SIZE and VECTOR.

#include attention_block

#if VECTOR
@group(0) @binding(1) var<storage, read> qkv: array<V1>;
#else
@group(0) @binding(1) var<storage, read> qkv: array<T1>;
#endif

const SCORE_SCALE: f32 = inverseSqrt(f32(HEAD_SIZE));

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_qkv(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(qkv[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(qkv[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(qkv[begin + 1u]); }
  if count > 2u { v.z = f32(qkv[begin + 2u]); }
  if count > 3u { v.w = f32(qkv[begin + 3u]); }
  return v;
#endif
}
