//! Data that is not ours, for tests. Without it a test says aloud that it is skipped.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder of `$INAZUMA_SHARED`, or else of `../shared` beside the repository.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("INAZUMA_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("{} is not there (set INAZUMA_SHARED)", path.display()));
    None
}

/// Says that a test, or a part of it, does not run. Not by `eprintln!`, which `cargo test` hides when the test passes.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    // A lost line of a test's output is no reason to fail.
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or("a test"));
}
