//! Which kernels have been compared with the processor on this machine: kept beside what was tuned.

use std::fs;

use anyhow::{Context, Result};

use super::Capabilities;
use super::tuning::{file, write};

/// Where this program stands for something: its own bytes, and the kernels.
fn key(kernels: &[u8]) -> Option<String> {
    // Shaders from elsewhere may change at any time.
    if std::env::var_os("INAZUMA_SHADERS").is_some() {
        return None;
    }
    let program = fs::read(std::env::current_exe().ok()?).ok()?;
    Some(format!("{:08x} {:08x}", crc32fast::hash(&program), crc32fast::hash(kernels)))
}

fn known(capabilities: &Capabilities) -> String {
    // What cannot be read is not known.
    file(capabilities, "checked").ok().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
}

/// Whether this program has compared these kernels, with their shapes, on this device and driver.
pub fn is_checked(capabilities: &Capabilities, kernels: &[u8]) -> bool {
    key(kernels).is_some_and(|key| known(capabilities).lines().any(|line| line == key))
}

/// Remembers that it has.
pub fn remember(capabilities: &Capabilities, kernels: &[u8]) -> Result<()> {
    let Some(key) = key(kernels) else { return Ok(()) };
    let path = file(capabilities, "checked")?;
    write(&path, format!("{}{key}\n", known(capabilities)).as_bytes())
        .with_context(|| format!("what was tested cannot be kept in {}", path.display()))
}
