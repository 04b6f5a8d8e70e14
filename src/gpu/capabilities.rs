//! What an adapter can do, as plain data, and which one a choice means: known without a GPU, and in builds without the
//! feature `gpu`.

use anyhow::{Context, Result, bail};

use crate::plan::DeviceMemory;

/// Bytes of `var<immediate>` every kernel may use.
pub const IMMEDIATE_BYTES: u32 = 128;

/// What an adapter is and can do, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub name: String,
    /// Name and version of the driver.
    pub driver: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Runs on the processor (lavapipe, WARP): used only when asked for.
    pub software: bool,
    pub immediates: bool,
    pub subgroups: bool,
    pub subgroup_barriers: bool,
    pub subgroup_sizes: [u32; 2],
    /// Where these differ: the size that kernels on cooperative matrices get, as found when the device was opened.
    pub probed_lanes: Option<u32>,
    pub half: bool,
    /// Sizes of cooperative matrices that multiply f16 and sum in f32.
    pub cooperative: Vec<u32>,
    pub timestamps: bool,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    pub invocations: u32,
    pub storage_buffers: u32,
    /// Workgroups in one dimension of a dispatch.
    pub workgroups: u32,
    /// Bytes a storage binding may cover, and bytes of one buffer.
    pub binding_bytes: u64,
    pub buffer_bytes: u64,
    /// When the adapter was found; nothing where the driver does not say.
    pub memory: Option<DeviceMemory>,
}

impl Capabilities {
    /// What WebGPU guarantees everywhere: for tests of the selector.
    pub fn baseline() -> Self {
        Capabilities {
            name: "baseline".into(),
            driver: String::new(),
            backend: "vulkan".into(),
            kind: "other",
            software: false,
            immediates: true,
            subgroups: false,
            subgroup_barriers: false,
            subgroup_sizes: [4, 128],
            probed_lanes: None,
            half: false,
            cooperative: Vec::new(),
            timestamps: false,
            workgroup_memory: 16 << 10,
            invocations: 256,
            storage_buffers: 8,
            workgroups: 65_535,
            binding_bytes: 128 << 20,
            buffer_bytes: 256 << 20,
            memory: None,
        }
    }

    /// What discrete GPUs have through Vulkan: for what is said of a GPU where none is asked for.
    pub fn desktop() -> Self {
        Capabilities {
            half: true,
            workgroup_memory: 32 << 10,
            storage_buffers: 1 << 16,
            binding_bytes: 2 << 30,
            buffer_bytes: 2 << 30,
            ..Self::baseline()
        }
    }

    /// What is left for a plan without f16.
    pub fn without_half(&self) -> Self {
        Capabilities { half: false, cooperative: Vec::new(), ..self.clone() }
    }

    /// Lanes of a subgroup in kernels on cooperative matrices, where they are known.
    pub fn lanes(&self) -> Option<u32> {
        let [smallest, largest] = self.subgroup_sizes;
        if smallest == largest { Some(smallest) } else { self.probed_lanes }
    }

    /// How promising the kind of adapter is: lower is faster.
    fn rank(&self) -> u32 {
        match self.kind {
            "discrete" => 0,
            "integrated" => 1,
            "virtual" => 2,
            "other" => 3,
            _ => 4,
        }
    }
}

/// The fastest hardware adapter that can run our kernels, by its index.
pub fn best_hardware(adapters: &[Capabilities]) -> Option<usize> {
    hardware(adapters, 0)
}

/// The hardware adapter with this number when they are sorted, the fastest first; begun again where there are fewer.
pub fn hardware(adapters: &[Capabilities], number: usize) -> Option<usize> {
    let usable = |c: &Capabilities| c.immediates && !c.software;
    let mut all: Vec<usize> = (0..adapters.len()).filter(|&n| usable(&adapters[n])).collect();
    all.sort_by_key(|&n| adapters[n].rank());
    all.get(number % all.len().max(1)).copied()
}

/// The adapter of `--device gpu`: hardware, else the only one there is.
pub fn any_gpu(adapters: &[Capabilities]) -> Result<usize> {
    match (best_hardware(adapters), adapters) {
        (Some(index), _) => Ok(index),
        (None, [only]) if only.immediates => Ok(0),
        (None, []) => bail!("no GPU found: install a Vulkan driver, or use --device cpu"),
        (None, _) => bail!("no hardware GPU found; choose an adapter by gpu:N (see inazuma devices)"),
    }
}

/// The first adapter with `part` in its name, whatever the case; hardware before software.
pub fn by_name(adapters: &[Capabilities], part: &str) -> Result<usize> {
    let part = part.to_lowercase();
    let named =
        |c: &Capabilities| c.name.to_lowercase().contains(&part) || c.driver.to_lowercase().contains(&part);
    let found = (0..adapters.len()).filter(|&n| named(&adapters[n])).min_by_key(|&n| adapters[n].rank());
    found.with_context(|| {
        let names: Vec<&str> = adapters.iter().map(|c| c.name.as_str()).collect();
        let known = if names.is_empty() { "no adapters".to_owned() } else { names.join(", ") };
        format!("no adapter is called \"{part}\" (found: {known}); auto, cpu, gpu and gpu:N also work")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: &'static str) -> Capabilities {
        Capabilities { name: name.into(), kind, software: kind == "software", ..Capabilities::baseline() }
    }

    #[test]
    fn hardware_first_and_software_only_when_asked_for() {
        let lavapipe = adapter("llvmpipe (LLVM 15.0.6, 256 bits)", "software");
        let [small, large] = [adapter("Graphics 620", "integrated"), adapter("Radeon VII", "discrete")];
        let all = [lavapipe.clone(), small.clone(), large];
        assert_eq!(best_hardware(&all), Some(2));
        assert_eq!(any_gpu(&all).unwrap(), 2);
        assert_eq!(by_name(&all, "LLVMpipe").unwrap(), 0);
        assert_eq!(by_name(&all, "graphics").unwrap(), 1);
        assert!(by_name(&all, "geforce").unwrap_err().to_string().contains("Radeon VII"));
        assert_eq!(best_hardware(std::slice::from_ref(&lavapipe)), None);
        assert_eq!(any_gpu(std::slice::from_ref(&lavapipe)).unwrap(), 0);
        assert!(any_gpu(&[lavapipe.clone(), lavapipe]).is_err());
        assert!(any_gpu(&[]).is_err());
        let old = Capabilities { immediates: false, ..small };
        assert_eq!(best_hardware(&[old]), None);
    }
}
