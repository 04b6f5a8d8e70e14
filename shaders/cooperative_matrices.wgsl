enable f16;
enable wgpu_cooperative_matrix;
// Operands and sums of a product of cooperative matrices, f16 · f16 → f32, MATRIX × MATRIX elements each.

#if MATRIX == 16
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
#else
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
#endif
