// A lane: 4 channels where their number divides by 4 (VEC), else 1.

#if VEC
alias Lane = vec4<f32>;
const LANE: u32 = 4u;
#else
alias Lane = f32;
const LANE: u32 = 1u;
#endif
