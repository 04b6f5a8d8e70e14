//! The C interface of `shim.cpp`, and safe functions over it: with `trainer` the only unsafe code of the tokenizer.

use std::ffi::{c_char, c_int, c_void};

use anyhow::{Result, anyhow};
// Links libsentencepiece, which this crate builds and `inazuma_shim` calls.
use sentencepiece_sys as _;

#[repr(C)]
struct RawProcessor {
    _opaque: [u8; 0],
}

pub(super) type BytesSink = extern "C" fn(*mut c_void, *const c_char, usize);
type IdsSink = extern "C" fn(*mut c_void, *const i32, usize);
type PieceSink = extern "C" fn(*mut c_void, u32, usize, usize);
type Encode =
    unsafe extern "C" fn(*const RawProcessor, *const c_char, usize, IdsSink, BytesSink, *mut c_void) -> c_int;

// Linked by build.rs; after it comes the trainer (`trainer`), and sentencepiece-sys brings the rest.
unsafe extern "C" {
    fn inazuma_spm_load(
        model: *const c_char,
        length: usize,
        error: BytesSink,
        context: *mut c_void,
    ) -> *mut RawProcessor;
    fn inazuma_spm_free(processor: *mut RawProcessor);
    fn inazuma_spm_size(processor: *const RawProcessor) -> usize;
    fn inazuma_spm_piece_to_id(processor: *const RawProcessor, piece: *const c_char, length: usize) -> i64;
    fn inazuma_spm_is_control(processor: *const RawProcessor, id: usize) -> bool;
    fn inazuma_spm_unknown(processor: *const RawProcessor) -> c_int;
    fn inazuma_spm_encode(
        processor: *const RawProcessor,
        text: *const c_char,
        length: usize,
        sink: IdsSink,
        error: BytesSink,
        context: *mut c_void,
    ) -> c_int;
    fn inazuma_spm_encode_ids(
        processor: *const RawProcessor,
        text: *const c_char,
        length: usize,
        sink: IdsSink,
        error: BytesSink,
        context: *mut c_void,
    ) -> c_int;
    fn inazuma_spm_encode_offsets(
        processor: *const RawProcessor,
        text: *const c_char,
        length: usize,
        sink: PieceSink,
        error: BytesSink,
        context: *mut c_void,
    ) -> c_int;
}

/// What the sinks of one call fill. Each sink gets a pointer to it and does nothing but append.
#[derive(Default)]
struct Received<'a, T> {
    error: Vec<u8>,
    values: Option<&'a mut Vec<T>>,
}

/// SAFETY of the sinks: the shim calls them on the caller's thread, before it returns, with the context it was
/// given and a slice that is valid during the call. They cannot unwind but for want of memory, which aborts.
extern "C" fn take_error<T>(context: *mut c_void, data: *const c_char, length: usize) {
    let received = unsafe { &mut *context.cast::<Received<T>>() };
    received.error.extend_from_slice(unsafe { slice(data.cast(), length) });
}

extern "C" fn take_ids(context: *mut c_void, ids: *const i32, length: usize) {
    let received = unsafe { &mut *context.cast::<Received<u32>>() };
    if let Some(values) = &mut received.values {
        values.extend(unsafe { slice(ids, length) }.iter().map(|&id| id as u32));
    }
}

extern "C" fn take_piece(context: *mut c_void, id: u32, begin: usize, end: usize) {
    let received = unsafe { &mut *context.cast::<Received<(u32, usize, usize)>>() };
    if let Some(values) = &mut received.values {
        values.push((id, begin, end));
    }
}

pub(super) unsafe fn slice<'a, T>(data: *const T, length: usize) -> &'a [T] {
    if length == 0 || data.is_null() {
        return &[];
    }
    unsafe { std::slice::from_raw_parts(data, length) }
}

pub(super) fn message(error: Vec<u8>) -> anyhow::Error {
    anyhow!("{}", String::from_utf8_lossy(&error).trim().replace('\n', " "))
}

/// A loaded model.
pub struct Processor {
    raw: *mut RawProcessor,
}

// SAFETY: the shim calls only const methods of SentencePieceProcessor once it is loaded, which its authors
// document as safe from several threads; the scratch vector is thread-local.
unsafe impl Send for Processor {}
unsafe impl Sync for Processor {}

impl Drop for Processor {
    fn drop(&mut self) {
        // SAFETY: `raw` came from inazuma_spm_load and is freed once.
        unsafe { inazuma_spm_free(self.raw) }
    }
}

impl Processor {
    pub fn load(model: &[u8]) -> Result<Processor> {
        let mut received = Received::<u32>::default();
        let context = (&raw mut received).cast();
        // SAFETY: the slice is valid, the context outlives the call.
        let raw = unsafe { inazuma_spm_load(model.as_ptr().cast(), model.len(), take_error::<u32>, context) };
        if raw.is_null() {
            return Err(message(received.error));
        }
        Ok(Processor { raw })
    }

    pub fn size(&self) -> usize {
        // SAFETY: `raw` is a loaded processor, here and below.
        unsafe { inazuma_spm_size(self.raw) }
    }

    pub fn id_of(&self, piece: &str) -> Option<u32> {
        let id = unsafe { inazuma_spm_piece_to_id(self.raw, piece.as_ptr().cast(), piece.len()) };
        u32::try_from(id).ok()
    }

    pub fn is_control(&self, id: u32) -> bool {
        unsafe { inazuma_spm_is_control(self.raw, id as usize) }
    }

    pub fn unknown(&self) -> u32 {
        unsafe { inazuma_spm_unknown(self.raw) as u32 }
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        self.encode_through(inazuma_spm_encode, text, out)
    }

    /// The same through the library's own id-only call, which is slower: for measurements.
    pub fn encode_as_the_library(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        self.encode_through(inazuma_spm_encode_ids, text, out)
    }

    fn encode_through(&self, encode: Encode, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut received = Received { error: Vec::new(), values: Some(out) };
        let context = (&raw mut received).cast();
        // SAFETY: the text is valid during the call, the context outlives it.
        let failed = unsafe {
            encode(self.raw, text.as_ptr().cast(), text.len(), take_ids, take_error::<u32>, context)
        };
        match failed {
            0 => Ok(()),
            _ => Err(message(received.error)),
        }
    }

    /// Appends (id, begin, end) of every piece, in bytes of `text`.
    pub fn encode_offsets(&self, text: &str, out: &mut Vec<(u32, usize, usize)>) -> Result<()> {
        let mut received = Received { error: Vec::new(), values: Some(out) };
        let context = (&raw mut received).cast();
        let failed = unsafe {
            inazuma_spm_encode_offsets(
                self.raw,
                text.as_ptr().cast(),
                text.len(),
                take_piece,
                take_error::<(u32, usize, usize)>,
                context,
            )
        };
        match failed {
            0 => Ok(()),
            _ => Err(message(received.error)),
        }
    }
}
