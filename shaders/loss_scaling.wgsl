// Dynamic loss scaling: state = [scale, finite steps since it changed, steps skipped]. After a step whose gradients were
// not finite the scale is halved, after `interval` finite ones it is doubled, within the lowest and the highest.
// The metrics get the scale that this step was computed with, and whether it was skipped.
//
// Bindings: state [3], metrics. Dispatch: one workgroup of one thread.
// Numerics: powers of two, so that scaling rounds nothing.
struct Immediates {
  interval: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read_write> state: array<f32>;
@group(0) @binding(2) var<storage, read_write> metrics: array<f32>;

@compute @workgroup_size(1)
fn main() {
  let scale = state[0];
  let skipped = metrics[METRIC_REFUSED];
  metrics[METRIC_SCALE] = scale;
  metrics[METRIC_SKIPPED] = skipped;
  if skipped != 0.0 {
    state[0] = max(scale * 0.5, f32(LOWEST_LOSS_SCALE));
    state[1] = 0.0;
    state[2] += 1.0;
  } else if state[1] + 1.0 >= f32(immediates.interval) {
    state[0] = min(scale * 2.0, f32(HIGHEST_LOSS_SCALE));
    state[1] = 0.0;
  } else {
    state[1] += 1.0;
  }
}
