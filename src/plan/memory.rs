//! Memory of a device, where it says how much it has.

/// Bytes of memory that a device computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All there is.
    pub total: u64,
    /// What this process could have of it now.
    pub free: u64,
}

impl DeviceMemory {
    /// Memory that nobody else uses.
    pub fn unused(total: u64) -> Self {
        DeviceMemory { total, free: total }
    }
}
