//! A token store of any bytes is opened, or refused with an error.
#![no_main]

use std::io::Write;

use inazuma::store::Store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_ok() && file.flush().is_ok() {
        let _ = Store::open(file.path());
    }
});
