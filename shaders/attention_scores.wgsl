// Scores of a tile of 64 queries and 64 keys by 256 threads, through `stage` (attention_forward_tiled.wgsl says how).

// Rows 4t..4t+3 from `first` on (the last of the sequence for those beyond its end) of vector c of the head in a part.
fn fetch(start: u32, length: u32, first: u32, part: u32, head: u32, c: u32) -> mat4x4<f32> {
  var block = mat4x4<f32>();
  if D4 % 8u == 0u || c < D4 {
    block[0] = load_qkv(qkv_at(start + min(first, length - 1u), part, head), c);
    block[1] = load_qkv(qkv_at(start + min(first + 1u, length - 1u), part, head), c);
    block[2] = load_qkv(qkv_at(start + min(first + 2u, length - 1u), part, head), c);
    block[3] = load_qkv(qkv_at(start + min(first + 3u, length - 1u), part, head), c);
  }
  return block;
}

// Scores of four queries and four keys, one row a query.
fn scores(local: u32, start: u32, length: u32, first_row: u32, first_column: u32, head: u32)
    -> mat4x4<f32> {
  var s = mat4x4<f32>();
  for (var first = 0u; first < D4; first += STEP) {
    let t = again(local, 64u * first);
    let thread = vec2<u32>(t % 16u, t / 16u);
    // Half of the threads stage queries, half keys, a block of 4 × 4 each.
    let side = t / 128u;
    let own = 4u * thread.x + select(first_row, first_column, side == 1u);
    let c = thread.y % 8u;
    let block = transpose(fetch(start, length, own, side, head, first + c));
    workgroupBarrier();
    if STEP == 8u || c < STEP {
      let to = side * 64u * STEP + 64u * c + thread.x;
      stage[to] = block[0];
      stage[to + 16u] = block[1];
      stage[to + 32u] = block[2];
      stage[to + 48u] = block[3];
    }
    workgroupBarrier();
    for (var begin = 0u; begin < 4u * STEP; begin += BLOCK) {
      let sums = chains(begin * 16u + thread.y, 16u, begin * 16u + 64u * STEP + thread.x, 16u);
      s = mat4x4<f32>(s[0] + sums[0], s[1] + sums[1], s[2] + sums[2], s[3] + sums[3]);
    }
  }
  return s;
}
