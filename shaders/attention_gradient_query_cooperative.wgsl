// Attention backward on cooperative matrices, first kernel: the gradient of the queries, and delta [T, NH] = row sums of
// dO∘O for the second (attention_gradient_key_value_*). O is the context, dO its gradient; per sequence and head
//   P = exp(q·kᵀ/√HEAD_SIZE − log_sum_exp), dS = P∘(dropout(dO·vᵀ) − delta), dq = dS·k/√HEAD_SIZE.
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context [T, H], 4 log_sum_exp [T, NH], 5 context_gradient [T, H], 6 delta (written),
//   7 qkv_gradient [T, 3H] (the query's columns are written).
// Dispatch: one workgroup of four subgroups for each sequence, head and block of ROWS rows (of max_length); blocks
//   beyond the end of their sequence do nothing.
// Tiles: a subgroup holds MATRIX queries: q and dO as operands, dq as sums, all in registers. The workgroup stages WIDTH
//   keys and values at a time (in one place: two, as forward has them, are 2 % slower here on an H100); the next are
//   fetched into registers meanwhile. q·kᵀ and dO·vᵀ go through memory of the subgroup's own, where lanes make dS of
//   them, four keys of a row at a time; dS comes back as an operand.
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: products f16 · f16 → f32, sums in the device's own order within a matrix, keys in order; dS times
//   GRADIENT_SCALE rounded to halves, all else f32. What is too large for a half is infinite there and makes dq infinite
//   or NaN, so that loss scaling sees it. The sum of a row of dS is zero; what rounding leaves of it is taken back: of dS
//   as rounded, from dq times the first key, of the exact one, from delta, for the second kernel.

@group(0) @binding(3) var<storage, read> context: array<V3>;
@group(0) @binding(4) var<storage, read> log_sum_exp: array<f32>;
@group(0) @binding(5) var<storage, read> context_gradient: array<V5>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
alias GradientVector = V7;
alias GradientNumber = T7;
@group(0) @binding(7) var<storage, read_write> qkv_gradient: array<V7>;

// A stage; q and dO of the workgroup's rows at first.
const TILE: u32 = max(WIDTH, ROWS) * STRIDE;
// Rows of a tile of scores (padded by 8 numbers) and of dS (by 8 halves), in vectors; the tile of dO·vᵀ behind the scores.
const SCORE_STRIDE: u32 = WIDTH / 4u + 2u;
const WEIGHT_STRIDE: u32 = WIDTH / 4u + 2u;
const PRODUCTS: u32 = MATRIX * SCORE_STRIDE;
const SCORES: u32 = SUBGROUPS * 2u * PRODUCTS;
const WEIGHTS: u32 = SUBGROUPS * MATRIX * WEIGHT_STRIDE;
// Lanes that share a row, rows between those of a lane, and rows of a lane.
const GROUP: u32 = WIDTH / 4u;
const ROW_STEP: u32 = LANES / GROUP;
const PASSES: u32 = MATRIX / ROW_STEP;

#include attention_operands
#include attention_context
#include attention_gradient_operands
#include attention_cooperative

// Sums of the rows of dS as rounded.
var<workgroup> totals: array<f32, ROWS>;

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
  let own_scores = subgroup * 2u * PRODUCTS;
  let own_weights = own_row * WEIGHT_STRIDE;
  let slot = lane % GROUP;
  let lane_row = lane / GROUP;

  for (var v = local; v < ROWS * D4; v += THREADS) {
    let row = start + min(first_row + v / D4, last);
    put_first(staged_at(v), vec4<f16>(qkv[qkv_at(row, 0u, head) / 4u + v % D4]));
    put_second(staged_at(v), vec4<f16>(context_gradient[context_at(row, head) / 4u + v % D4]));
  }
  // Of this lane's rows: log_sum_exp in powers of two, the sum of dO∘O, and the sums of the lane's part of dS, exact and
  // rounded.
  var shift: array<f32, PASSES>;
  var known: array<f32, PASSES>;
  var rest: array<f32, PASSES>;
  var rounded: array<f32, PASSES>;
  for (var i = 0u; i < PASSES; i++) {
    let row = start + min(first_row + own_row + lane_row + i * ROW_STEP, last);
    shift[i] = log_sum_exp[row * immediates.heads + head] * LOG2_E;
    let at = context_at(row, head);
    var sum = 0.0;
    for (var c = slot; c < D4; c += GROUP) { sum += dot(load_context_gradient(at, c), load_context(at, c)); }
    known[i] = row_sum(sum);
    rest[i] = 0.0;
    rounded[i] = 0.0;
  }
  workgroupBarrier();
#for F FRAGMENTS
  let q$F = coopLoadT<MatrixA>(&first_tile[UNIT * (own_row * STRIDE + $Fu * M4)], UNIT * STRIDE);
  let u$F = coopLoadT<MatrixA>(&second_tile[UNIT * (own_row * STRIDE + $Fu * M4)], UNIT * STRIDE);
  var o$F = MatrixC();
#end

  var key_next: array<vec4<f16>, LOADS>;
  var value_next: array<vec4<f16>, LOADS>;
  for (var l = 0u; l < LOADS; l++) {
    let v = local + l * THREADS;
    let at = qkv_at(start + min(v / D4, last), 1u, head) / 4u + v % D4;
    key_next[l] = vec4<f16>(qkv[at]);
    value_next[l] = vec4<f16>(qkv[at + immediates.heads * D4]);
  }
  for (var first_key = 0u; first_key < length; first_key += WIDTH) {
    workgroupBarrier();
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      if is_staged(v) {
        put_first(staged_at(v), key_next[l]);
        put_second(staged_at(v), value_next[l]);
      }
    }
    workgroupBarrier();
    for (var l = 0u; l < LOADS; l++) {
      let v = local + l * THREADS;
      let at = qkv_at(start + min(first_key + WIDTH + v / D4, last), 1u, head) / 4u + v % D4;
      key_next[l] = vec4<f16>(qkv[at]);
      value_next[l] = vec4<f16>(qkv[at + immediates.heads * D4]);
    }
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = e * STRIDE;
      var s = MatrixC();
      var g = MatrixC();
#for F FRAGMENTS
      s = coopMultiplyAdd(q$F, coopLoad<MatrixB>(&first_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), s);
      g = coopMultiplyAdd(u$F, coopLoad<MatrixB>(&second_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), g);
#end
      let to = UNIT * (own_scores + e / 4u);
      let behind = UNIT * (own_scores + PRODUCTS + e / 4u);
      coopStoreT(s, &scores[to], UNIT * SCORE_STRIDE);
      coopStoreT(g, &scores[behind], UNIT * SCORE_STRIDE);
    }
    meet();
    let key = first_key + 4u * slot;
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    for (var i = 0u; i < PASSES; i++) {
      let r = lane_row + i * ROW_STEP;
      let at = own_scores + r * SCORE_STRIDE + slot;
      let p = keep(exp2(score(at) * (SCORE_SCALE * LOG2_E) - shift[i]), exists);
      var g = score(at + PRODUCTS);
      if immediates.threshold != 0u {
        let bits = dropout_block(draws, (head << 16u) | (first_row + own_row + r), key / 4u);
        g = keep(g * immediates.scale, bits >= vec4<u32>(immediates.threshold));
      }
      g = p * (g - known[i]);
      rest[i] += (g.x + g.y) + (g.z + g.w);
      let half = vec4<f16>(g * GRADIENT_SCALE);
      put_weight(own_weights + r * WEIGHT_STRIDE + slot, half);
      g = vec4<f32>(half);
      rounded[i] += (g.x + g.y) + (g.z + g.w);
    }
    meet();
    for (var e = 0u; e < WIDTH; e += MATRIX) {
      let at = e * STRIDE;
      let w = coopLoadT<MatrixA>(&weights[UNIT * (own_weights + e / 4u)], UNIT * WEIGHT_STRIDE);
#for F FRAGMENTS
      o$F = coopMultiplyAdd(w, coopLoadT<MatrixB>(&first_tile[UNIT * (at + $Fu * M4)], UNIT * STRIDE), o$F);
#end
    }
  }

  // Scores were read last before a barrier.
#for F FRAGMENTS
  let to$F = UNIT * (own_scores + $Fu * M4);
  coopStoreT(o$F, &scores[to$F], UNIT * OUT_STRIDE);
#end
  for (var i = 0u; i < PASSES; i++) {
    let r = own_row + lane_row + i * ROW_STEP;
    let all = row_sum(rest[i]);
    let total = row_sum(rounded[i]);
    if slot == 0u {
      totals[r] = total;
      if first_row + r < length {
        delta[(start + first_row + r) * immediates.heads + head] = known[i] + all;
      }
    }
  }
  meet();
  for (var v = lane; v < MATRIX * D4; v += LANES) {
    let r = v / D4;
    let c = v % D4;
    let row = first_row + own_row + r;
    if row < length {
      let key = load_qkv(qkv_at(start, 1u, head), c);
      let out = score(own_scores + r * OUT_STRIDE + c) - totals[own_row + r] * key;
      store_qkv_gradient(qkv_at(start + row, 0u, head), c, out * (1.0 / RAISE));
    }
  }
}
