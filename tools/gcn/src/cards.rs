//! The cards that kernels are compiled for: what they can do, and the numbers that predictions rest on.
//!
//! Numbers are the makers' for the boost clock, but for the H100, whose peaks were measured (`inazuma bench peaks`).

use std::fmt;

use clap::ValueEnum;
use inazuma::gpu::Capabilities;

/// The cards by their names on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    RadeonVii,
    #[value(name = "rx-6800")]
    Rx6800,
    #[value(name = "rx-7900-xtx")]
    Rx7900Xtx,
    #[value(name = "rx-9070-xt")]
    Rx9070Xt,
    /// A check of the formulas, on the code of an RX 9070 XT with 32 lanes.
    H100,
    /// The four Radeons.
    All,
}

impl Name {
    pub fn cards(self) -> Vec<&'static Card> {
        match self {
            Name::RadeonVii => vec![&RADEON_VII],
            Name::Rx6800 => vec![&RX_6800],
            Name::Rx7900Xtx => vec![&RX_7900_XTX],
            Name::Rx9070Xt => vec![&RX_9070_XT],
            Name::H100 => vec![&H100],
            Name::All => vec![&RADEON_VII, &RX_6800, &RX_7900_XTX, &RX_9070_XT],
        }
    }
}

/// How a compute unit works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Four SIMDs of 16 lanes: an instruction of 64 lanes takes 4 cycles.
    Gcn,
    /// Two SIMDs of 32 lanes: an instruction of 64 lanes takes 2 cycles, of 32 lanes one.
    Rdna,
    /// Four parts of 32 lanes.
    Nvidia,
}

/// A card.
#[derive(Debug)]
pub struct Card {
    pub name: &'static str,
    /// What RADV compiles for: a value of RADV_FORCE_FAMILY.
    pub family: &'static str,
    pub architecture: Architecture,
    pub units: f64,
    /// Cycles a second.
    pub clock: f64,
    /// FLOP/s of a compute unit in a cycle by single multiply-adds in f32, and by matrix instructions (f16 · f16 → f32; 0
    /// where there are none).
    pub unit_flops: f64,
    pub unit_matrix_flops: f64,
    /// Bytes a second of memory, of which `MEMORY_SHARE` are reached by plain streams.
    pub memory: f64,
    /// Lanes of subgroups, smallest and largest, and what RADV gives our cooperative kernels.
    pub subgroup_sizes: [u32; 2],
    pub lanes: u32,
    /// Whether that size is demanded of the compiler, which would take another.
    pub demand_lanes: bool,
}

pub static RADEON_VII: Card = Card {
    name: "Radeon VII",
    family: "vega20",
    architecture: Architecture::Gcn,
    units: 60.0,
    clock: 1.745e9,
    unit_flops: 128.0,
    unit_matrix_flops: 0.0,
    memory: 1.0e12,
    subgroup_sizes: [64, 64],
    lanes: 64,
    demand_lanes: false,
};

pub static RX_6800: Card = Card {
    name: "RX 6800",
    family: "navi21",
    architecture: Architecture::Rdna,
    units: 60.0,
    clock: 2.105e9,
    unit_flops: 128.0,
    unit_matrix_flops: 0.0,
    memory: 512e9,
    subgroup_sizes: [32, 64],
    lanes: 64,
    demand_lanes: false,
};

pub static RX_7900_XTX: Card = Card {
    name: "RX 7900 XTX",
    family: "navi31",
    architecture: Architecture::Rdna,
    units: 96.0,
    clock: 2.5e9,
    unit_flops: 128.0,
    unit_matrix_flops: 512.0,
    memory: 960e9,
    subgroup_sizes: [32, 64],
    lanes: 64,
    demand_lanes: false,
};

pub static RX_9070_XT: Card = Card {
    name: "RX 9070 XT",
    family: "gfx1201",
    architecture: Architecture::Rdna,
    units: 64.0,
    clock: 2.97e9,
    unit_flops: 128.0,
    unit_matrix_flops: 1024.0,
    memory: 640e9,
    subgroup_sizes: [32, 64],
    lanes: 64,
    demand_lanes: false,
};

/// Of 132 units and 61 TFLOP/s measured, the clock; 2.5 TB/s measured stand for `MEMORY_SHARE` of what this says. Of the
/// tensor rate, half is within reach without the instructions of whole warp groups, which Vulkan does not have.
pub static H100: Card = Card {
    name: "H100",
    family: "gfx1201",
    architecture: Architecture::Nvidia,
    units: 132.0,
    clock: 1.805e9,
    unit_flops: 256.0,
    unit_matrix_flops: 2048.0,
    memory: 3.18e12,
    subgroup_sizes: [32, 32],
    lanes: 32,
    demand_lanes: true,
};

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Card {
    /// FLOP/s of multiply-adds in f32, one an instruction.
    pub fn peak(&self) -> f64 {
        self.units * self.unit_flops * self.clock
    }

    /// FLOP/s of matrix instructions.
    pub fn matrix_peak(&self) -> f64 {
        self.units * self.unit_matrix_flops * self.clock
    }

    /// SIMDs of a unit.
    pub fn simds(&self) -> f64 {
        if self.architecture == Architecture::Rdna { 2.0 } else { 4.0 }
    }

    /// Lanes that a SIMD computes at once.
    pub fn width(&self) -> f64 {
        if self.architecture == Architecture::Gcn { 16.0 } else { 32.0 }
    }

    /// Cycles in which a SIMD issues one instruction of a wave of so many lanes.
    pub fn issue_cycles(&self, lanes: f64) -> f64 {
        lanes / self.width()
    }

    /// Whether code of this chip may be that of this device.
    pub fn is_device(&self, device_name: &str) -> bool {
        device_name.to_lowercase().contains(self.family)
    }

    /// The card as wgpu sees it, RADV being the driver.
    pub fn capabilities(&self) -> Capabilities {
        let cooperative = if self.unit_matrix_flops > 0.0 { vec![16] } else { Vec::new() };
        Capabilities {
            name: self.name.into(),
            driver: "radv".into(),
            kind: "discrete",
            subgroups: true,
            subgroup_barriers: true,
            subgroup_sizes: self.subgroup_sizes,
            probed_lanes: Some(self.lanes),
            half: true,
            cooperative,
            timestamps: true,
            workgroup_memory: if self.architecture == Architecture::Nvidia { 48 << 10 } else { 64 << 10 },
            invocations: 1024,
            storage_buffers: 1 << 20,
            binding_bytes: (4 << 30) - 4,
            buffer_bytes: 2 << 30,
            ..Capabilities::baseline()
        }
    }
}
