//! See `inazuma::fuzzing::safetensors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::safetensors(bytes));
