//! The part of `shim.cpp` that trains, and a safe function over it.

use std::ffi::{c_char, c_int, c_void};

use anyhow::Result;

use super::ffi::{BytesSink, message, slice};

type NextSentence = extern "C" fn(*mut c_void, *mut *const c_char, *mut usize) -> bool;

// The shim itself is linked by build.rs; after it comes the trainer, and sentencepiece-sys brings the rest.
#[link(name = "sentencepiece_train", kind = "static")]
unsafe extern "C" {
    fn inazuma_spm_train(
        options: *const c_char,
        options_length: usize,
        seed: u32,
        log_sink: BytesSink,
        log_context: *mut c_void,
        next: NextSentence,
        next_context: *mut c_void,
        model_sink: BytesSink,
        model_context: *mut c_void,
        vocab_sink: BytesSink,
        vocab_context: *mut c_void,
        error: BytesSink,
        error_context: *mut c_void,
    ) -> c_int;
}

/// SAFETY: as for the sinks of `ffi`.
extern "C" fn take_bytes(context: *mut c_void, data: *const c_char, length: usize) {
    let bytes = unsafe { &mut *context.cast::<Vec<u8>>() };
    bytes.extend_from_slice(unsafe { slice(data.cast(), length) });
}

/// The sentences of a training, and the one that C++ is looking at.
struct Pulled<'a> {
    sentences: &'a mut dyn Iterator<Item = String>,
    current: String,
}

extern "C" fn next_sentence(context: *mut c_void, data: *mut *const c_char, length: *mut usize) -> bool {
    // SAFETY: as for the sinks; `current` lives until the next call, and the shim copies it at once.
    let pulled = unsafe { &mut *context.cast::<Pulled>() };
    let Some(sentence) = pulled.sentences.next() else {
        return false;
    };
    pulled.current = sentence;
    unsafe {
        *data = pulled.current.as_ptr().cast();
        *length = pulled.current.len();
    }
    true
}

/// A trained model: the bytes of `.model` and of `.vocab`.
pub struct Trained {
    pub model: Vec<u8>,
    pub vocab: Vec<u8>,
}

type LogLine<'a> = &'a mut (dyn FnMut(&str) + Send);

/// SAFETY: the shim calls it under a lock, from any of its threads, before the training returns; what it calls is Send.
extern "C" fn take_log_line(context: *mut c_void, data: *const c_char, length: usize) {
    let take = unsafe { &mut *context.cast::<LogLine>() };
    take(&String::from_utf8_lossy(unsafe { slice(data.cast(), length) }));
}

/// Trains with SentencePiece's own trainer. `options`: "name=value", one a line; `log` gets the lines of its log.
///
/// One training at a time: SentencePiece's log and seed belong to the process.
pub fn train(
    options: &str,
    seed: u32,
    sentences: &mut dyn Iterator<Item = String>,
    mut log: LogLine,
) -> Result<Trained> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut pulled = Pulled { sentences, current: String::new() };
    let (mut model, mut vocab, mut error) = (Vec::<u8>::new(), Vec::<u8>::new(), Vec::<u8>::new());
    // SAFETY: every context outlives the call and is of the type its callback expects.
    let failed = unsafe {
        inazuma_spm_train(
            options.as_ptr().cast(),
            options.len(),
            seed,
            take_log_line,
            (&raw mut log).cast(),
            next_sentence,
            (&raw mut pulled).cast(),
            take_bytes,
            (&raw mut model).cast(),
            take_bytes,
            (&raw mut vocab).cast(),
            take_bytes,
            (&raw mut error).cast(),
        )
    };
    match failed {
        0 => Ok(Trained { model, vocab }),
        _ => Err(message(error)),
    }
}
