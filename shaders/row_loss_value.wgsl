// Losses of one logit x against a number y, row by row: results [R, 3] = (loss, correct, 1), and gradient [R] =
// factor · d loss / dx where GRADIENT is 1, with factor = weight · loss_scale / labelled_total.
//   SIGMOID 1: binary cross-entropy of sigmoid(x) with y in 0..1; correct where x > 0 just as y > 1/2.
//   SIGMOID 0: (x − y)²; never correct.
//
// Bindings: logits [R], targets [R], results; gradient where GRADIENT is 1.
// Dispatch: one workgroup for each ROWS rows, a thread a row: there is nothing to sum.
// Numerics: max(x, 0) − x·y + ln(1 + e^−|x|) cannot overflow; for small e^−|x| the logarithm is taken as the
// series, which the plain form would round away.

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  weight: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<f32>;
@group(0) @binding(3) var<storage, read_write> results: array<f32>;
#if GRADIENT
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;
#endif

@compute @workgroup_size(ROWS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let row = workgroup_index(group, groups) * ROWS + local;
  if (row >= rows) {
    return;
  }
  let x = logits[row];
  let y = targets[row];
#if SIGMOID
  let small = exp(-abs(x));
  let log_part = select(ln_positive(1.0 + small), small * (1.0 - 0.5 * small), small < 1e-4);
  let loss = max(x, 0.0) - x * y + log_part;
  let derivative = select(small, 1.0, x > 0.0) / (1.0 + small) - y;
  let correct = (x > 0.0) == (y > 0.5);
#else
  let loss = (x - y) * (x - y);
  let derivative = 2.0 * (x - y);
  let correct = false;
#endif
  results[row * 3u] = loss;
  results[row * 3u + 1u] = select(0.0, 1.0, correct);
  results[row * 3u + 2u] = 1.0;
#if GRADIENT
  gradient[row] = derivative * (immediates.weight * step.loss_scale / step.labelled_total);
#endif
}
