//! See `inazuma::fuzzing::hparams`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inazuma::fuzzing::hparams(bytes));
