//! A `pytorch_model.bin` of any bytes gives tensors or an error.
#![no_main]

use inazuma::interop::torch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| drop(torch::read_all(bytes)));
