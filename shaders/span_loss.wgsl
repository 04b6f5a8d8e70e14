// Cross-entropy of pointing at one token of each sequence, by C columns of logits: results [B, 3] = (mean of the
// columns' losses, whether every target is the likeliest token, 1), and gradient [T, C] = (softmax −
// onehot(target)) · weight / C · loss_scale / labelled_total where GRADIENT is 1, 0 where a token is not allowed.
//
// Bindings: logits [T, C], allowed [T], starts [B + 1], targets [B, C] (positions in the sequence), results;
// gradient where GRADIENT is 1.
// Dispatch: one workgroup a sequence.
// Tiles: 64 threads, one wave on AMD, stride over the tokens of the sequence, some hundred; columns one after the
// other. There is little to compute and there are few sequences: what counts are few barriers, and cheap ones.
// Numerics: f32; the largest allowed logit is taken off before exp; sums in a fixed tree; ties go to the first
// token.

const THREADS: u32 = 64u;

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  columns: u32,
  weight: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> allowed: array<u32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read> targets: array<u32>;
@group(0) @binding(5) var<storage, read_write> results: array<f32>;
#if GRADIENT
@group(0) @binding(6) var<storage, read_write> gradient: array<f32>;
#endif

var<workgroup> values: array<f32, THREADS>;
var<workgroup> indices: array<u32, THREADS>;

// The largest value in `values[0]`, and its index, the lowest where values tie, in `indices[0]`.
fn reduce_best(thread: u32, value: f32, index: u32) {
  values[thread] = value;
  indices[thread] = index;
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (thread < stride) {
      let other = values[thread + stride];
      let other_index = indices[thread + stride];
      if (other > values[thread] || (other == values[thread] && other_index < indices[thread])) {
        values[thread] = other;
        indices[thread] = other_index;
      }
    }
  }
  workgroupBarrier();
}

// The sum of the threads' values in `values[0]`.
fn reduce_sum(thread: u32, value: f32) {
  values[thread] = value;
  for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (thread < stride) {
      values[thread] += values[thread + stride];
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let sequence = workgroup_index(group, groups);
  if (sequence >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity)) {
    return;
  }
  let columns = immediates.columns;
  let first = starts[sequence];
  let length = starts[sequence + 1u] - first;
  var loss = 0.0;
  var correct = 1.0;
  for (var column = 0u; column < columns; column++) {
    var top = MASKED_SCORE;
    var top_token = NO_INDEX;
    for (var t = thread; t < length; t += THREADS) {
      let x = logits[(first + t) * columns + column];
      if (allowed[first + t] != 0u && x > top) {
        top = x;
        top_token = t;
      }
    }
    reduce_best(thread, top, top_token);
    let largest = values[0];
    let likeliest = indices[0];
    workgroupBarrier();

    var sum = 0.0;
    for (var t = thread; t < length; t += THREADS) {
      if (allowed[first + t] != 0u) {
        sum += exp(logits[(first + t) * columns + column] - largest);
      }
    }
    reduce_sum(thread, sum);
    let total = values[0];
    // `values` is written again in the next column.
    workgroupBarrier();

    let target_token = targets[sequence * columns + column];
    loss += ln_positive(total) - (logits[(first + target_token) * columns + column] - largest);
    correct = select(0.0, correct, likeliest == target_token);
#if GRADIENT
    let factor = immediates.weight * step.loss_scale / (step.labelled_total * f32(columns));
    for (var t = thread; t < length; t += THREADS) {
      var value = 0.0;
      if (allowed[first + t] != 0u) {
        value = exp(logits[(first + t) * columns + column] - largest) / total;
        value = (value - select(0.0, 1.0, t == target_token)) * factor;
      }
      gradient[(first + t) * columns + column] = value;
    }
#endif
  }
  if (thread == 0u) {
    results[sequence * 3u] = loss / f32(columns);
    results[sequence * 3u + 1u] = correct;
    results[sequence * 3u + 2u] = 1.0;
  }
}
