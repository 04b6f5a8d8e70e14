// The context as forward writes it: binding 3.

fn store_context(at: u32, c: u32, v: vec4<f32>) {
#if VECTOR
  context[at / 4u + c] = V3(v);
#else
  let to = at + 4u * c;
  let count = HEAD_SIZE - 4u * c;
  context[to] = T3(v.x);
  if count > 1u { context[to + 1u] = T3(v.y); }
  if count > 2u { context[to + 2u] = T3(v.z); }
  if count > 3u { context[to + 3u] = T3(v.w); }
#endif
}
