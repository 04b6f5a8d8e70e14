// What all kernels of attention share: immediates, the first two bindings, the block of a workgroup, and where operands
// lie; needs HEAD_SIZE and VECTOR.

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  max_length: u32,
  heads: u32,
  threshold: u32,
  scale: f32,
  site: u32,
}
var<immediate> immediates: Immediates;

#if VECTOR
@group(0) @binding(1) var<storage, read> qkv: array<V1>;
#else
@group(0) @binding(1) var<storage, read> qkv: array<T1>;
#endif
@group(0) @binding(2) var<storage, read> starts: array<u32>;

const SCORE_SCALE: f32 = inverseSqrt(f32(HEAD_SIZE));
// Columns of a head, in vectors of four.
const D4: u32 = (HEAD_SIZE + 3u) / 4u;

// What a workgroup works on: rows from `first` on of a sequence that begins at row `start`, of one head.
struct Block {
  sequence: u32,
  head: u32,
  start: u32,
  length: u32,
  first: u32,
}

// The block of a workgroup, of `rows` rows; first ≥ length where there is none.
fn own_block(group: vec3<u32>, groups: vec3<u32>, rows: u32) -> Block {
  let blocks = (immediates.max_length + rows - 1u) / rows;
  let index = workgroup_index(group, groups);
  var block = Block(index / (blocks * immediates.heads), index / blocks % immediates.heads, 0u, 0u, index % blocks * rows);
  if block.sequence < rows_in_use(immediates.extent, immediates.offset, immediates.capacity) {
    block.start = starts[block.sequence];
    block.length = starts[block.sequence + 1u] - block.start;
  }
  return block;
}

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
