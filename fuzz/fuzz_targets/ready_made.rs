//! See `inazuma::fuzzing::ready_made`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::ready_made(bytes));
