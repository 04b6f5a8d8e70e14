// What all kernels of attention share: immediates, binding 2, the block of a workgroup, and where rows lie; needs
// HEAD_SIZE.

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

@group(0) @binding(2) var<storage, read> starts: array<u32>;

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
