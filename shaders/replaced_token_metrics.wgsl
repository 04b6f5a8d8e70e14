// Sums over the rows of a micro-batch: loss, confusion counts, histogram of the logits by label.
//
// logits [T], results [T, 2], labels [T]; metrics: loss, TP, FP, TN, FN; histogram [2, AUC_BINS].
// Dispatch: one workgroup, so that the float sum has one order; counts are integer atomics, whose order is free.
struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> results: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<storage, read_write> metrics: array<f32>;
@group(0) @binding(5) var<storage, read_write> histogram: array<u32>;

const THREADS: u32 = 256u;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> counts: array<atomic<u32>, 4>;
var<workgroup> bins: array<atomic<u32>, 2u * AUC_BINS>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  for (var i = thread; i < 2u * AUC_BINS; i += THREADS) {
    atomicStore(&bins[i], 0u);
  }
  if thread < 4u {
    atomicStore(&counts[thread], 0u);
  }
  workgroupBarrier();
  let rows = rows_in_use(immediates.extent, immediates.offset, immediates.capacity);
  var sum = 0.0;
  for (var row = thread; row < rows; row += THREADS) {
    sum += results[row * 2u];
    let logit = logits[row];
    let replaced = labels[row];
    if replaced == IGNORED {
      continue;
    }
    // TP 0, FP 1, TN 2, FN 3.
    let index = select(select(2u, 3u, replaced == 1u), select(1u, 0u, replaced == 1u), logit > 0.0);
    atomicAdd(&counts[index], 1u);
    let bin = u32(clamp((logit + 16.0) * 16.0, 0.0, f32(AUC_BINS - 1u)));
    atomicAdd(&bins[replaced * AUC_BINS + bin], 1u);
  }
  sums[thread] = sum;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if thread < half {
      sums[thread] += sums[thread + half];
    }
    workgroupBarrier();
  }
  if thread == 0u {
    metrics[METRIC_CROSS_ENTROPY] += sums[0];
  }
  if thread < 4u {
    metrics[METRIC_TRUE_POSITIVES + thread] += f32(atomicLoad(&counts[thread]));
  }
  for (var i = thread; i < 2u * AUC_BINS; i += THREADS) {
    histogram[i] += atomicLoad(&bins[i]);
  }
}
