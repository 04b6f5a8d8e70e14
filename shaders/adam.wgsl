// Adam with decoupled weight decay, on a range of the flat parameter buffers:
// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − lr·rate·(a·m/(√v + b·ε) + decay·p), g clipped by the clip factor.
// a and b come with the step: 1 each, or what corrects the bias of young moments.
// Nothing changes where the norm was not finite.
//
// Dispatch: 4,096 elements a workgroup of 256, in steps of 256; the range is a multiple of 4 long.
struct Immediates {
  elements: u32,
  beta1: f32,
  beta2: f32,
  rest1: f32,
  rest2: f32,
  epsilon: f32,
  weight_decay: f32,
  rate: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read_write> value: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> first_moment: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> second_moment: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> metrics: array<f32>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  if metrics[METRIC_REFUSED] > 0.0 {
    return;
  }
  let factor = metrics[METRIC_CLIP_FACTOR];
  let rate = step.learning_rate * immediates.rate;
  let first = workgroup_index(group, groups) * 1024u + thread;
  for (var i = 0u; i < 4u; i += 1u) {
    let at = first + i * 256u;
    if at * 4u < immediates.elements {
      let g = gradient[at] * factor;
      let m = immediates.beta1 * first_moment[at] + immediates.rest1 * g;
      let v = immediates.beta2 * second_moment[at] + immediates.rest2 * (g * g);
      let p = value[at];
      first_moment[at] = m;
      second_moment[at] = v;
      value[at] = p - rate * (step.moment_scale * m / (sqrt(v) + step.epsilon_scale * immediates.epsilon) + immediates.weight_decay * p);
    }
  }
}
