// Attention forward, tiled: context [T, H] = dropout(softmax(q·kᵀ / √HEAD_SIZE))·v within each sequence and head, and
// log_sum_exp [T, NH] = ln Σ exp(score).
// qkv [T, 3H]: query | key | value, head h at columns h·HEAD_SIZE of each; sequence s is rows starts[s]..starts[s + 1].
//
// Bindings: 1 qkv, 2 starts, 3 context (written), 4 log_sum_exp (written).
// Dispatch: one workgroup for each sequence, head and block of 64 rows (of max_length); blocks beyond the end of
//   their sequence return at once, so work follows the real lengths.
// Tiles: 64 queries (rows) × 64 keys (columns). Thread (x, y) of 16 × 16 holds rows 4y..4y+3 and, of a tile, columns
//   4x..4x+3 (one block of draws a row); of the output, vectors x, x+16 of its rows. 16 scores, 16 sums that join them
//   and 16 of output fit the 64 registers with which the Radeon VII runs 4 waves, for heads up to 64. q·kᵀ runs over the
//   head in steps of 32 columns (16 for heads up to 16) through 16 KiB of workgroup memory; then the tile goes through
//   it, STAGED columns at a time with as many rows of the values: as many as fit, at most 32. Operands lie with four
//   rows a vector (values with four columns), so that two reads of 16 bytes at constant offsets serve 16 multiply-adds.
// Constants: HEAD_SIZE 1..=128; VECTOR 1 where it is a multiple of 4 (rows are then read as vectors).
// Dropout: the bits of (head, query, key) are half-word key mod 4 of block [head << 16 | query, key / 4].
// Numerics: f32; running maximum and sum (online softmax), keys in order; finite scores assumed, keys beyond the end of
//   the sequence in its last tile get MASKED_SCORE. Scores are summed in blocks of BLOCK, as exp passes on what a longer
//   chain would round; the output in chains. The sum counts dropped probabilities, as softmax comes first.

#if VECTOR
@group(0) @binding(3) var<storage, read_write> context: array<V3>;
#else
@group(0) @binding(3) var<storage, read_write> context: array<T3>;
#endif
@group(0) @binding(4) var<storage, read_write> log_sum_exp: array<f32>;

const ROWS: u32 = 64u;
const COLUMNS: u32 = 64u;
// Vectors of output columns a thread holds: 16 threads share a row.
const OUT: u32 = (D4 + 15u) / 16u;
// Columns of the head that go through workgroup memory at a time, in vectors of four; and the products that are summed
// before they join the score: exp passes on what sums round, and one chain over the head errs twice as much.
const STEP: u32 = select(4u, 8u, HEAD_SIZE > 16u);
const BLOCK: u32 = select(4u, 16u, HEAD_SIZE > 16u);

// Operands of the product in progress. Scores: 4·STEP columns of the head of 64 rows, then of the other 64, a vector
// holding four rows. Output: STAGED columns of the tile, a vector holding four rows, then as many rows of the head.
var<workgroup> stage: array<vec4<f32>, 1024>;

#include attention_operands
#include attention_context_store
#include attention_scores
#include attention_outer

// A number of the stage.
fn stage_number(i: u32) -> f32 {
  return stage[i / 4u][i % 4u];
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let block = own_block(group, groups, ROWS);
  let head = block.head;
  let start = block.start;
  let length = block.length;
  let first_row = block.first;
  if first_row >= length { return; }
  let draws = sequence_key(immediates.site, block.sequence);
  // State of row local % 64 of the workgroup's: its highest score, and a quarter of its sum. One register each here for
  // four where every thread keeps its own rows'.
  var highest = MASKED_SCORE;
  var sum = 0.0;
  var out: array<vec4<f32>, 4u * OUT>;
  for (var first_column = 0u; first_column < length; first_column += COLUMNS) {
    var s = scores(local, start, length, first_row, first_column, head);
    let t = again(local, 4u * first_column);
    let thread = vec2<u32>(t % 16u, t / 16u);
    let own = first_row + 4u * thread.y;
    let state = t % 64u;
    let quarter = t / 64u;
    // This thread's keys that exist.
    let key = first_column + 4u * thread.x;
    let exists = vec4<u32>(key, key + 1u, key + 2u, key + 3u) < vec4<u32>(length);
    var top = vec4<f32>(MASKED_SCORE);
    for (var i = 0u; i < 4u; i++) {
      s[i] = select(vec4<f32>(MASKED_SCORE), s[i] * SCORE_SCALE, exists);
      top[i] = max(max(s[i].x, s[i].y), max(s[i].z, s[i].w));
    }
    // Highest of the row: of quarters of the tile first, then of these.
    workgroupBarrier();
    stage[thread.x * 16u + thread.y] = top;
    workgroupBarrier();
    let before = highest;
    for (var x = 0u; x < 4u; x++) {
      highest = max(highest, stage_number((4u * quarter + x) * 64u + state));
    }
    stage[256u + t / 4u][t % 4u] = highest;
    if quarter == 0u { stage[320u + t / 4u][t % 4u] = before; }
    workgroupBarrier();
    for (var q = 0u; q < 4u; q++) {
      highest = max(highest, stage_number(1024u + q * 64u + state));
      top = max(top, stage[256u + q * 16u + thread.y]);
    }
    let correction = exp(stage[320u + thread.y] - top);
    var partial = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
      s[i] = exp(s[i] - top[i]);
      partial[i] = (s[i].x + s[i].y) + (s[i].z + s[i].w);
      if immediates.threshold != 0u {
        let row = (head << 16u) | (own + i);
        s[i] *= dropout_factors(draws, row, key / 4u, immediates.threshold, immediates.scale);
      }
      for (var m = 0u; m < OUT; m++) {
        out[i * OUT + m] *= correction[i];
      }
    }
    // What was read here last lies before a barrier.
    stage[thread.x * 16u + thread.y] = partial;
    workgroupBarrier();
    sum *= exp(before - highest);
    for (var x = 0u; x < 4u; x++) {
      sum += stage_number((4u * quarter + x) * 64u + state);
    }
    let tile = transpose(s);
    for (var part = 0u; part < COLUMNS; part += STAGED) {
      if first_column + part >= length { break; }
      workgroupBarrier();
      stage_tile(tile, thread, part, 0u, 16u);
      for (var t = local; t < STAGED * D4; t += 256u) {
        let column = min(first_column + part + t / D4, length - 1u);
        stage[STAGED * 16u + t] = load_qkv(qkv_at(start + column, 2u, head), t % D4);
      }
      workgroupBarrier();
      for (var k = 0u; k < STAGED; k += 8u) {
        for (var j = 0u; j < 8u; j++) {
          add_outer((k + j) * 16u + thread.y, STAGED * 16u + (k + j) * D4, thread.x, &out);
        }
      }
    }
  }
  let thread = vec2<u32>(local % 16u, local / 16u);
  let own = first_row + 4u * thread.y;
  let state = local % 64u;
  workgroupBarrier();
  stage[local / 4u][local % 4u] = sum;
  workgroupBarrier();
  let total = (stage[thread.y] + stage[16u + thread.y]) + (stage[32u + thread.y] + stage[48u + thread.y]);
  if local < 64u && first_row + state < length {
    let all = (stage_number(state) + stage_number(64u + state)) + (stage_number(128u + state) + stage_number(192u + state));
    log_sum_exp[(start + first_row + state) * immediates.heads + head] = highest + ln_positive(all);
  }
  for (var i = 0u; i < 4u; i++) {
    if own + i < length {
      let row = start + own + i;
      for (var m = 0u; m < OUT; m++) {
        let c = thread.x + 16u * m;
        if c < D4 { store_context(context_at(row, head), c, out[i * OUT + m] / total[i]); }
      }
    }
  }
}
