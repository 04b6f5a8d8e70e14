//! What unit tests share.

use std::path::{Path, PathBuf};

/// A file that is not the project's, below `$INAZUMA_SHARED` or `../shared` beside the repository. Where it is not
/// there, the test says `skipped` aloud.
pub fn shared(file: &str) -> Option<PathBuf> {
    let root = std::env::var_os("INAZUMA_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let path = root.join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (set INAZUMA_SHARED)", path.display());
    None
}
