// Put before every kernel by gpu/shader.rs, after the textual constants of the dispatch.
//
// Conventions of all kernels:
// - @group(0) @binding(0) is the step uniform below; tensors follow at bindings 1, 2, … in the order of
//   `Dispatch::bindings`; `var<immediate>` holds the words of `Dispatch::immediates`.
// - Entry point `main`. The flat number of a workgroup is workgroup_index(group, groups): grids are folded to
//   two dimensions, so every kernel returns (uniformly) where its number is beyond its work.
// - Rows of packed activations in use vary from step to step; rows_in_use finds the count.

struct Step {
  tokens: u32,
  sequences: u32,
  labelled: u32,
  first_sequence: u32,
  key: vec2<u32>,
  learning_rate: f32,
  loss_scale: f32,
  labelled_total: f32,
  tokens_total: f32,
  norm_limit: f32,
  inverse_temperature: f32,
  discriminator_weight: f32,
  moment_scale: f32,
  epsilon_scale: f32,
  reserved: u32,
}
@group(0) @binding(0) var<uniform> step: Step;

// A finite stand-in for −∞: compilers may assume that there is no infinity.
const MASKED_SCORE: f32 = -1e30;
const INVERSE_SQRT_TWO_PI: f32 = 0.3989422804014327;

fn workgroup_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
  return group.x + group.y * groups.x;
}

// tensor::Rows: clamp(extent − offset, 0, capacity).
fn rows_in_use(extent: u32, offset: u32, capacity: u32) -> u32 {
  var total = capacity + offset;
  switch extent {
    case 1u: { total = step.tokens; }
    case 2u: { total = step.sequences; }
    case 3u: { total = step.labelled; }
    default: {}
  }
  return min(max(total, offset) - offset, capacity);
}

// Threefry-2x32, 13 rounds (src/tensor/random.rs).
fn rotate(x: u32, bits: u32) -> u32 {
  return (x << bits) | (x >> (32u - bits));
}

fn threefry(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
  let k2 = 0x1BD11BDAu ^ key.x ^ key.y;
  var x = counter + key;
  x.x += x.y; x.y = rotate(x.y, 13u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 15u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 26u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 6u) ^ x.x;
  x += vec2<u32>(key.y, k2 + 1u);
  x.x += x.y; x.y = rotate(x.y, 17u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 29u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 16u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 24u) ^ x.x;
  x += vec2<u32>(k2, key.x + 2u);
  x.x += x.y; x.y = rotate(x.y, 13u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 15u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 26u) ^ x.x;
  x.x += x.y; x.y = rotate(x.y, 6u) ^ x.x;
  x += vec2<u32>(key.x, key.y + 3u);
  x.x += x.y; x.y = rotate(x.y, 17u) ^ x.x;
  return x;
}

// Key of the draws of one sequence at one dropout site (or of sampling).
fn sequence_key(site: u32, sequence: u32) -> vec2<u32> {
  return threefry(step.key, vec2<u32>(site, step.first_sequence + sequence));
}

// Four 16-bit draws, for channels (or keys) 4·block .. 4·block+3 of a row.
fn dropout_block(key: vec2<u32>, row: u32, block: u32) -> vec4<u32> {
  let bits = threefry(key, vec2<u32>(row, block));
  return vec4<u32>(bits.x & 0xffffu, bits.x >> 16u, bits.y & 0xffffu, bits.y >> 16u);
}

// Factors of four elements under dropout: 0 or the scale.
fn dropout_factors(key: vec2<u32>, row: u32, block: u32, threshold: u32, scale: f32) -> vec4<f32> {
  return select(vec4<f32>(0.0), vec4<f32>(scale), dropout_block(key, row, block) >= vec4<u32>(threshold));
}

// Natural logarithm of a positive normal number, as `ops::scalar::ln_positive`.
fn ln_positive(x: f32) -> f32 {
  let bits = bitcast<u32>(x) - 0x3f3504f3u;
  let e = f32(bitcast<i32>(bits) >> 23u);
  let f = bitcast<f32>((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0;
  let s = f / (2.0 + f);
  let q = s * s;
  let p = ((2.0 / 9.0 * q + 2.0 / 7.0) * q + 2.0 / 5.0) * q + 2.0 / 3.0;
  return f - s * (f - q * p) + e * 1.4286068e-6 + e * 0.69314575;
}

// Φ(x) and φ(x) of the standard normal; coefficients and error as `ops::scalar`.
fn normal(x: f32) -> vec2<f32> {
  let gaussian = exp(-0.5 * x * x);
  let t = 1.0 / (1.0 + 0.4 * abs(x) * 0.7071067811865476);
  var p = 0.040267766;
  p = p * t - 0.13547239;
  p = p * t + 0.0738448;
  p = p * t + 0.09972659;
  p = p * t + 0.071510345;
  p = p * t + 0.19696218;
  p = p * t + 0.2009588;
  p = p * t + 0.22657569;
  p = p * t + 0.2256263;
  let tail = 0.5 * gaussian * t * p;
  return vec2<f32>(select(1.0 - tail, tail, x < 0.0), gaussian * INVERSE_SQRT_TWO_PI);
}

fn gelu(x: f32) -> f32 {
  return x * normal(x).x;
}

fn gelu_derivative(x: f32) -> f32 {
  return gelu_and_derivative(x).y;
}

fn gelu_and_derivative(x: f32) -> vec2<f32> {
  let n = normal(x);
  return vec2<f32>(x * n.x, n.x + x * n.y);
}
