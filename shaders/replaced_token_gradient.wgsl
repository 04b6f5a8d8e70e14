// Backward of the discriminator's last layer: hidden_gradient = g·weight, and partial sums of g·hidden and g.
//
// hidden, hidden_gradient [T, H]; results [T, 2] (second column g); weight [H]; partials [PARTIALS, H + 1].
// Dispatch: PARTIALS workgroups, each a block of ceil(rows / PARTIALS) rows in order; threads stride over columns.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> hidden: array<T1>;
@group(0) @binding(2) var<storage, read> results: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> hidden_gradient: array<T4>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let part = workgroup_index(group, groups);
  if part >= PARTIALS {
    return;
  }
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let block = (rows + PARTIALS - 1u) / PARTIALS;
  let first = min(part * block, rows);
  let last = min(first + block, rows);
  let columns = immediates.columns;
  for (var c = thread; c < columns; c += 128u) {
    let w = weight[c];
    var sum = 0.0;
    for (var row = first; row < last; row += 1u) {
      let gradient = results[row * 2u + 1u];
      hidden_gradient[row * columns + c] = T4(gradient * w);
      sum += gradient * f32(hidden[row * columns + c]);
    }
    partials[part * (columns + 1u) + c] = sum;
  }
  if thread == 0u {
    var sum = 0.0;
    for (var row = first; row < last; row += 1u) {
      sum += results[row * 2u + 1u];
    }
    partials[part * (columns + 1u) + columns] = sum;
  }
}
