// Cross-entropy of rows of C logits: results [R, 3] = (loss, whether the target is the likeliest class, 1), and
// gradient [R, C] = factor · (softmax − onehot(target)) where GRADIENT is 1, with factor = weight · loss_scale /
// labelled_total. Rows whose target is NO_TARGET get zeros in both.
//
// Bindings: logits [R, C], targets [R], results; gradient where GRADIENT is 1.
// Dispatch: one workgroup for each ROWS rows.
// Tiles: THREADS threads a row, a power of two that fits the classes, up to all 64 of the workgroup (one wave on
// AMD, where barriers then cost next to nothing): with two classes, 32 rows share a workgroup.
// Numerics: f32; the largest logit is taken off before exp; sums in a fixed tree; ties go to the lowest class.

const WIDTH: u32 = THREADS * ROWS;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  weight: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> results: array<f32>;
#if GRADIENT
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;
#endif

var<workgroup> values: array<f32, WIDTH>;
var<workgroup> indices: array<u32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let first_row = workgroup_index(group, groups) * ROWS;
  if (first_row >= rows) {
    return;
  }
  let thread = local % THREADS;
  let first = local - thread;
  // Threads beyond the last row follow along for the barriers, and write nothing.
  let in_use = first_row + local / THREADS < rows;
  let row = min(first_row + local / THREADS, rows - 1u);
  let columns = immediates.columns;
  let base = row * columns;

  // The largest logit and its class, the lowest where logits tie.
  var top = MASKED_SCORE;
  var top_class = NO_INDEX;
  for (var c = thread; c < columns; c += THREADS) {
    let x = logits[base + c];
    if (x > top) {
      top = x;
      top_class = c;
    }
  }
  values[local] = top;
  indices[local] = top_class;
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (thread < stride) {
      let other = values[local + stride];
      let other_class = indices[local + stride];
      if (other > values[local] || (other == values[local] && other_class < indices[local])) {
        values[local] = other;
        indices[local] = other_class;
      }
    }
  }
  workgroupBarrier();
  let largest = values[first];
  let likeliest = indices[first];
  workgroupBarrier();

  var sum = 0.0;
  for (var c = thread; c < columns; c += THREADS) {
    sum += exp(logits[base + c] - largest);
  }
  values[local] = sum;
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (thread < stride) {
      values[local] += values[local + stride];
    }
  }
  workgroupBarrier();
  if (!in_use) {
    return;
  }
  let total = values[first];
  let class_id = targets[row];
  let counts = class_id != NO_TARGET;

  if (thread == 0u) {
    let target_logit = logits[base + min(class_id, columns - 1u)];
    results[row * 3u] = select(0.0, ln_positive(total) - (target_logit - largest), counts);
    results[row * 3u + 1u] = select(0.0, 1.0, counts && likeliest == class_id);
    results[row * 3u + 2u] = select(0.0, 1.0, counts);
  }
#if GRADIENT
  let factor = select(0.0, immediates.weight * step.loss_scale / step.labelled_total, counts);
  for (var c = thread; c < columns; c += THREADS) {
    let value = exp(logits[base + c] - largest) * (factor / total);
    gradient[base + c] = select(value, value - factor, c == class_id);
  }
#endif
}
