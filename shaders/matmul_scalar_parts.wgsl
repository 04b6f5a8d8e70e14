// What the products of any dimensions share (matmul_tiled.wgsl, matmul_registers.wgsl): operands and results in memory,
// and what happens to a finished sum. FORM, EPILOGUE, SPLIT, BIAS_GRADIENT as in matmul_tiled.wgsl.

#include matmul_immediates

@group(0) @binding(1) var<storage, read> a: array<T1>;
@group(0) @binding(2) var<storage, read> b: array<T2>;
@group(0) @binding(3) var<storage, read_write> c: array<T3>;
#if EPILOGUE == 1
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#endif
#if EPILOGUE == 2
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> before: array<T5>;
alias Before = T5;
#endif
#if EPILOGUE == 3
@group(0) @binding(4) var<storage, read_write> before: array<T4>;
alias Before = T4;
#endif
#if EPILOGUE == 4
@group(0) @binding(4) var<storage, read> residual: array<T4>;
#endif
#if BIAS_GRADIENT
#if SPLIT == 0
@group(0) @binding(4) var<storage, read_write> bias_gradient: array<f32>;
#endif
#endif

alias Result = T3;

#include matmul_scalar_epilogue

// Writes element (i, j) of the product of split number `split`.
fn finish(split: u32, i: u32, j: u32, m: u32, product: f32) {
  let n = immediates.n;
  let at = i * n + j;
#if SPLIT
#if FORM == 2
  c[split * (m * n + m) + at] = T3(product);
#else
  c[split * m * n + at] = T3(product);
#endif
#else
#if FORM == 2
  c[immediates.first_c + at] += T3(product);
#else
  follow(immediates.first_c + at, at, j, product);
#endif
#endif
}

#if BIAS_GRADIENT
// Adds (or puts into this split's partial sums) the sum of column i of A.
fn finish_bias(split: u32, i: u32, m: u32, sum: f32) {
#if SPLIT
  c[split * (m * immediates.n + m) + m * immediates.n + i] = T3(sum);
#else
  bias_gradient[i] += sum;
#endif
}
#endif
