// Immediates of the products: rows (3 words), n, inner, first elements of A, B and C, splits (src/ops/matmul/kernels.rs).

struct Immediates {
  extent: u32,
  offset: u32,
  capacity: u32,
  n: u32,
  inner: u32,
  first_a: u32,
  first_b: u32,
  first_c: u32,
  splits: u32,
}
var<immediate> immediates: Immediates;
