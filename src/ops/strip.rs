//! Parts of matrices that the CPU's tasks share.

use super::Scalar;
use super::scalar::Strided;

/// Neighbouring columns of a row-major matrix, shared between tasks that write disjoint rectangles.
#[derive(Clone, Copy)]
pub struct Strip<S> {
    pointer: *mut S,
    /// Elements from row to row of the matrix.
    pub stride: usize,
    pub columns: usize,
}

// SAFETY: tasks write disjoint (rows × columns) rectangles, see the callers of `row_mut` and `at`.
unsafe impl<S: Send> Send for Strip<S> {}
unsafe impl<S: Sync> Sync for Strip<S> {}

impl<S: Scalar> Strip<S> {
    /// Columns `first..first + columns` of the matrix of `stride` columns that starts at `matrix`.
    pub fn new(matrix: *mut S, stride: usize, first: usize, columns: usize) -> Self {
        Strip { pointer: matrix.wrapping_add(first), stride, columns }
    }

    pub fn at(&self, row: usize) -> *mut S {
        self.pointer.wrapping_add(row * self.stride)
    }

    /// # Safety
    /// The row must exist, and nobody may write its columns meanwhile.
    #[inline(always)]
    pub unsafe fn row<'a>(&self, row: usize) -> &'a [S] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(row), self.columns) }
    }

    /// # Safety
    /// The row must exist, and nobody else may touch its columns meanwhile.
    #[inline(always)]
    pub unsafe fn row_mut<'a>(&self, row: usize) -> &'a mut [S] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row), self.columns) }
    }

    /// The matrix from `row` on, as an operand of a product.
    pub fn operand(&self, row: usize) -> Strided<S> {
        Strided { pointer: self.at(row), row: self.stride, column: 1 }
    }

    pub fn transposed(&self, row: usize) -> Strided<S> {
        Strided { pointer: self.at(row), row: 1, column: self.stride }
    }
}
