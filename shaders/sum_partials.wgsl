// Adds partial sums up, of several ops in one dispatch: of every segment,
//   target[to + j] += Σ_p partials[p, first + j], 0 ≤ j < elements, p over all its parts.
//
// Bindings: 1.. TENSORS tensors of partial sums, each [parts, columns]; then the targets, all in one buffer; then the
//   segments, in the order of their workgroups.
// Dispatch: ceil(elements / COLUMNS) workgroups for each segment, one segment after the other.
// Tiles: COLUMNS columns by PARTS parts at a time. It is bound by memory: a row of threads reads 256 contiguous bytes,
//   and four rows of them keep many parts of few columns (norms) from being one long chain; each reads four of its parts at a
//   time, as weights have up to 128.
// Numerics: f32; a thread adds every PARTS-th part in order, then PARTS sums in a fixed tree.

const COLUMNS: u32 = 64u;
const PARTS: u32 = 4u;
const WIDTH: u32 = COLUMNS * PARTS;

struct Immediates {
  segments: u32,
}
var<immediate> immediates: Immediates;

// As `Segment` of src/gpu/sums.rs.
struct Segment {
  // Workgroups of this segment and of those before it.
  end: u32,
  // Which of the tensors.
  tensor: u32,
  parts: u32,
  columns: u32,
  first: u32,
  elements: u32,
  to: u32,
}

#for T TENSORS
@group(0) @binding($T + 1) var<storage, read> partials_$T: array<f32>;
#end
@group(0) @binding(TENSORS + 1u) var<storage, read_write> targets: array<f32>;
@group(0) @binding(TENSORS + 2u) var<storage, read> segments: array<Segment>;

var<workgroup> sums: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let index = workgroup_index(group, groups);
  var number = 0u;
  var start = 0u;
  while number < immediates.segments && index >= segments[number].end {
    start = segments[number].end;
    number++;
  }
  // Workgroups beyond the last segment go on to the barriers with nothing to add.
  let segment = segments[min(number, immediates.segments - 1u)];
  let column = (index - start) * COLUMNS + local % COLUMNS;
  let inside = number < immediates.segments && column < segment.elements;

  var sum = 0.0;
  if inside {
    let at = segment.first + column;
#for T TENSORS
    if segment.tensor == $Tu {
      var part = local / COLUMNS;
      for (; part + 3u * PARTS < segment.parts; part += 4u * PARTS) {
#for P 4
        let part_$P = partials_$T[(part + $Pu * PARTS) * segment.columns + at];
#end
#for P 4
        sum += part_$P;
#end
      }
      for (; part < segment.parts; part += PARTS) {
        sum += partials_$T[part * segment.columns + at];
      }
    }
#end
  }
  sums[local] = sum;
  for (var stride = WIDTH / 2u; stride >= COLUMNS; stride /= 2u) {
    workgroupBarrier();
    if local < stride {
      sums[local] += sums[local + stride];
    }
  }
  if inside && local < COLUMNS {
    targets[segment.to + column] += sums[local];
  }
}
