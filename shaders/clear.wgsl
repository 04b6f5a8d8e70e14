// The first words of TENSORS tensors ← 0, one tensor after the other. (Zero has the same bits in every type.)
//
// Bindings: the tensors.
// Dispatch: 4,096 words a workgroup of 256: each thread 16, in steps of 256 so that writes coalesce.
struct Immediates {
  elements_0: u32,
  elements_1: u32,
  elements_2: u32,
  elements_3: u32,
}
var<immediate> immediates: Immediates;

#for T TENSORS
@group(0) @binding($T + 1) var<storage, read_write> words_$T: array<u32>;
#end

const BLOCK: u32 = 4096u;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = workgroup_index(group, groups);
  var before = 0u;
#for T TENSORS
  let end_$T = before + (immediates.elements_$T + BLOCK - 1u) / BLOCK;
  if index >= before && index < end_$T {
    let first = (index - before) * BLOCK + thread;
    for (var i = 0u; i < 16u; i++) {
      let at = first + i * 256u;
      if at < immediates.elements_$T {
        words_$T[at] = 0u;
      }
    }
  }
  before = end_$T;
#end
}
