// Dynamic loss scaling: state = [scale, finite steps since it changed, steps skipped]. After a step whose gradients were
// not finite (metrics[10]) the scale is halved, after INTERVAL finite ones it is doubled, within 1 and 2^24.
// metrics[12] = the scale that this step was computed with, metrics[13] = 1 where it was skipped.
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
  let skipped = metrics[10];
  metrics[12] = scale;
  metrics[13] = skipped;
  if skipped != 0.0 {
    state[0] = max(scale * 0.5, 1.0);
    state[1] = 0.0;
    state[2] += 1.0;
  } else if state[1] + 1.0 >= f32(immediates.interval) {
    state[0] = min(scale * 2.0, 16777216.0);
    state[1] = 0.0;
  } else {
    state[1] += 1.0;
  }
}
