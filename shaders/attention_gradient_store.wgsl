// The gradient of qkv, vector by vector; needs qkv_gradient, and its types.

// Columns 4c..4c+3 of the head whose first element is `at`; what lies beyond its end is left out.
fn store_qkv_gradient(at: u32, c: u32, v: vec4<f32>) {
#if VECTOR
  qkv_gradient[at / 4u + c] = GradientVector(v);
#else
  let to = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  qkv_gradient[to] = GradientNumber(v.x);
  if count > 1u { qkv_gradient[to + 1u] = GradientNumber(v.y); }
  if count > 2u { qkv_gradient[to + 2u] = GradientNumber(v.z); }
  if count > 3u { qkv_gradient[to + 3u] = GradientNumber(v.w); }
#endif
}
