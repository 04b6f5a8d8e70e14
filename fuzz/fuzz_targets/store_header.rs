//! See `inazuma::fuzzing::store_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::store_header(bytes));
