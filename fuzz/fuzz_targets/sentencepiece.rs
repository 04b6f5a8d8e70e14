//! See `inazuma::fuzzing::sentencepiece`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::sentencepiece(bytes));
