// Attention backward on cooperative matrices, second kernel: the gradients of keys and values; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dv = dropout(P)ᵀ·dO,
//   dS = P∘(dropout(dO·vᵀ) − delta), dk = dSᵀ·q/√HEAD_SIZE.
// dO is the gradient of the context; delta comes from the first kernel (attention_gradient_query_*).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 log_sum_exp [T, NH], 4 context_gradient [T, H], 5 delta [T, NH],
//   6 qkv_gradient [T, 3H] (the columns of key and value are written).
// Dispatch: one workgroup of four subgroups for each sequence, head and block of ROWS keys (of max_length); blocks
//   beyond the end of their sequence do nothing.
// Tiles: a subgroup holds MATRIX keys: k and v as operands, dk and dv as sums, all in registers. The workgroup stages
//   WIDTH queries with their dO at a time, in one place (two would not fit 48 KiB); the next are fetched into registers
//   meanwhile. q·kᵀ and dO·vᵀ of a subgroup go through memory of its own, a row a query, where lanes make P and dS of
//   them, four keys of a query at a time; both come back as operands, by columns.
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4]; of dv what stays
//   is scaled at the end.
// Numerics: products f16 · f16 → f32, sums in the device's own order within a matrix, queries in order; P times 2^LIFT (so
//   that what matters is a normal number) and dS times GRADIENT_SCALE rounded to halves, all else f32. What is too large
//   for a half is infinite there and makes dk infinite or NaN, so that loss scaling sees it.

@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>;
@group(0) @binding(4) var<storage, read> context_gradient: array<V4>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
alias GradientVector = V6;
alias GradientNumber = T6;
@group(0) @binding(6) var<storage, read_write> qkv_gradient: array<V6>;

const LIFT: f32 = 14.0;
const TILE: u32 = WIDTH * STRIDE;
// Rows of a tile of scores (padded by half of one) and of P and dS (by 8 halves), in vectors; the tiles of dO·vᵀ and of dS
// behind those of scores and of P.
const SCORE_STRIDE: u32 = M4 + M4 / 2u;
const WEIGHT_STRIDE: u32 = M4 + 2u;
const PRODUCTS: u32 = WIDTH * SCORE_STRIDE;
const SECOND: u32 = WIDTH * WEIGHT_STRIDE;
const SCORES: u32 = SUBGROUPS * 2u * PRODUCTS;
const WEIGHTS: u32 = SUBGROUPS * 2u * SECOND;
// Rows between those of a lane, and rows of a lane.
const ROW_STEP: u32 = LANES / M4;
const PASSES: u32 = WIDTH / ROW_STEP;

#include attention_operands
#include attention_gradient_operands
#include attention_cooperative

// Of the queries of a stage: log_sum_exp (in powers of two), delta.
var<workgroup> shifts: array<f32, WIDTH>;
var<workgroup> deltas: array<f32, WIDTH>;

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
  // Without keys all loops end at once: cooperative operations must not lie behind a condition.
  let length = select(block.length, 0u, block.first >= block.length);
  let draws = sequence_key(immediates.site, block.sequence);
  let last = max(length, 1u) - 1u;
  // This subgroup's keys and memory, and this lane's vector of keys and first row: rows r and r + 2 lie in other banks.
  let own_key = block.first + subgroup * MATRIX;
  let own_scores = subgroup * 2u * PRODUCTS;
  let own_weights = subgroup * 2u * SECOND;
  let slot = lane % M4;
  let order = lane / M4;
  let lane_row = (order & ~3u) | ((order & 1u) << 1u) | ((order >> 1u) & 1u);

  // k and v, by way of where P and dS will lie.
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let row = start + min(own_key + v / D4, last);
    put_weight(own_weights + staged_at(v), vec4<f16>(qkv[qkv_at(row, 1u, head) / 4u + v % D4]));
  }
  meet();
#for F FRAGMENTS
  let k$F = coopLoad<MatrixB>(&weights[UNIT * (own_weights + $Fu * M4)], UNIT * STRIDE);
  var dk$F = MatrixC();
#end
  meet();
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let row = start + min(own_key + v / D4, last);
    put_weight(own_weights + staged_at(v), vec4<f16>(qkv[qkv_at(row, 2u, head) / 4u + v % D4]));
  }
  meet();
#for F FRAGMENTS
  let v$F = coopLoad<MatrixB>(&weights[UNIT * (own_weights + $Fu * M4)], UNIT * STRIDE);
  var dv$F = MatrixC();
#end

  var query_next: array<vec4<f16>, LOADS>;
  var upstream_next: array<vec4<f16>, LOADS>;
  for (var l = 0u; l < LOADS; l++) {
    let v = local + l * THREADS;
    let row = start + min(v / D4, last);
    query_next[l] = vec4<f16>(qkv[qkv_at(row, 0u, head) / 4u + v % D4]);
    upstream_next[l] = vec4<f16>(context_gradient[context_at(row, head) / 4u + v % D4]);
  }
  var shift_next = log_sum_exp[(start + min(local, last)) * immediates.heads + head];
  var delta_next = delta[(start + min(local, last)) * immediates.heads + head];
  for (var first_query = 0u; first_query < length; first_query += WIDTH) {
    workgroupBarrier();
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      if is_staged(v) {
        put_first(staged_at(v), query_next[l]);
        put_second(staged_at(v), upstream_next[l]);
      }
    }
    if local < WIDTH {
      shifts[local] = shift_next * LOG2_E;
      deltas[local] = delta_next;
    }
    workgroupBarrier();
    let next = first_query + WIDTH;
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      let row = start + min(next + v / D4, last);
      query_next[l] = vec4<f16>(qkv[qkv_at(row, 0u, head) / 4u + v % D4]);
      upstream_next[l] = vec4<f16>(context_gradient[context_at(row, head) / 4u + v % D4]);
    }
    shift_next = log_sum_exp[(start + min(next + local, last)) * immediates.heads + head];
    delta_next = delta[(start + min(next + local, last)) * immediates.heads + head];
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = e * STRIDE;
      var s = MatrixC();
      var g = MatrixC();
#for F FRAGMENTS
      s = coopMultiplyAdd(coopLoadT<MatrixA>(&first_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), k$F, s);
      g = coopMultiplyAdd(coopLoadT<MatrixA>(&second_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), v$F, g);
#end
      let to = UNIT * (own_scores + e * SCORE_STRIDE);
      let behind = UNIT * (own_scores + PRODUCTS + e * SCORE_STRIDE);
      coopStoreT(s, &scores[to], UNIT * SCORE_STRIDE);
      coopStoreT(g, &scores[behind], UNIT * SCORE_STRIDE);
    }
    meet();
    for (var i = 0u; i < PASSES; i++) {
      let r = lane_row + i * ROW_STEP;
      let query = first_query + r;
      let at = own_scores + r * SCORE_STRIDE + slot;
      let exists = vec4<bool>(query < length);
      let p = keep(exp2(score(at) * (SCORE_SCALE * LOG2_E) - shifts[r]), exists);
      var g = score(at + PRODUCTS);
      var lifted = p * exp2(LIFT);
      if immediates.threshold != 0u {
        let bits = dropout_block(draws, (head << 16u) | query, own_key / 4u + slot);
        let kept = bits >= vec4<u32>(immediates.threshold);
        g = keep(g * immediates.scale, kept);
        lifted = keep(lifted, kept);
      }
      let to = own_weights + r * WEIGHT_STRIDE + slot;
      put_weight(to, vec4<f16>(lifted));
      put_weight(to + SECOND, vec4<f16>(p * (g - deltas[r]) * GRADIENT_SCALE));
    }
    meet();
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = e * STRIDE;
      let own = own_weights + e * WEIGHT_STRIDE;
      let p = coopLoad<MatrixA>(&weights[UNIT * own], UNIT * WEIGHT_STRIDE);
      let ds = coopLoad<MatrixA>(&weights[UNIT * (own + SECOND)], UNIT * WEIGHT_STRIDE);
#for F FRAGMENTS
      dv$F = coopMultiplyAdd(p, coopLoadT<MatrixB>(&second_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), dv$F);
      dk$F = coopMultiplyAdd(ds, coopLoadT<MatrixB>(&first_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), dk$F);
#end
    }
  }

  // Scores were read last before a barrier.
#for F FRAGMENTS
  let to$F = UNIT * (own_scores + $Fu * M4);
  coopStoreT(dv$F, &scores[to$F], UNIT * OUT_STRIDE);
#end
  meet();
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let key = own_key + v / D4;
    if key < length {
      let out = score(own_scores + v / D4 * OUT_STRIDE + v % D4) * exp2(-LIFT) * immediates.scale;
      store_qkv_gradient(qkv_at(start + key, 2u, head), v % D4, out);
    }
  }
  meet();
#for F FRAGMENTS
  coopStoreT(dk$F, &scores[to$F], UNIT * OUT_STRIDE);
#end
  meet();
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let key = own_key + v / D4;
    if key < length {
      let out = score(own_scores + v / D4 * OUT_STRIDE + v % D4);
      store_qkv_gradient(qkv_at(start + key, 1u, head), v % D4, out * (1.0 / RAISE));
    }
  }
}
