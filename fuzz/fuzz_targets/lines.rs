//! See `inazuma::fuzzing::lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::lines(bytes));
