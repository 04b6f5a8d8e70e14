// What the products of dimensions that are multiples of 4 share (matmul_vectors.wgsl, matmul_cooperative.wgsl): operands
// and results in memory, the tile of a workgroup, and what happens to a finished sum. FORM, EPILOGUE, SPLIT,
// BIAS_GRADIENT as in matmul_tiled.wgsl; tiles of C are BM × BN.

#include matmul_immediates

@group(0) @binding(1) var<storage, read> a: array<V1>;
@group(0) @binding(2) var<storage, read> b: array<V2>;
@group(0) @binding(3) var<storage, read_write> c: array<V3>;
#if EPILOGUE == 1
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
#endif
#if EPILOGUE == 2
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> before: array<V5>;
#endif
#if EPILOGUE == 3
@group(0) @binding(4) var<storage, read_write> before: array<V4>;
#endif
#if EPILOGUE == 4
@group(0) @binding(4) var<storage, read> residual: array<V4>;
#endif
#if BIAS_GRADIENT
#if SPLIT == 0
@group(0) @binding(4) var<storage, read_write> bias_gradient: array<vec4<f32>>;
#endif
#endif

const GROUP_ROWS: u32 = 8u;
// Splits begin at multiples of this, in every strategy.
const PART: u32 = 16u;

// What a workgroup computes: the tile of C at `row`, `column`, summed over k_start..k_end of `k`; where there is none,
// nothing: m and the range are 0.
struct Tile {
  exists: bool,
  split: u32,
  row: u32,
  column: u32,
  m: u32,
  k: u32,
  k_start: u32,
  k_end: u32,
}

// Tiles of C are taken in groups of GROUP_ROWS rows, so that workgroups which run together share operands in the cache.
fn tile_of(index: u32) -> Tile {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  var t: Tile;
#if FORM == 2
  t.m = immediates.inner;
  t.k = rows;
#else
  t.m = rows;
  t.k = immediates.inner;
#endif
  let row_tiles = (t.m + BM - 1u) / BM;
  let column_tiles = (immediates.n + BN - 1u) / BN;
  t.exists = index < row_tiles * column_tiles * immediates.splits;
  if !t.exists {
    t.m = 0u;
    return t;
  }
  t.split = index / (row_tiles * column_tiles);
  let tile = index % (row_tiles * column_tiles);
  let first_tile = tile / (GROUP_ROWS * column_tiles) * GROUP_ROWS;
  let group_rows = min(row_tiles - first_tile, GROUP_ROWS);
  t.row = (first_tile + tile % (GROUP_ROWS * column_tiles) % group_rows) * BM;
  t.column = tile % (GROUP_ROWS * column_tiles) / group_rows * BN;
  // The part of k that is this split's: whole steps, so that only the last one has a remainder.
  let part = ((t.k + immediates.splits - 1u) / immediates.splits + PART - 1u) / PART * PART;
  t.k_start = min(t.split * part, t.k);
  t.k_end = min(t.k_start + part, t.k);
  return t;
}

#if HALF3
// Of results in half precision the first five terms suffice: Φ(−|x|) is off by at most 7.5e-8 (Abramowitz & Stegun
// 7.1.26, halved), less than the unit of f16 beside 0.001.
fn tail4(x: vec4<f32>, gaussian: vec4<f32>) -> vec4<f32> {
  let t = vec4<f32>(1.0) / fma(abs(x), vec4<f32>(0.23164189), vec4<f32>(1.0));
  var p = fma(vec4<f32>(0.5307027145), t, vec4<f32>(-0.7265760135));
  p = fma(p, t, vec4<f32>(0.7107068705));
  p = fma(p, t, vec4<f32>(-0.142248368));
  p = fma(p, t, vec4<f32>(0.127414796));
  return p * t * gaussian;
}

// exp(−x²/2).
fn gaussian4(x: vec4<f32>) -> vec4<f32> {
  return exp2(-0.7213475204 * x * x);
}

fn gelu4(x: vec4<f32>) -> vec4<f32> {
  return fma(-abs(x), tail4(x, gaussian4(x)), max(x, vec4<f32>()));
}

// GELU of four numbers, and its derivative behind it.
fn gelu_and_derivative4(x: vec4<f32>) -> array<vec4<f32>, 2> {
  let gaussian = gaussian4(x);
  let tail = tail4(x, gaussian);
  let derivative = fma(x, INVERSE_SQRT_TWO_PI * gaussian, select(1.0 - tail, tail, x < vec4<f32>()));
  return array<vec4<f32>, 2>(fma(-abs(x), tail, max(x, vec4<f32>())), derivative);
}
#else
fn gelu4(x: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w));
}

fn gelu_and_derivative4(x: vec4<f32>) -> array<vec4<f32>, 2> {
  let p = gelu_and_derivative(x.x);
  let q = gelu_and_derivative(x.y);
  let r = gelu_and_derivative(x.z);
  let s = gelu_and_derivative(x.w);
  return array<vec4<f32>, 2>(vec4<f32>(p.x, q.x, r.x, s.x), vec4<f32>(p.y, q.y, r.y, s.y));
}
#endif

// Where the partial sums of a split begin.
fn split_at(split: u32, m: u32) -> u32 {
#if FORM == 2
  return split * (m * (immediates.n / 4u) + m / 4u);
#else
  return split * m * (immediates.n / 4u);
#endif
}

// What columns 4·j4.. of row i of the product meet in the epilogue: bias, `before`, residual, or what C holds. Read
// apart from `finish`, so that a kernel can read early.
fn beside(i: u32, j4: u32) -> vec4<f32> {
  let at = i * (immediates.n / 4u) + j4;
  var result = vec4<f32>();
#if FORM == 2 && SPLIT == 0
  result = vec4<f32>(c[immediates.first_c / 4u + at]);
#endif
#if EPILOGUE == 1
  result = bias[j4];
#endif
#if EPILOGUE == 2
  result = bias[j4];
#endif
#if EPILOGUE == 3
  result = vec4<f32>(before[at]);
#endif
#if EPILOGUE == 4
  result = vec4<f32>(residual[at]);
#endif
  return result;
}

// Writes columns 4·j4.. of row i of the product of split number `split`.
fn finish(split: u32, i: u32, j4: u32, m: u32, product: vec4<f32>, beside: vec4<f32>) {
  let at = i * (immediates.n / 4u) + j4;
  let to = immediates.first_c / 4u + at;
#if SPLIT
  c[split_at(split, m) + at] = V3(product);
#else
#if FORM == 2
  c[to] = V3(beside + product);
#else
#if EPILOGUE == 0
  c[to] = V3(product);
#endif
#if EPILOGUE == 1
  c[to] = V3(product + beside);
#endif
#if EPILOGUE == 2
  let x = product + beside;
  before[at] = V5(x);
  c[to] = V3(gelu4(x));
#endif
#if EPILOGUE == 3
  let both = gelu_and_derivative4(beside);
  c[to] = V3(product * both[1]);
  before[at] = V4(both[0]);
#endif
#if EPILOGUE == 4
  c[to] = V3(product + beside);
#endif
#endif
#endif
}
