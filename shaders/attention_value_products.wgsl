// dO·v of a tile of 64 queries and 64 keys by 256 threads, through `stage`, as attention_scores.

// Rows `first` and the next (the last of the sequence for those beyond its end) of vector c of the head: of dO, or of
// the values.
fn fetch_pair(side: u32, start: u32, length: u32, first: u32, head: u32, c: u32) -> mat2x4<f32> {
  var pair = mat2x4<f32>();
  if D4 % STEP == 0u || c < D4 {
    let rows = vec2<u32>(start) + min(vec2<u32>(first, first + 1u), vec2<u32>(length - 1u));
    if side == 0u {
      pair[0] = load_context_gradient(context_at(rows.x, head), c);
      pair[1] = load_context_gradient(context_at(rows.y, head), c);
    } else {
      pair[0] = load_qkv(qkv_at(rows.x, 2u, head), c);
      pair[1] = load_qkv(qkv_at(rows.y, 2u, head), c);
    }
  }
  return pair;
}

// dO·v of four queries and four keys, as chains of multiply-adds: no exp follows.
fn value_products(local: u32, start: u32, length: u32, first_row: u32, first_column: u32, head: u32)
    -> mat4x4<f32> {
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += STEP) {
    let t = again(local, 64u * first);
    let thread = vec2<u32>(t % 16u, t / 16u);
    let side = t / 128u;
    let own = 4u * thread.x + select(first_row, first_column, side == 1u);
    let c = thread.y % 8u;
    let to = side * 64u * STEP + 64u * c + thread.x;
    // Two rows at a time: with the scores and the sums there are not 16 registers left for a block.
    workgroupBarrier();
    for (var i = 0u; i < 4u; i += 2u) {
      let pair = fetch_pair(side, start, length, own + i, head, first + c);
      if STEP == 8u || c < STEP {
        for (var j = 0u; j < 4u; j++) {
          stage[to + 16u * j][i] = pair[0][j];
          stage[to + 16u * j][i + 1u] = pair[1][j];
        }
      }
    }
    workgroupBarrier();
    for (var begin = 0u; begin < 4u * STEP; begin += BLOCK) {
      for (var k = 0u; k < BLOCK; k++) {
        let a = stage[(begin + k) * 16u + thread.y];
        let b = stage[(begin + k) * 16u + 64u * STEP + thread.x];
        s[0] += a.x * b;
        s[1] += a.y * b;
        s[2] += a.z * b;
        s[3] += a.w * b;
      }
    }
  }
  return s;
}
