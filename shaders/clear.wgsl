// words ← 0.
//
// Dispatch: 4,096 words a workgroup of 256: each thread 16, in steps of 256 so that writes coalesce.
struct Immediates {
  elements: u32,
}
var<immediate> immediates: Immediates;

@group(0) @binding(1) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let first = workgroup_index(group, groups) * 4096u + thread;
  for (var i = 0u; i < 16u; i += 1u) {
    let at = first + i * 256u;
    if at < immediates.elements {
      words[at] = 0u;
    }
  }
}
