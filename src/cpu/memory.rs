//! Memory of this machine, as far as Linux tells; other systems are not asked.

use std::fs::read_to_string;

use crate::plan::DeviceMemory;

/// What the processor computes in: the machine's memory, or what a control group leaves of it.
pub fn memory() -> Option<DeviceMemory> {
    let machine = parse(&read_to_string("/proc/meminfo").ok()?)?;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let limit = limit.unwrap_or(u64::MAX);
    Some(DeviceMemory { total: machine.total.min(limit), free: machine.free.min(limit) })
}

/// Of `/proc/meminfo`, which counts in 1,024 bytes.
fn parse(text: &str) -> Option<DeviceMemory> {
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some(DeviceMemory { total: bytes("MemTotal")?, free: bytes("MemAvailable")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24689764 kB\nMemFree:         4689764 kB\nMemAvailable:   22000000 kB\n";
        let expected = DeviceMemory { total: 24_689_764 << 10, free: 22_000_000 << 10 };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("MemTotal: 1 kB\n"), None);
        assert_eq!(parse("MemTotal: many kB\nMemAvailable: 1 kB\n"), None);
    }
}
