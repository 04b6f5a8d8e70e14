//! The index of a TensorFlow checkpoint of any bytes gives variables or an error.
#![no_main]

use inazuma::interop::tensorflow;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| drop(tensorflow::read_index(bytes)));
