//! What an op sees of the CPU executor's memory.

use std::cell::UnsafeCell;

use crate::tensor::{Extents, StepValues, TensorId};

use super::Scalar;

/// A buffer of the CPU executor. Several tensors may share one, at different times or in different ranges.
pub enum Buffer<S> {
    Float(UnsafeCell<Vec<S>>),
    Uint(UnsafeCell<Vec<u32>>),
}

/// Where a tensor lies: `length` elements from `offset` of buffer `buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub buffer: usize,
    pub offset: usize,
    pub length: usize,
}

/// The tensors of a plan during one micro-batch.
///
/// Slices are handed out unchecked against each other. That is sound because `plan::Plan::build` has proved,
/// for every op, that what it writes overlaps nothing else it touches, and the executor runs one op at a time;
/// an op asks for each tensor once and never for one it did not declare.
pub struct Memory<'a, S> {
    buffers: &'a [Buffer<S>],
    placements: &'a [Placement],
    pub values: &'a StepValues,
}

// Ops hand disjoint parts of the slices to the thread pool; the buffers themselves are not touched.
unsafe impl<S: Send> Sync for Memory<'_, S> {}

impl<'a, S: Scalar> Memory<'a, S> {
    /// # Safety
    /// `placements` must lie inside `buffers`, ops run on this memory must have been checked by
    /// `plan::Plan::build`, and nothing else may touch the buffers meanwhile.
    pub unsafe fn new(buffers: &'a [Buffer<S>], placements: &'a [Placement], values: &'a StepValues) -> Self {
        Memory { buffers, placements, values }
    }

    pub fn extents(&self) -> Extents {
        self.values.extents()
    }

    fn place(&self, id: TensorId) -> Placement {
        self.placements[id.0 as usize]
    }

    /// The elements of a float tensor, at full capacity.
    pub fn read(&self, id: TensorId) -> &'a [S] {
        self.write(id)
    }

    /// The elements of a float tensor, to be written.
    #[allow(clippy::mut_from_ref)]
    pub fn write(&self, id: TensorId) -> &'a mut [S] {
        let place = self.place(id);
        match &self.buffers[place.buffer] {
            // SAFETY: see the type: ranges of one op are disjoint where one of them is written.
            Buffer::Float(cell) => unsafe {
                let base = (*cell.get()).as_mut_ptr();
                std::slice::from_raw_parts_mut(base.add(place.offset), place.length)
            },
            Buffer::Uint(_) => panic!("tensor {} holds integers, not floats", id.0),
        }
    }

    /// The elements of an integer tensor, at full capacity.
    pub fn read_uint(&self, id: TensorId) -> &'a [u32] {
        self.write_uint(id)
    }

    /// The elements of an integer tensor, to be written.
    #[allow(clippy::mut_from_ref)]
    pub fn write_uint(&self, id: TensorId) -> &'a mut [u32] {
        let place = self.place(id);
        match &self.buffers[place.buffer] {
            // SAFETY: as in `write`.
            Buffer::Uint(cell) => unsafe {
                let base = (*cell.get()).as_mut_ptr();
                std::slice::from_raw_parts_mut(base.add(place.offset), place.length)
            },
            Buffer::Float(_) => panic!("tensor {} holds floats, not integers", id.0),
        }
    }
}
