// The products of a tile of attention through the stage, and a help against registers; needs BLOCK, STAGED, OUT, D4 and
// stage.

// The number of the thread once more: `multiple` is one of 256, which compilers do not see. What is derived from it in a
// loop is then computed there, and holds no register in the loops where these are short.
fn again(local: u32, multiple: u32) -> u32 {
  return (local + multiple) % 256u;
}

// Sums over BLOCK columns of the head of four rows (one row of the result each) times four others, whose vectors lie
// from a and b on in steps of a_step and b_step.
fn chains(a: u32, a_step: u32, b: u32, b_step: u32) -> mat4x4<f32> {
  var sums = mat4x4<f32>();
  for (var k = 0u; k < BLOCK; k++) {
    let p = stage[a + k * a_step];
    let q = stage[b + k * b_step];
    sums[0] += p.x * q;
    sums[1] += p.y * q;
    sums[2] += p.z * q;
    sums[3] += p.w * q;
  }
  return sums;
}

// Puts those of a thread's four columns of a tile that belong to STAGED from `part` on into the stage, from vector `first`
// on; `rows` vectors to a column.
fn stage_tile(columns: mat4x4<f32>, thread: vec2<u32>, part: u32, first: u32, rows: u32) {
  if 4u * thread.x / STAGED != part / STAGED { return; }
  let to = first + 4u * thread.x % STAGED * rows + thread.y;
  stage[to] = columns[0];
  stage[to + rows] = columns[1];
  stage[to + 2u * rows] = columns[2];
  stage[to + 3u * rows] = columns[3];
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
