// Attention forward on cooperative matrices: context [T, H] = dropout(softmax(q·kᵀ / √HEAD_SIZE))·v within each sequence
// and head, and log_sum_exp [T, NH] = ln Σ exp(score).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context (written), 4 log_sum_exp (written).
// Dispatch: one workgroup of four subgroups for each sequence, head and block of ROWS rows (of max_length); blocks
//   beyond the end of their sequence do nothing.
// Tiles: a subgroup holds MATRIX queries as operands and their output as sums, in registers. The workgroup stages WIDTH
//   keys and values at a time, in one of two places; the next are fetched into registers meanwhile. q·kᵀ goes through
//   memory of the subgroup's own, where lanes make probabilities of it, four keys of a row at a time; these come back as
//   an operand.
// One pass: matrices have no rows that could be rescaled as a maximum grows. So a row's probabilities are relative to a
//   reference that its first tile gives, and the output is rescaled, through memory, only where a later score is higher
//   by more than 2^SLACK, which halves bear.
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4]; what stays is
//   scaled at the end.
// Numerics: products f16 · f16 → f32, sums in the device's own order within a matrix, keys in order; probabilities rounded
//   to halves, between 2^LIFT and 2^(LIFT + SLACK) for the largest of a row, so that those which matter are normal
//   numbers. All else f32; each lane sums its own keys of a row. The sum counts dropped probabilities.

@group(0) @binding(3) var<storage, read_write> context: array<V3>;
@group(0) @binding(4) var<storage, read_write> log_sum_exp: array<f32>;

const LIFT: f32 = 7.0;
const SLACK: f32 = 8.0;
// Two places for a stage, the queries at first.
const PLACE: u32 = WIDTH * STRIDE;
const TILE: u32 = 2u * PLACE;
// Rows of a tile of scores (padded by 8 numbers) and of probabilities (by 8 halves), in vectors.
const SCORE_STRIDE: u32 = WIDTH / 4u + 2u;
const WEIGHT_STRIDE: u32 = WIDTH / 4u + 2u;
const OWN: u32 = MATRIX * max(SCORE_STRIDE, OUT_STRIDE);
const SCORES: u32 = SUBGROUPS * OWN;
const WEIGHTS: u32 = SUBGROUPS * MATRIX * WEIGHT_STRIDE;
// Lanes that share a row, rows between those of a lane, and rows of a lane.
const GROUP: u32 = WIDTH / 4u;
const ROW_STEP: u32 = LANES / GROUP;
const PASSES: u32 = MATRIX / ROW_STEP;

#include attention_operands
#include attention_context_store
#include attention_cooperative

// Factors of the rows of the output.
var<workgroup> factors: array<f32, ROWS>;
#if SUBGROUP_BARRIERS == 0
// Whether a subgroup must rescale.
var<workgroup> wanted: array<u32, SUBGROUPS>;
#endif

// Where a subgroup that rescales waits for its lanes. Alone, if it can: but lavapipe, whose lanes go in step, lets all
// subgroups wait at any barrier.
fn settle() {
#if SUBGROUP_BARRIERS == 0
  workgroupBarrier();
#endif
#if SUBGROUP_BARRIERS && LANES != 8
  subgroupBarrier();
#endif
}

// 1 where a subgroup rescales, else 0: the number of times, as cooperative operations must not lie behind a condition.
fn rescalings(grown: bool, subgroup: u32, lane: u32) -> u32 {
  let any = select(0u, 1u, subgroupAny(grown));
#if SUBGROUP_BARRIERS
  return any;
#else
  // All or none, since all come to the barriers.
  if lane == 0u { wanted[subgroup] = any; }
  workgroupBarrier();
  return wanted[0] | wanted[1] | wanted[2] | wanted[3];
#endif
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let block = own_block(group, groups, ROWS);
  let head = block.head;
  let start = block.start;
  let first_row = block.first;
  // Without rows all loops end at once: cooperative operations must not lie behind a condition.
  let length = select(block.length, 0u, first_row >= block.length);
  let draws = sequence_key(immediates.site, block.sequence);
  let last = max(length, 1u) - 1u;
  // This subgroup's rows and memory, and this lane's first row and its vector.
  let own_row = subgroup * MATRIX;
  let own_scores = subgroup * OWN;
  let own_weights = own_row * WEIGHT_STRIDE;
  let slot = lane % GROUP;
  let lane_row = lane / GROUP;

  for (var v = local; v < ROWS * D4; v += THREADS) {
    let row = start + min(first_row + v / D4, last);
    put_first(staged_at(v), vec4<f16>(qkv[qkv_at(row, 0u, head) / 4u + v % D4]));
  }
  workgroupBarrier();
#for F FRAGMENTS
  let q$F = coopLoadT<MatrixA>(&first_tile[UNIT * (own_row * STRIDE + $Fu * M4)], UNIT * STRIDE);
  var o$F = MatrixC();
#end

  // In powers of two: the reference of each row, and the sum of the lane's probabilities.
  var reference: array<f32, PASSES>;
  var sum: array<f32, PASSES>;
  for (var i = 0u; i < PASSES; i++) {
    reference[i] = MASKED_SCORE;
    sum[i] = 0.0;
  }
  var key_next: array<vec4<f16>, LOADS>;
  var value_next: array<vec4<f16>, LOADS>;
  for (var l = 0u; l < LOADS; l++) {
    let v = local + l * THREADS;
    let at = qkv_at(start + min(v / D4, last), 1u, head) / 4u + v % D4;
    key_next[l] = vec4<f16>(qkv[at]);
    value_next[l] = vec4<f16>(qkv[at + immediates.heads * D4]);
  }
  // The queries lie where the first stage goes.
  workgroupBarrier();
  for (var l = 0u; l < LOADS; l++) {
    let v = local + l * THREADS;
    if is_staged(v) {
      put_first(staged_at(v), key_next[l]);
      put_second(staged_at(v), value_next[l]);
    }
  }
  var place = 0u;
  for (var first_key = 0u; first_key < length; first_key += WIDTH) {
    workgroupBarrier();
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      let at = qkv_at(start + min(first_key + WIDTH + v / D4, last), 1u, head) / 4u + v % D4;
      key_next[l] = vec4<f16>(qkv[at]);
      value_next[l] = vec4<f16>(qkv[at + immediates.heads * D4]);
    }
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = place + e * STRIDE;
      var s = MatrixC();
#for F FRAGMENTS
      s = coopMultiplyAdd(q$F, coopLoad<MatrixB>(&first_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), s);
#end
      let to = UNIT * (own_scores + e / 4u);
      coopStoreT(s, &scores[to], UNIT * SCORE_STRIDE);
    }
    meet();
    let begun = first_key != 0u;
    let key = first_key + 4u * slot;
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    var s: array<vec4<f32>, PASSES>;
    var change: array<f32, PASSES>;
    var grown = false;
    for (var i = 0u; i < PASSES; i++) {
      let at = own_scores + (lane_row + i * ROW_STEP) * SCORE_STRIDE + slot;
      s[i] = select(vec4<f32>(MASKED_SCORE), score(at) * (SCORE_SCALE * LOG2_E), exists);
      let top = row_maximum(max(max(s[i].x, s[i].y), max(s[i].z, s[i].w))) - LIFT;
      let higher = !begun || top > reference[i] + SLACK;
      grown = grown || higher;
      let to = select(reference[i], top, higher);
      change[i] = exp2(reference[i] - to);
      reference[i] = to;
    }
    let times = rescalings(grown && begun, subgroup, lane);
    for (var n = 0u; n < times; n++) {
      settle();
      if slot == 0u {
        for (var i = 0u; i < PASSES; i++) { factors[own_row + lane_row + i * ROW_STEP] = change[i]; }
      }
#for F FRAGMENTS
      let out$F = UNIT * (own_scores + $Fu * M4);
      coopStoreT(o$F, &scores[out$F], UNIT * OUT_STRIDE);
#end
      settle();
      for (var v = lane; v < MATRIX * D4; v += LANES) {
        let at = own_scores + v / D4 * OUT_STRIDE + v % D4;
        put_score(at, score(at) * factors[own_row + v / D4]);
      }
      settle();
#for F FRAGMENTS
      o$F = coopLoadT<MatrixC>(&scores[out$F], UNIT * OUT_STRIDE);
#end
    }
    for (var i = 0u; i < PASSES; i++) {
      let r = lane_row + i * ROW_STEP;
      var p = exp2(s[i] - reference[i]);
      sum[i] = sum[i] * change[i] + ((p.x + p.y) + (p.z + p.w));
      if immediates.threshold != 0u {
        let bits = dropout_block(draws, (head << 16u) | (first_row + own_row + r), key / 4u);
        p = keep(p, bits >= vec4<u32>(immediates.threshold));
      }
      put_weight(own_weights + r * WEIGHT_STRIDE + slot, vec4<f16>(p));
    }
    meet();
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = place + e * STRIDE;
      let w = coopLoadT<MatrixA>(&weights[UNIT * (own_weights + e / 4u)], UNIT * WEIGHT_STRIDE);
#for F FRAGMENTS
      o$F = coopMultiplyAdd(w, coopLoadT<MatrixB>(&second_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), o$F);
#end
    }
    place = PLACE - place;
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      if is_staged(v) {
        put_first(place + staged_at(v), key_next[l]);
        put_second(place + staged_at(v), value_next[l]);
      }
    }
  }

  for (var i = 0u; i < PASSES; i++) {
    let r = own_row + lane_row + i * ROW_STEP;
    let all = row_sum(sum[i]);
    if slot == 0u {
      factors[r] = immediates.scale / all;
      if first_row + r < length {
        log_sum_exp[(start + first_row + r) * immediates.heads + head] = reference[i] * LN_2 + ln_positive(all);
      }
    }
  }
  // Scores were read last before a barrier.
#for F FRAGMENTS
  let to$F = UNIT * (own_scores + $Fu * M4);
  coopStoreT(o$F, &scores[to$F], UNIT * OUT_STRIDE);
#end
  meet();
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let row = first_row + own_row + v / D4;
    if row < length {
      let out = score(own_scores + v / D4 * OUT_STRIDE + v % D4);
      store_context(context_at(start + row, head), v % D4, out * factors[own_row + v / D4]);
    }
  }
}
