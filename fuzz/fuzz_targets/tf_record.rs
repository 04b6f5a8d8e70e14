//! See `inazuma::fuzzing::tf_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::tf_record(bytes));
