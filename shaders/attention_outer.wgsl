// The last product of a tile of attention, and a help against registers; needs OUT, D4 and stage.

// The number of the thread once more: `multiple` is one of 256, which compilers do not see. What is derived from it in a
// loop is then computed there, and holds no register in the loops where these are short.
fn again(local: u32, multiple: u32) -> u32 {
  return (local + multiple) % 256u;
}

// Adds four rows of a column of the tile (vector `tile` of the stage) times the row of the head that begins at `row`.
fn add_outer(tile: u32, row: u32, x: u32, sums: ptr<function, array<vec4<f32>, 4u * OUT>>) {
  let p = stage[tile];
  for (var m = 0u; m < OUT; m++) {
    let v = stage[row + min(x + 16u * m, D4 - 1u)];
    (*sums)[m] += p.x * v;
    (*sums)[OUT + m] += p.y * v;
    (*sums)[2u * OUT + m] += p.z * v;
    (*sums)[3u * OUT + m] += p.w * v;
  }
}
