//! What a device that worked may fail with.

/// The device is gone: reset by its driver, unplugged, or destroyed. Another one may be opened in its place.
#[derive(Debug)]
pub struct DeviceLost(pub(super) String);

impl std::fmt::Display for DeviceLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DeviceLost {}

/// The device, or its driver, had no memory left for what it was asked to do. It may have some again later.
#[derive(Debug)]
pub struct OutOfMemory(pub(super) String);

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfMemory {}
