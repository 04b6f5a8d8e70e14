//! See `inazuma::fuzzing::set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::set(bytes));
