//! See `inazuma::fuzzing::data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::data(bytes));
