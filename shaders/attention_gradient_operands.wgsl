// dO and the gradient of qkv, vector by vector; needs context_gradient, and what attention_gradient_store does.

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

#include attention_gradient_store
