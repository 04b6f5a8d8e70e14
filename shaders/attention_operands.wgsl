// Where attention's operands lie, and how they are read; needs HEAD_SIZE, VECTOR, qkv and immediates.heads.

// First element of a head's part (0 query, 1 key, 2 value) in a row.
fn qkv_at(row: u32, part: u32, head: u32) -> u32 {
  return ((row * 3u + part) * immediates.heads + head) * HEAD_SIZE;
}

// The same in a matrix [T, H].
fn context_at(row: u32, head: u32) -> u32 {
  return (row * immediates.heads + head) * HEAD_SIZE;
}

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
