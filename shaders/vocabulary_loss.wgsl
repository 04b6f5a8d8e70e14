// Softmax cross-entropy, sampling and the gradient of the logits in place, for a chunk of masked rows.
//
// logits [chunk, V] (in: logits, out where GRADIENT: scale · (softmax − onehot(target)));
// targets, sequences, slots, sampled [M] (rows offset.. of the chunk); results [M, 3]: loss, top-1 hit, sample hit.
// Dispatch: one workgroup a row; 256 threads stride over the vocabulary, so reads coalesce. Three sweeps: the
// largest logit and the largest Gumbel score; Σ exp; the gradient. Reductions are trees in a fixed order.
// Numerics: f32; noise by our own logarithm, the same polynomial as the CPU's; ties go to the lowest id.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  vocabulary: u32,
  site: u32,
  generator_weight: f32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read_write> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read> sequences: array<u32>;
@group(0) @binding(4) var<storage, read> slots: array<u32>;
@group(0) @binding(5) var<storage, read_write> results: array<f32>;
#if DRAWS
@group(0) @binding(6) var<storage, read_write> sampled: array<u32>;
#else
@group(0) @binding(6) var<storage, read> sampled: array<u32>;
#endif

const THREADS: u32 = 256u;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> indices: array<u32, THREADS>;

// The larger of two (value, index) pairs, the lower index where the values tie.
fn prefer(value: f32, index: u32, other: f32, other_index: u32) -> bool {
  return other > value || (other == value && other_index < index);
}

// Index of the workgroup's best pair, in `indices[0]`, its value in `values[0]`.
fn reduce_best(thread: u32, value: f32, index: u32) {
  values[thread] = value;
  indices[thread] = index;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if thread < half && prefer(values[thread], indices[thread], values[thread + half], indices[thread + half]) {
      values[thread] = values[thread + half];
      indices[thread] = indices[thread + half];
    }
    workgroupBarrier();
  }
}

fn gumbel(word: u32) -> f32 {
  let u = (f32(word >> 9u) + 0.5) * (1.0 / 8388608.0);
  return -ln_positive(-ln_positive(1.0 - u));
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = workgroup_index(group, groups);
  if row >= rows_in_use(immediates.extent, immediates.offset, immediates.capacity) {
    return;
  }
  let m = row + immediates.offset;
  let size = immediates.vocabulary;
  let base = row * size;
  let target_id = targets[m];

  // Threads take tokens in pairs, as the draws come.
  var top = MASKED_SCORE;
  var top_index = NO_INDEX;
#if DRAWS
  let key = sequence_key(immediates.site, sequences[m]);
  let slot = slots[m];
  var best = MASKED_SCORE;
  var best_index = NO_INDEX;
#endif
  for (var pair = thread; pair * 2u < size; pair += THREADS) {
#if DRAWS
    let words = threefry(key, vec2<u32>(slot, pair));
#endif
    for (var half = 0u; half < 2u; half += 1u) {
      let token = pair * 2u + half;
      if token < size {
        let x = logits[base + token];
        if prefer(top, top_index, x, token) {
          top = x;
          top_index = token;
        }
#if DRAWS
        let score = x * step.inverse_temperature + gumbel(words[half]);
        if prefer(best, best_index, score, token) {
          best = score;
          best_index = token;
        }
#endif
      }
    }
  }
  reduce_best(thread, top, top_index);
  let largest = values[0];
  let likeliest = indices[0];
  workgroupBarrier();
#if DRAWS
  reduce_best(thread, best, best_index);
  let winner = indices[0];
  workgroupBarrier();
#else
  let winner = sampled[m];
#endif

  var sum = 0.0;
  for (var token = thread; token < size; token += THREADS) {
    sum += exp(logits[base + token] - largest);
  }
  values[thread] = sum;
  let target_logit = logits[base + target_id];
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if thread < half {
      values[thread] += values[thread + half];
    }
    workgroupBarrier();
  }
  let total = values[0];

  if thread == 0u {
    results[m * 3u] = ln_positive(total) - (target_logit - largest);
    results[m * 3u + 1u] = select(0.0, 1.0, likeliest == target_id);
    results[m * 3u + 2u] = select(0.0, 1.0, winner == target_id);
#if DRAWS
    sampled[m] = winner;
#endif
  }
#if GRADIENT
  // All threads have read the target's logit: the barriers of the sum stand between.
  let scale = immediates.generator_weight * step.loss_scale / (step.labelled_total + 1e-6);
  let factor = scale / total;
  for (var token = thread; token < size; token += THREADS) {
    let gradient = exp(logits[base + token] - largest) * factor;
    logits[base + token] = select(gradient, gradient - scale, token == target_id);
  }
#endif
}
