//! What an op sees of the CPU executor's memory: the tensors it declares, and no others.
//!
//! # Why the slices are sound
//!
//! Ops get plain slices of buffers that several tensors share, and hand parts of them to the thread pool. Nothing but
//! this module makes slices of the buffers while an op runs, and of all slices handed out to one op, none that may be
//! written overlaps another:
//! - `plan::Plan::build` proves of every op that what it writes (`Write`, `Accumulate`, `Scratch`) lies apart from all
//!   else it touches, and that what it only reads lies in other buffers;
//! - [`Memory::read`] gives a shared slice, and only of a tensor declared as read; it may be asked for any number of
//!   times, from any thread;
//! - [`Memory::write`] gives the only slice there is of a tensor that the op writes: a second request is refused;
//! - the executor runs one op at a time, each over a `Memory` of its own, through `&mut` of the buffers' owner.
//!
//! A request against these rules is a mistake in the op's code. It panics, in release builds too: a request is one
//! look at a short list, an op has milliseconds of work, and the alternative is two `&mut` of one place.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::tensor::{Extents, StepValues, TensorId};

use super::{Scalar, TensorUse, Touch};

/// A buffer of the CPU executor. Several tensors may share one, at different times or in different ranges.
pub enum Buffer<S> {
    Float(Cells<S>),
    Uint(Cells<u32>),
}

/// Elements that are written through shared references.
pub struct Cells<T>(Box<[UnsafeCell<T>]>);

// SAFETY: a shared reference gives elements only through methods that are unsafe, by the rules above.
unsafe impl<T: Send + Sync> Sync for Cells<T> {}

impl<T> From<Vec<T>> for Cells<T> {
    fn from(elements: Vec<T>) -> Self {
        let elements = Box::into_raw(elements.into_boxed_slice());
        // SAFETY: the box was just taken apart, and `UnsafeCell<T>` has the layout of `T`.
        Cells(unsafe { Box::from_raw(elements as *mut [UnsafeCell<T>]) })
    }
}

impl<T> Cells<T> {
    /// The elements, by whoever owns them alone.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: `&mut self` keeps all others away, and `UnsafeCell<T>` has the layout of `T`.
        unsafe { &mut *(&mut *self.0 as *mut [UnsafeCell<T>] as *mut [T]) }
    }

    fn at(&self, place: Placement) -> &[UnsafeCell<T>] {
        &self.0[place.offset..place.offset + place.length]
    }

    /// # Safety
    /// Nobody writes these elements while the slice lives.
    unsafe fn shared(&self, place: Placement) -> &[T] {
        let cells = self.at(place);
        // SAFETY: the cells are there, with the layout of `T`; the caller's promise.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// # Safety
    /// Nobody else touches these elements while the slice lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn exclusive(&self, place: Placement) -> &mut [T] {
        let cells = self.at(place);
        // SAFETY: as in `shared`; the pointer is to cells, which may be written through a shared reference.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}

/// Where a tensor lies: `length` elements from `offset` of buffer `buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub buffer: usize,
    pub offset: usize,
    pub length: usize,
}

/// The buffers of a plan, and where each tensor lies in them.
pub struct Buffers<'a, S> {
    pub buffers: &'a [Buffer<S>],
    /// By tensor id.
    pub placements: &'a [Placement],
}

/// What an op has asked for so far.
pub struct Requests<'a> {
    /// Of which op, for messages.
    op: &'a str,
    tensors: &'a [TensorUse],
    /// By place in `tensors`: it was handed out for writing.
    taken: Box<[AtomicBool]>,
}

impl<'a> Requests<'a> {
    pub fn new(op: &'a str, tensors: &'a [TensorUse]) -> Self {
        Requests { op, tensors, taken: tensors.iter().map(|_| AtomicBool::new(false)).collect() }
    }

    /// Whether the op may have this tensor, for writing or only to be read.
    ///
    /// # Errors
    /// What was asked for against the op's declaration.
    pub fn grant(&self, tensor: TensorId, writing: bool) -> Result<(), String> {
        let Requests { op, tensors, taken } = self;
        let Some(index) = tensors.iter().position(|declared| declared.tensor == tensor) else {
            return Err(format!("{op} asks for tensor {}, which it does not declare", tensor.0));
        };
        let TensorUse { field, touch, .. } = tensors[index];
        match (touch == Touch::Read, writing) {
            (true, true) => Err(format!("{op} writes `{field}`, which it declares as read")),
            (false, false) => {
                Err(format!("{op} asks to read `{field}`, which it writes: one slice serves both"))
            }
            (true, false) => Ok(()),
            (false, true) if taken[index].swap(true, Ordering::Relaxed) => {
                Err(format!("{op} asks twice for `{field}`, which it writes"))
            }
            (false, true) => Ok(()),
        }
    }
}

/// The tensors of one op during one micro-batch.
pub struct Memory<'a, S> {
    buffers: Buffers<'a, S>,
    requests: Requests<'a>,
    pub values: &'a StepValues,
}

impl<'a, S: Scalar> Memory<'a, S> {
    /// # Safety
    /// The op must be one of a plan that `plan::Plan::build` has made, or its tensors must lie as that would have them;
    /// nothing else may touch the buffers while the op runs.
    pub unsafe fn new(buffers: Buffers<'a, S>, requests: Requests<'a>, values: &'a StepValues) -> Self {
        Memory { buffers, requests, values }
    }

    pub fn extents(&self) -> Extents {
        self.values.extents()
    }

    fn granted(&self, id: TensorId, writing: bool) -> (&'a Buffer<S>, Placement) {
        self.requests.grant(id, writing).unwrap_or_else(|refusal| panic!("{refusal}"));
        let place = self.buffers.placements[id.0 as usize];
        (&self.buffers.buffers[place.buffer], place)
    }

    /// The elements of a float tensor that the op reads, at full capacity.
    pub fn read(&self, id: TensorId) -> &'a [S] {
        match self.granted(id, false) {
            // SAFETY: the op declares it as read, so nothing it writes lies in this buffer.
            (Buffer::Float(cells), place) => unsafe { cells.shared(place) },
            (Buffer::Uint(_), _) => panic!("{}: tensor {} holds integers", self.requests.op, id.0),
        }
    }

    /// The elements of a float tensor that the op writes, at full capacity: once.
    #[allow(clippy::mut_from_ref)]
    pub fn write(&self, id: TensorId) -> &'a mut [S] {
        match self.granted(id, true) {
            // SAFETY: the op declares it as written, so it lies apart from all else the op touches, and this is the
            // first request.
            (Buffer::Float(cells), place) => unsafe { cells.exclusive(place) },
            (Buffer::Uint(_), _) => panic!("{}: tensor {} holds integers", self.requests.op, id.0),
        }
    }

    /// The elements of an integer tensor that the op reads, at full capacity.
    pub fn read_uint(&self, id: TensorId) -> &'a [u32] {
        match self.granted(id, false) {
            // SAFETY: as in `read`.
            (Buffer::Uint(cells), place) => unsafe { cells.shared(place) },
            (Buffer::Float(_), _) => panic!("{}: tensor {} holds floats", self.requests.op, id.0),
        }
    }

    /// The elements of an integer tensor that the op writes, at full capacity: once.
    #[allow(clippy::mut_from_ref)]
    pub fn write_uint(&self, id: TensorId) -> &'a mut [u32] {
        match self.granted(id, true) {
            // SAFETY: as in `write`.
            (Buffer::Uint(cells), place) => unsafe { cells.exclusive(place) },
            (Buffer::Float(_), _) => panic!("{}: tensor {} holds floats", self.requests.op, id.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensor_use::{Kind, accumulate, read, scratch, write};
    use super::*;

    const READ: TensorId = TensorId(0);
    const WRITTEN: TensorId = TensorId(1);
    const SUMS: TensorId = TensorId(2);
    const OWN: TensorId = TensorId(3);

    fn declared() -> Vec<TensorUse> {
        vec![
            read("input", READ, Kind::Activation, (4, 1)),
            write("output", WRITTEN, Kind::Activation, (4, 1)),
            accumulate("sums", SUMS, Kind::Exact, (4, 1)),
            scratch("partials", OWN, Kind::Exact, (4, 1)),
        ]
    }

    #[test]
    fn what_is_declared_is_granted() {
        let tensors = declared();
        let requests = Requests::new("gelu", &tensors);
        for _ in 0..3 {
            requests.grant(READ, false).unwrap();
        }
        for tensor in [WRITTEN, SUMS, OWN] {
            requests.grant(tensor, true).unwrap();
        }
    }

    #[test]
    fn what_is_not_declared_is_refused_by_name() {
        let tensors = declared();
        let requests = Requests::new("gelu", &tensors);
        let refused = |tensor, writing| requests.grant(tensor, writing).unwrap_err();
        assert_eq!(refused(TensorId(9), false), "gelu asks for tensor 9, which it does not declare");
        assert_eq!(refused(READ, true), "gelu writes `input`, which it declares as read");
        for (tensor, field) in [(WRITTEN, "output"), (SUMS, "sums"), (OWN, "partials")] {
            let expected = format!("gelu asks to read `{field}`, which it writes: one slice serves both");
            assert_eq!(refused(tensor, false), expected);
            requests.grant(tensor, true).unwrap();
            assert_eq!(refused(tensor, true), format!("gelu asks twice for `{field}`, which it writes"));
        }
    }

    /// Slices of one buffer: the ranges the placements name, and what is written is seen afterwards.
    #[test]
    fn slices_are_the_places_of_their_tensors() {
        let mut buffers =
            [Buffer::Float(Cells::from(vec![1.0f32, 2.0, 3.0])), Buffer::Uint(vec![7, 8].into())];
        let place = |buffer, offset, length| Placement { buffer, offset, length };
        let placements = [place(0, 0, 1), place(0, 1, 2), place(1, 1, 1)];
        let tensors = [
            write("output", TensorId(0), Kind::Exact, (1, 1)),
            accumulate("sums", TensorId(1), Kind::Exact, (2, 1)),
            read("ids", TensorId(2), Kind::Uint, (1, 1)),
        ];
        let values = StepValues::default();
        let all = Buffers { buffers: &buffers, placements: &placements };
        // SAFETY: the places lie apart, and in the buffers.
        let memory = unsafe { Memory::new(all, Requests::new("test", &tensors), &values) };
        let (output, sums) = (memory.write(TensorId(0)), memory.write(TensorId(1)));
        sums[1] += output[0];
        output[0] = 5.0;
        assert_eq!((memory.read_uint(TensorId(2)), memory.read_uint(TensorId(2))), (&[8][..], &[8][..]));
        let Buffer::Float(cells) = &mut buffers[0] else { unreachable!() };
        assert_eq!(cells.get_mut(), [5.0, 2.0, 4.0]);
    }

    #[test]
    #[should_panic(expected = "head.gelu asks twice for `output`")]
    fn a_second_slice_for_writing_is_refused() {
        let buffers = [Buffer::Float(Cells::from(vec![0.0f32]))];
        let placements = [Placement { buffer: 0, offset: 0, length: 1 }];
        let tensors = [write("output", TensorId(0), Kind::Exact, (1, 1))];
        let values = StepValues::default();
        let all = Buffers { buffers: &buffers, placements: &placements };
        // SAFETY: one tensor, in its buffer.
        let memory = unsafe { Memory::new(all, Requests::new("head.gelu", &tensors), &values) };
        let _first = memory.write(TensorId(0));
        let _second = memory.write(TensorId(0));
    }
}
