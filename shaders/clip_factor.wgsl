// Norm of all gradients, clip factor min(1, clip / norm) / loss scale, and whether the norm is not
// finite or beyond the limit, into the metrics.
//
// partials: sums of squares of blocks. Dispatch: one workgroup; a fixed order.
// Numerics: compilers may assume that there is no NaN, so it is found by its bits.
struct Immediates {
  count: u32,
  clip_norm: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> metrics: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  var sum = 0.0;
  for (var i = thread; i < immediates.count; i += 256u) {
    sum += partials[i];
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half /= 2u) {
    if thread < half {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if thread == 0u {
    let bits = bitcast<u32>(sums[0]);
    let finite = (bits & 0x7f800000u) != 0x7f800000u;
    let norm = sqrt(sums[0]) / step.loss_scale;
    var factor = 1.0;
    if immediates.clip_norm > 0.0 && norm > immediates.clip_norm {
      factor = immediates.clip_norm / norm;
    }
    metrics[METRIC_GRADIENT_NORM] = norm;
    metrics[METRIC_CLIP_FACTOR] = factor / step.loss_scale;
    let beyond = step.norm_limit > 0.0 && norm > step.norm_limit;
    metrics[METRIC_REFUSED] = f32(select(REFUSED_NOT_FINITE, select(0u, REFUSED_NORM, beyond), finite));
  }
}
