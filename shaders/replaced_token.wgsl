// Last layer of the discriminator and its loss: logit = hidden·weight + bias, results = (loss, logit gradient).
//
// hidden [T, H], weight [H], bias [1], labels [T]; logits [T], results [T, 2].
// Dispatch: 16 rows a workgroup of 256: 16 threads share a row, so 16 neighbouring words are read together.
// Numerics: max(x, 0) − x·y + ln(1 + e^−|x|) cannot overflow; for small e^−|x| the logarithm is taken as the
// series, which the plain form would round away.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> hidden: array<T1>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> labels: array<u32>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;
@group(0) @binding(6) var<storage, read_write> results: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  let row = workgroup_index(group, groups) * 16u + thread / 16u;
  let lane = thread % 16u;
  var sum = 0.0;
  if row < rows {
    for (var c = lane; c < immediates.columns; c += 16u) {
      sum += f32(hidden[row * immediates.columns + c]) * weight[c];
    }
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = 8u; half > 0u; half /= 2u) {
    if lane < half {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if lane == 0u && row < rows {
    let x = sums[thread] + bias[0];
    let label = f32(labels[row]);
    let small = exp(-abs(x));
    let log_part = select(ln_positive(1.0 + small), small * (1.0 - 0.5 * small), small < 1e-4);
    let sigmoid = select(small, 1.0, x > 0.0) / (1.0 + small);
    logits[row] = x;
    let loss = max(x, 0.0) - x * label + log_part;
    let gradient =
      (sigmoid - label) * step.discriminator_weight * step.loss_scale / (step.tokens_total + 1e-6);
    let counts = labels[row] != IGNORED;
    results[row * 2u] = select(0.0, loss, counts);
    results[row * 2u + 1u] = select(0.0, gradient, counts);
  }
}
