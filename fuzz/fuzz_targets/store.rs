//! See `inazuma::fuzzing::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::store(bytes));
