//! What runs a plan, as data and in words.

use std::fmt;

use serde::Serialize;

/// An executor's device: equal ones give the same bytes, whatever the threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Identity {
    Cpu {
        /// Of the scalar it computes in.
        bits: usize,
        threads: usize,
    },
    Gpu {
        name: String,
        /// `discrete`, `integrated`, `virtual`, `software` or `other`.
        kind: &'static str,
        backend: String,
        driver: String,
    },
}

impl Identity {
    pub fn is_cpu(&self) -> bool {
        matches!(self, Identity::Cpu { .. })
    }

    /// In words, without what leaves results as they are: the number of threads.
    pub fn device(&self) -> String {
        match self {
            Identity::Cpu { bits, .. } => format!("CPU executor, f{bits}"),
            Identity::Gpu { name, kind, backend, driver } => format!("{name} ({kind}, {backend}, {driver})"),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device())?;
        match self {
            Identity::Cpu { threads: 1, .. } => f.write_str(", 1 thread"),
            Identity::Cpu { threads, .. } => write!(f, ", {threads} threads"),
            Identity::Gpu { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn threads_are_not_of_the_device() {
        let cpu = Identity::Cpu { bits: 32, threads: 3 };
        assert_eq!(
            (cpu.to_string(), cpu.device()),
            ("CPU executor, f32, 3 threads".into(), "CPU executor, f32".into())
        );
        let [name, backend, driver] = ["llvmpipe", "vulkan", "Mesa, 2 threads"].map(String::from);
        let gpu = Identity::Gpu { name, kind: "software", backend, driver };
        assert_eq!(gpu.to_string(), "llvmpipe (software, vulkan, Mesa, 2 threads)");
        assert_eq!(gpu.device(), gpu.to_string());
    }
}
