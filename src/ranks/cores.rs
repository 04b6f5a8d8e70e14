//! How many threads a process has where several are on one machine.

use std::fs;

use crate::files::cores;

use super::Ranks;

impl Ranks {
    /// Threads of this process where the user names no number: its part of the machine's cores, or all that its launcher
    /// has bound it to.
    pub fn threads(&self) -> usize {
        let (_, processes) = self.local();
        if processes == 1 || is_bound() { cores() } else { (cores() / processes).max(1) }
    }
}

/// Whether this process may run on some cores of the machine only. Elsewhere than on Linux nobody tells.
fn is_bound() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).and_then(listed);
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| listed(&list));
    matches!((allowed, online), (Some(allowed), Some(online)) if allowed < online)
}

/// How many there are in a list such as `0-3,8`.
fn listed(list: &str) -> Option<usize> {
    let count = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.trim().split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        for (list, count) in
            [("0-3,8\n", Some(5)), ("0", Some(1)), (" 0-1", Some(2)), ("", None), ("3-1", None)]
        {
            assert_eq!(listed(list), count, "{list}");
        }
        assert!(Ranks::default().threads() >= 1);
    }
}
