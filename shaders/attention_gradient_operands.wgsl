// dO and the gradient of qkv, vector by vector; needs context_gradient and qkv_gradient, and the types of the latter.

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_context_gradient(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(context_gradient[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(context_gradient[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(context_gradient[begin + 1u]); }
  if count > 2u { v.z = f32(context_gradient[begin + 2u]); }
  if count > 3u { v.w = f32(context_gradient[begin + 3u]); }
  return v;
#endif
}

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
