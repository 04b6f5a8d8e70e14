// The context that forward left; needs it as binding 3.

// Columns 4c..4c+3 of the head whose first element is `at`; zeros beyond its end.
fn load_context(at: u32, c: u32) -> vec4<f32> {
#if VECTOR
  return vec4<f32>(context[at / 4u + c]);
#else
  let begin = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  var v = vec4<f32>(f32(context[begin]), 0.0, 0.0, 0.0);
  if count > 1u { v.y = f32(context[begin + 1u]); }
  if count > 2u { v.z = f32(context[begin + 2u]); }
  if count > 3u { v.w = f32(context[begin + 3u]); }
  return v;
#endif
}
