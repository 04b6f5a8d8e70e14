// What follows a sum, one element at a time (EPILOGUE, as in matmul_tiled.wgsl): for the products of any dimensions and
// for the sums of split ones. Around it are the bindings of the epilogue, and `Result` and `Before`, the elements of
// `c` and of `before`.

// Element `at` of the product, in column j, becomes element `to` of C.
fn follow(to: u32, at: u32, j: u32, product: f32) {
#if EPILOGUE == 0
  c[to] = Result(product);
#endif
#if EPILOGUE == 1
  c[to] = Result(product + bias[j]);
#endif
#if EPILOGUE == 2
  let x = product + bias[j];
  before[at] = Before(x);
  c[to] = Result(gelu(x));
#endif
#if EPILOGUE == 3
  let both = gelu_and_derivative(f32(before[at]));
  c[to] = Result(product * both.y);
  before[at] = Before(both.x);
#endif
#if EPILOGUE == 4
  c[to] = Result(product + f32(residual[at]));
#endif
}
