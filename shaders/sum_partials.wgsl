// Adds partial sums up: target[j] += Σ_b partials[b, j], over the blocks that have rows.
//   partials [PARTIALS, C]; OUTPUTS 2: the first half of the columns belongs to `target`, the second to `second`.
//
// Bindings: partials, target; second where OUTPUTS is 2.
// Dispatch: ceil(C / COLUMNS) workgroups.
// Tiles: COLUMNS columns by PARTS blocks at a time: enough threads to hide memory's latency though C is small.
// Numerics: f32; a thread adds every PARTS-th block in order, then PARTS sums in a fixed tree.

const WIDTH: u32 = COLUMNS * PARTS;

struct Immediates {
  // Of the rows that were summed: block b exists where it holds any.
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  partials: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> first: array<f32>;
#if OUTPUTS == 2
@group(0) @binding(3) var<storage, read_write> second: array<f32>;
#endif

var<workgroup> sums: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let per_block = max((rows + immediates.partials - 1u) / immediates.partials, 1u);
  let blocks = (rows + per_block - 1u) / per_block;
  let column = workgroup_index(group, groups) * COLUMNS + local % COLUMNS;
  let end = select(0u, blocks, column < immediates.columns);

  var sum = 0.0;
  for (var block = local / COLUMNS; block < end; block += PARTS) {
    sum += partials[block * immediates.columns + column];
  }
  sums[local] = sum;
  for (var stride = WIDTH / 2u; stride >= COLUMNS; stride /= 2u) {
    workgroupBarrier();
    if (local < stride) {
      sums[local] += sums[local + stride];
    }
  }
  if (local < COLUMNS && column < immediates.columns) {
#if OUTPUTS == 2
    let half_columns = immediates.columns / 2u;
    if (column >= half_columns) {
      second[column - half_columns] += sums[local];
      return;
    }
#endif
    first[column] += sums[local];
  }
}
